"""The stages of a run that XR-Transformer and XR-Linear share: work directory, data, features, trees, ranker.

Every stage writes its result to the work directory, whole or not at all, and takes it from there the next time.
"""

import importlib.metadata
import platform
import secrets
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict
from scipy.sparse import csr_matrix, vstack
from tqdm import tqdm

from xrt_jax.config import differences, to_json
from xrt_jax.data.docstrings import build_docstring_dataset
from xrt_jax.data.folders import Dataset, Split, load_dataset, load_features
from xrt_jax.data.label_texts import add_label_texts, documents, read_label_texts
from xrt_jax.data.tfidf import Tfidf, fit_tfidf, load_tfidf, save_tfidf, transform
from xrt_jax.disk import clear_unfinished, fingerprint, read_json, replace_file, write_json
from xrt_jax.ensemble import check_method
from xrt_jax.npz import load_npz, save_npz
from xrt_jax.processes import are_several, from_each, from_first, is_first
from xrt_jax.report import Report, format_bytes, peak_memory, progress
from xrt_jax.report_html import write_report
from xrt_jax.sharing import share, shared_folder
from xrt_jax.sparse import Features, as_features, nr_rows
from xrt_jax.tree.chain import load_chain, matching_chain, save_chain, tree_sizes
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.label_embedding import METHODS, tree_embeddings
from xrt_jax.xlinear.compiled import load_kernels
from xrt_jax.xlinear.estimate import Estimate
from xrt_jax.xlinear.folder import load_ranker
from xrt_jax.xlinear.predict import predict
from xrt_jax.xlinear.train import Sharing, check_settings, train_to_folder

TEST_RANKING = "predictions.tst.npz"  # of a ranker, beside it
# All that is in the work directory of a run that ended in an error before its first result, a wrong path, say.
WITHOUT_RESULT = {"config.json", "metrics.jsonl", "error.txt"}


def open_workdir(config: ConfigDict, workdir: Path) -> Path:
    """Creates the work directory or takes up an earlier run in it; ValueError if that run had another config.

    A run that ended in an error before it had a result does not count.
    """
    new, path = to_json(config), workdir / "config.json"
    left = {entry.name for entry in workdir.iterdir()} if path.exists() else set()
    if "error.txt" in left and left <= WITHOUT_RESULT:
        for name in left:
            (workdir / name).unlink()
    if path.exists():
        changed = differences(read_json(path), new)
        if changed:
            raise ValueError(
                f"{workdir} belongs to a run with another config ({'; '.join(changed)}): use another --workdir"
            )
        clear_unfinished(workdir)
    elif workdir.is_dir() and any(workdir.iterdir()):
        raise ValueError(f"{workdir} is not empty and no work directory: use another --workdir")
    write_json(path, new)
    return workdir


def open_together(config: ConfigDict, workdir: Path) -> Path:
    """open_workdir by the first process; ValueError unless all see it and have the same config and software."""
    token = secrets.token_hex(8)
    if is_first():
        open_workdir(config, workdir)
    if not are_several():
        return workdir
    path = workdir / "processes.token"
    if is_first():
        with replace_file(path) as tmp:
            tmp.write_text(token)
    token = from_first(token)
    sees = path.is_file() and path.read_text() == token
    about = {"host": socket.gethostname(), "sees": sees, "config": to_json(config), "software": software()}
    of_all = from_each(about)
    if is_first():
        path.unlink()
    for number, other in enumerate(of_all):
        who, first = f"process {number} on {other['host']}", f"the first one on {of_all[0]['host']}"
        if not other["sees"]:
            raise ValueError(f"{who} does not see the work directory {workdir} of {first}: all of them must share it")
        for key, remedy in (("config", "start all with one command"), ("software", "install the same everywhere")):
            changed = differences(of_all[0][key], other[key])
            if changed:
                raise ValueError(f"{who} has another {key} than {first} ({'; '.join(changed)}): {remedy}")
    return workdir


