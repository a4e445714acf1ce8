"""The stages of a run that XR-Transformer and XR-Linear share: work directory, data, features, trees, ranker.

Every stage writes its result to the work directory, whole or not at all, and takes it from there the next time.
"""

from pathlib import Path

from ml_collections import ConfigDict
from scipy.sparse import csr_matrix
from tqdm import tqdm

from xrt_jax.config import differences, to_json
from xrt_jax.data.docstrings import build_docstring_dataset
from xrt_jax.data.folders import Dataset, Split, load_dataset, load_features
from xrt_jax.data.tfidf import fit_tfidf, load_tfidf, save_tfidf, transform
from xrt_jax.disk import clear_unfinished, read_json, write_json
from xrt_jax.report import Report, format_bytes, peak_memory, progress
from xrt_jax.report_html import write_report
from xrt_jax.sparse import as_features, load_npz, nr_rows, save_npz
from xrt_jax.tree.chain import load_chain, matching_chain, save_chain, tree_sizes
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.label_embedding import METHODS, label_embedding, pifa_product
from xrt_jax.xlinear.compiled import load_kernels
from xrt_jax.xlinear.estimate import Estimate
from xrt_jax.xlinear.folder import load_ranker
from xrt_jax.xlinear.train import check_settings, train_to_folder


def open_workdir(config: ConfigDict, workdir: Path) -> Path:
    """Creates the work directory or takes up an earlier run in it; ValueError if that run had another config."""
    new, path = to_json(config), workdir / "config.json"
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


def load_data(config: ConfigDict, workdir: Path) -> Dataset:
    """The data set of config.data.dir, or the embedded corpus, with a test split."""
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
    if dataset.tst is None:
        raise ValueError(f"{folder} has no test split: add Y.tst.npz and X.tst.txt (or .npz, .npy)")
    Z = load_label_features(config)
    for name in ("preliminary_tree", "refined_tree"):
        if name in config:
            check_embedding(f"{name}.embedding", config[name].embedding, Z, dataset.trn.Y.shape[1])
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
    if trn.matches is not None:
        match_height(trn.matches, levels)
        if not any("usn" in scheme for scheme in config.ranker.negative_sampling):
            raise ValueError("data.matches has no effect: put usn into ranker.negative_sampling, such as usn+tfn")
    if trn.relevance is not None and config.ranker.rel_mode == "disable":
        raise ValueError("data.relevance has no effect: set ranker.rel_mode to induce or ranker-only")
    return levels


def make_features(config: ConfigDict, dataset: Dataset, workdir: Path):
    """(tfidf or None, X_trn, X_tst): the data set's own features, or TF-IDF fitted on the training texts."""
    if dataset.trn.X is not None:
        return None, dataset.trn.X, dataset.tst.X
    folder = workdir / "tfidf"
    if folder.is_dir() and (workdir / "X.trn.npz").exists():
        tfidf, X_trn = load_tfidf(folder), load_npz(workdir / "X.trn.npz")
    else:
        tfidf, X_trn = fit_tfidf(dataset.trn.texts, **config.tfidf)
        save_tfidf(folder, tfidf)
        save_npz(workdir / "X.trn.npz", X_trn)
    return tfidf, X_trn, features_of(dataset.tst, tfidf)


def features_of(split: Split, tfidf):
    """Features of a split: its own, or TF-IDF of its texts."""
    return split.X if tfidf is None else transform(tfidf, split.texts)


def build_tree(config: ConfigDict, name: str, folder: Path, X, Y: csr_matrix):
    """Hierarchical label tree by balanced k-means on label embeddings, with the settings config[name]."""
    if not folder.is_dir():
        tree = config[name]
        if tree.embedding == "pifa":
            embedding = pifa_product(Y, X)
        else:
            embedding = label_embedding(tree.embedding, Y, X, Z=load_label_features(config), alpha=tree.alpha)
        chain = hierarchical_kmeans(
            embedding,
            **{key: value for key, value in tree.items() if key not in ("embedding", "alpha")},
            seed=config.seed,
            progress=progress,
        )
        save_chain(folder, chain)
    return load_chain(folder)


def rank(config: ConfigDict, folder: Path, X, trn: Split, chain=None):
    """Linear ranker on features X, on the chain or a refined tree: XR-Linear, and XR-Transformer's last step."""
    if not (folder / "ranker").is_dir():
        X = as_features(X)
        load_kernels(X, progress)
        chain = chain or build_tree(config, "refined_tree", folder / "tree", X, trn.Y)
        given = {"R": trn.relevance}
        if trn.matches is not None:
            height = match_height(trn.matches, [C.shape[0] for C in chain])
            given["matching"] = matching_chain({height: trn.matches}, chain)
        settings = {**given, **config.ranker}
        train_to_folder(folder / "ranker", X, trn.Y, chain, **settings, progress=progress, tell=tell_estimate)
    return load_ranker(folder / "ranker")


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
        Y_trn=dataset.trn.Y,
        Y_tst=dataset.tst.Y,
        names=dataset.label_names,
        texts=dataset.tst.texts,
        levels=levels,
        seed=0,
    )