def software() -> dict[str, str | int]:
    """What the bits of a model depend on: versions, and a checksum of this package's source."""
    package = Path(__file__).parent
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "numba")}
    source = fingerprint(*(path.read_bytes() for path in sorted(package.rglob("*.py"))))
    return {"xrt_jax": source, "python": platform.python_version(), **versions}


def load_data(config: ConfigDict, workdir: Path) -> Dataset:
    """The data set of config.data.dir, or the embedded corpus; with a test split if config.data.has_test."""
    folder = config.data.dir or build_docstring_dataset(
        workdir / "data",
        sources=list(config.docstrings.sources) or None,
        nr_documents=config.docstrings.nr_documents,
        seed=config.seed,
    )
    dataset = load_dataset(
        folder,
        trn_rows=config.data.trn_rows or None,
        tst_rows=config.data.tst_rows or None,
        dev_size=config.data.dev_size,
        normalize=config.data.normalize,
        relevance=config.data.relevance or None,
        matches=config.data.matches or None,
    )
    if config.data.label_texts:
        texts = read_label_texts(folder, config.data.label_texts, dataset)
        dataset = add_label_texts(dataset, texts, copies=config.data.label_text_copies)
    if not config.data.has_test:
        dataset = dataset._replace(tst=None)
    elif dataset.tst is None:
        raise ValueError(
            f"{folder} has no test split: add Y.tst.npz and X.tst.txt (or .npz, .npy), or set data.has_test to False"
        )
    Z = load_label_features(config)
    for name in ("preliminary_tree", "refined_tree"):
        for key in ("embedding", "meta_embedding") if name in config else ():
            method = config[name][key] or config[name].embedding
            check_embedding(f"{name}.{key}", method, Z, dataset.trn.Y.shape[1])
    return dataset


def check_embedding(key: str, method: str, Z, nr_labels: int) -> None:
    """ValueError naming the field `key` if labels cannot be embedded by this method with label features Z or None."""
    if method not in METHODS:
        raise ValueError(f"{key} is {method!r}: choose one of {', '.join(METHODS)}")
    if method.startswith("pifa_lf") and (Z is None or nr_rows(Z) != nr_labels):
        found = "none are given" if Z is None else f"there are {nr_rows(Z)}"
        raise ValueError(f"{key}={method} needs data.label_features with {nr_labels} rows, one a label: {found}")


def load_label_features(config: ConfigDict):
    """Label features, csr or ndarray [L, e], of data.label_features, a path that counts from data.dir; or None."""
    if not config.data.label_features:
        return None
    path = Path(config.data.dir) / config.data.label_features
    if path.suffix not in (".npz", ".npy") or not path.is_file():
        raise FileNotFoundError(f"data.label_features: there is no file {path} (.npz or .npy)")
    return load_features(path)


def require_texts(dataset: Dataset, folder: str) -> None:
    """ValueError if the data set has features only."""
    if dataset.trn.texts is None:
        raise ValueError(f"{folder} has no X.trn.txt (or .gz, .xz): XR-Transformer needs the texts")


def load_clusters(config: ConfigDict, tree: str, nr_labels: int):
    """The cluster chain of data.clusters, a path that counts from data.dir; or None.

    It stands for the tree config[tree], which says how levels are built above a lone leaf matrix.
    """
    if not config.data.clusters:
        return None
    path = Path(config.data.dir) / config.data.clusters
    chain = load_chain(path, nr_splits=config[tree].nr_splits, min_codes=config[tree].min_codes)
    if chain[-1].shape[0] != nr_labels:
        raise ValueError(f"data.clusters: {path} is a tree of {chain[-1].shape[0]} labels, Y has {nr_labels}")
    return chain


def tree_levels(config: ConfigDict, tree: str, nr_labels: int, *, can_be_given: bool = True) -> list[int]:
    """Number of nodes of every level of the tree config[tree], or of data.clusters where that may stand for it."""
    chain = load_clusters(config, tree, nr_labels) if can_be_given else None
    if chain:
        return [C.shape[0] for C in chain]
    settings = {key: config[tree][key] for key in ("nr_splits", "min_codes", "max_leaf_size")}
    return tree_sizes(nr_labels, **settings)


def match_height(matches: csr_matrix, levels: list[int]) -> int:
    """How far above the labels the columns of data.matches are: 0 for labels, 1 for leaf clusters; or ValueError."""
    nr_leaves = levels[-2] if len(levels) > 1 else 1
    if matches.shape[1] not in (levels[-1], nr_leaves):
        raise ValueError(
            f"data.matches has {matches.shape[1]} columns: it needs one for each of {levels[-1]} labels or of "
            f"{nr_leaves} leaf clusters"
        )
    return 0 if matches.shape[1] == levels[-1] else 1


def ranker_levels(config: ConfigDict, trn: Split) -> list[int]:
    """Sizes of the levels of the ranker's tree; ValueError for settings that do not fit it or have no effect."""
    is_preliminary = config.get("fix_clustering", False)
    tree = "preliminary_tree" if is_preliminary else "refined_tree"
    can_be_given = is_preliminary or config.method == "xr_linear"
    levels = tree_levels(config, tree, trn.Y.shape[1], can_be_given=can_be_given)
    check_settings(len(levels), matching=trn.matches, **config.ranker)
    check_method(config.ensemble)
    for key, value in config.distributed.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"distributed.{key} is {value}: it must be above 0")
    if trn.matches is not None:
        match_height(trn.matches, levels)
        if not any("usn" in scheme for scheme in config.ranker.negative_sampling):
            raise ValueError("data.matches has no effect: put usn into ranker.negative_sampling, such as usn+tfn")
    if trn.relevance is not None and config.ranker.rel_mode == "disable":
        raise ValueError("data.relevance has no effect: set ranker.rel_mode to induce or ranker-only")
    return levels


def make_features(config: ConfigDict, dataset: Dataset, workdir: Path):
    """(tfidf or None, X_trn, X_tst): the data set's own features, or TF-IDF fitted on the training texts.

    X_tst is None without a test split.
    """
    if dataset.trn.X is not None:
        return None, dataset.trn.X, dataset.tst and dataset.tst.X
    folder = workdir / "tfidf"
    if folder.is_dir() and (workdir / "X.trn.npz").exists():
        tfidf, X_trn = load_tfidf(folder), load_npz(workdir / "X.trn.npz")
    else:
        tfidf, X_trn = fit_features(dataset, config.tfidf)
        save_tfidf(folder, tfidf)
        save_npz(workdir / "X.trn.npz", X_trn)
    return tfidf, X_trn, dataset.tst and features_of(dataset.tst, tfidf)


def fit_features(dataset: Dataset, settings: Mapping) -> tuple[Tfidf, csr_matrix]:
    """(tfidf, features of all training texts): what is frequent the documents tell, without the texts of labels."""
    tfidf, X = fit_tfidf(documents(dataset).texts, **settings)
    of_labels = dataset.trn.texts[X.shape[0] :]
    return tfidf, vstack([X, transform(tfidf, of_labels)], format="csr") if of_labels else X


def features_of(split: Split, tfidf):
    """Features of a split: its own, or TF-IDF of its texts."""
    return split.X if tfidf is None else transform(tfidf, split.texts)


def build_tree(config: ConfigDict, name: str, folder: Path, X, Y: csr_matrix, shared: Path | None = None):
    """Hierarchical label tree by balanced k-means on label embeddings, with the settings config[name].

    shared: shared_folder of several processes (sharing.py), which all call this; Y is read in the first one only.
    """
    together = shared is not None
    if not (from_first(folder.is_dir()) if together else folder.is_dir()):
        tree, work = config[name], folder.with_name(f"{folder.name}.parts")
        methods = {"embedding": tree.embedding}
        if tree.meta_embedding not in ("", tree.embedding):
            methods["top"] = tree.meta_embedding
        Z = load_label_features(config)
        embeddings = {
            key: tree_embeddings(method, Y, X, Z=Z, alpha=tree.alpha, folder=shared) for key, method in methods.items()
        }
        if together and is_first():
            work.mkdir(parents=True, exist_ok=True)
        chain = hierarchical_kmeans(
            embeddings["embedding"],
            top=embeddings.get("top"),
            nr_subtrees=config.distributed.min_n_sub_tree,
            **{key: value for key, value in tree.items() if key not in ("embedding", "meta_embedding", "alpha")},
            seed=config.seed,
            folder=shared,
            work=work,
            progress=progress,
        )
        if together:
            from_each()  # all have read what is in `work`
        if not together or is_first():
            save_chain(folder, chain)
            shutil.rmtree(work, ignore_errors=True)
        if together:
            from_first()
    return load_chain(folder)


def rank(config: ConfigDict, folder: Path, make_X, trn: Split, chain=None):
    """Linear ranker on features make_X(), on the chain or a refined tree: XR-Linear, and XR-Transformer's last step.

    All processes of a run call this and train together; make_X and trn are of use in the first one only, which has
    the ranker as the result. The others have None.
    """
    if not from_first((folder / "ranker").is_dir()):
        shared = shared_folder(folder.with_name(f"{folder.name}.shared"))
        X = as_features(make_X()) if is_first() else None
        kinds = from_first([part is not None for part in X or ()])
        if not is_first():  # while the first writes its features
            load_kernels(*kinds)
        X = Features(*share(shared, "X", lambda: X))
        if is_first():
            load_kernels(*kinds, progress)
        given: dict = {"matching": ()}  # what the others have not, and need not
        if is_first():
            given = {"R": trn.relevance}
        chain = chain or build_tree(config, "refined_tree", folder / "tree", X, trn.Y if is_first() else None, shared)
        if is_first() and trn.matches is not None:
            height = match_height(trn.matches, [C.shape[0] for C in chain])
            given["matching"] = matching_chain({height: trn.matches}, chain)
        train_to_folder(
            folder / "ranker",
            X,
            trn.Y if is_first() else None,
            chain,
            progress=progress,
            tell=tell_estimate,
            shared=Sharing(shared, **config.distributed) if shared else None,
            **config.ranker,
            **given,
        )
        if shared and is_first():
            shutil.rmtree(shared)
    return load_ranker(folder / "ranker") if is_first() else None


def rank_test(folder: Path, ranker, X) -> csr_matrix:
    """The ranker's labels for the test texts, of features X: from its folder, computed and kept there if need be."""
    path = folder / TEST_RANKING
    if not path.is_file():
        save_npz(path, predict(ranker, X, progress=progress))
    return load_npz(path)


def tell_estimate(estimate: Estimate) -> None:
    """One line of what the training of linear rankers is going to take."""
    tqdm.write(
        f"  about {estimate.seconds:,.0f} s from here, {format_bytes(peak_memory() + estimate.memory)} of memory, "
        f"{format_bytes(estimate.model)} of weights on disk"
    )


def percent(metrics: dict) -> dict[str, list[float]]:
    """Fractions to percent with two decimals, as metrics.json holds them."""
    return {name: [round(100 * float(value), 2) for value in values] for name, values in metrics.items()}


def save_report(name: str, workdir: Path, report: Report, dataset: Dataset, metrics, predictions, levels) -> None:
    """report.html of a finished run; arguments as of write_report."""
    write_report(
        workdir / "report.html",
        title=f"{name}, {workdir.name}",
        entries=report.entries(),
        seconds=report.seconds(),
        metrics=metrics,
        predictions=predictions,
        Y_trn=documents(dataset).Y,
        Y_tst=dataset.tst.Y,
        names=dataset.label_names,
        texts=dataset.tst.texts,
        levels=levels,
        seed=0,
    )
