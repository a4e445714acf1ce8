"""What single settings are worth, on held-out training texts of a run that did not fine-tune.

    python benchmarks/ablation.py RUN [--held-out=0.15] [--seeds=0,1] [--only=costs,beam]

RUN is a finished work directory of xrt_jax.main with do_fine_tune=False: its features, embeddings and configuration are
taken. Each seed draws other held-out texts and other trees. The base trains with the run's own settings; every other
row changes one thing, of the rankers, of TF-IDF, of the tree, of what the encoder makes of a text, or of how often
texts of the labels, their names if the run has none, are trained on (not where these are numbers). RUN/ablation keeps
what is embedded for that. Prints P@1/3/5 in percent, mean of the seeds, as a Markdown table: XR-Linear, and
XR-Transformer's ranker on TF-IDF and embedding. An encoder that was fine-tuned has seen the labels of these texts, so
that nothing could be chosen by them.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from xtransformer import read_config

from xrt_jax.config import override
from xrt_jax.data.folders import Dataset
from xrt_jax.data.label_texts import add_label_texts, are_numbers
from xrt_jax.data.tfidf import load_tfidf, transform
from xrt_jax.encoder_start import load_start, tokenize_once
from xrt_jax.encoders.huggingface import load_tokenizer
from xrt_jax.ensemble import combine
from xrt_jax.matcher.finetune import Padding, embed
from xrt_jax.matcher.mesh import make_mesh
from xrt_jax.metrics import precision_recall
from xrt_jax.npz import load_npz
from xrt_jax.report import progress
from xrt_jax.sharing import write_array
from xrt_jax.sparse import Features, normalize_rows
from xrt_jax.stages import fit_features, load_data, tree_levels
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.label_embedding import label_embedding
from xrt_jax.xlinear.predict import predict
from xrt_jax.xlinear.train import train_ranker

WEIGHTS = (0.5, 2.0)  # of the embedding beside TF-IDF rows of length 1
COPIES = (0, 1, 2, 4)  # of the texts of labels


def changes(depth: int) -> dict[str, dict]:
    """Changed ranker settings by name of row, for a tree of so many levels, labels included."""
    above = depth - 1
    last_margin = ("l3-hinge",) * above + ("noop",)
    plain = {"rel_mode": "disable", "rel_norm": "no-norm", "Cn": (1.0,)}
    by_relevance = {"rel_mode": "induce", "rel_norm": "l1"}
    return {
        "costs: PECOS's for other sets": {
            **by_relevance,
            "Cp": (0.5,) * above + (2.0,),
            "Cn": (0.5,) * above + (1.0,),
        },
        "costs: Cp 0.5, Cn 0.5": {**plain, "Cp": (0.5,), "Cn": (0.5,)},
        "costs: Cp 1": {**plain, "Cp": (1.0,)},
        "costs: Cp 2": {**plain, "Cp": (2.0,)},
        "scores: last margin": {"post_processor": last_margin},
        **{f"scores: product, l{p}-hinge": {"post_processor": (f"l{p}-hinge",)} for p in (2, 3, 4, 5)},
        "scores: product, sigmoid": {"post_processor": ("sigmoid",)},
        "beam: 10": {"only_topk": (10,) * above + (20,)},
        "beam: 50": {"only_topk": (50,) * above + (20,)},
        "negatives: tfn": {"negative_sampling": ("tfn",)},
        "negatives: tfn+man": {"negative_sampling": ("tfn",) + ("tfn+man",) * above},
        **{f"threshold: {threshold:g}": {"threshold": (threshold,)} for threshold in (0.005, 0.03, 0.1)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--held-out", type=float, default=0.15)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--only", help="groups of rows by the word before the colon; default: all")
    given = parser.parse_args()
    config = read_config(given.run)
    if config.do_fine_tune or not (given.run / "embeddings.trn.npy").is_file():
        sys.exit(f"{given.run} is no finished run with do_fine_tune=False: name one")
    if not (given.run / "tfidf").is_dir():
        sys.exit(f"{given.run} has features of its own: name a run on texts alone")
    dataset = load_data(changed_config(config, {"data.label_text_copies": 1}), given.run)
    if is_wanted("labels", given) and not dataset.trn.nr_label_texts and not are_numbers(dataset.label_names):
        dataset = add_label_texts(dataset, dataset.label_names)
    texts, start = dataset.trn.texts, config.encoder.name or given.run / "encoder_start"
    tfidf, X = load_tfidf(given.run / "tfidf"), load_npz(given.run / "X.trn.npz")[: len(texts)]
    E = normalize_rows(np.load(given.run / "embeddings.trn.npy"))[: len(texts)]
    if len(E) < len(texts):  # the run did without texts of labels
        X = sp.vstack([X, transform(tfidf, texts[len(E) :])], format="csr")
        E = np.vstack([E, embedded(config, start, given.run, texts[len(E) :], {}, kind="labels.")])
    Z = transform(tfidf, dataset.label_names)
    others = {"features": {}, "encoder": {}}
    if is_wanted("features", given):
        others["features"] = {name: fit_features(dataset, new)[1] for name, new in tfidf_changes(config).items()}
    if is_wanted("encoder", given):
        changed = encoder_changes(config, load_start(config, start)[0])
        others["encoder"] = {name: embedded(config, start, given.run, texts, new) for name, new in changed.items()}
    seeds = [int(seed) for seed in given.seeds.split(",")]
    found = [measure(config, X, E, dataset, Z, others, seed, given) for seed in seeds]
    print("| | XR-Linear P@1 | P@3 | P@5 | XR-Transformer P@1 | P@3 | P@5 |\n|---|--:|--:|--:|--:|--:|--:|")
    for name in found[0]:
        figures = np.mean([of_seed[name] for of_seed in found], axis=0).reshape(-1)
        print(f"| {name} | " + " | ".join("" if np.isnan(value) else f"{value:.2f}" for value in figures) + " |")


def tfidf_changes(config) -> dict[str, dict]:
    """Changed settings of TF-IDF by name of row."""
    has_characters = tuple(config.tfidf.char_ngram_range) != (0, 0)
    characters = {"of words alone": (0, 0)} if has_characters else {"and 3 to 5 characters": (3, 5)}
    changed = {name: {"char_ngram_range": lengths} for name, lengths in characters.items()}
    changed["single words"] = {"ngram_range": (1, 1)}
    return {f"features: {name}": {**config.tfidf, **new} for name, new in changed.items()}


def encoder_changes(config, module) -> dict[str, dict]:
    """Changed settings of the encoder by name of row; module: the encoder as the run has it."""
    length = config.encoder.truncate_length
    poolings = [name for name in module.POOLINGS if name != module.pooling]
    return {
        **{f"encoder: pooling {name}": {"encoder.pooling": name} for name in poolings},
        "encoder: half the tokens": {"encoder.truncate_length": length // 2},
        "encoder: two windows of a text": {"encoder.windows": 2},
    }


def is_wanted(name: str, given) -> bool:
    """Whether a row, or a group of rows, is to be measured."""
    return not given.only or name.split(":")[0] in given.only.split(",")


def changed_config(config, changed: dict):
    """A copy of the configuration with changed fields."""
    other = config.copy_and_resolve_references()
    override(other, changed)
    return other


def embedded(config, start, run: Path, texts: list[str], changed: dict, kind: str = "") -> np.ndarray:
    """Unit embeddings [n, hidden] of texts by the encoder in `start` with changed settings; kind: of file names."""
    other = changed_config(config, changed)
    padding = Padding(*(other.encoder[name] for name in Padding._fields))
    folder = run / "ablation"
    folder.mkdir(exist_ok=True)
    path = folder / f"{kind}{other.encoder.pooling}.{padding.truncate_length}x{padding.windows}.npy"
    if not path.is_file():
        module, encoder = load_start(other, start)
        where = folder / f"{kind}tokens.{padding.truncate_length}x{padding.windows}"
        tokens = tokenize_once(where, texts, load_tokenizer(start), padding)
        write_array(path, embed(module, encoder, tokens, mesh=make_mesh(), padding=padding, progress=progress))
    return normalize_rows(np.load(path))


def rank_others(config, X, X_others, Y, seed: int, changed: dict, *, method: str = "pifa", Z=None):
    """Predictions for other texts of a ranker that learns X -> Y, on a tree of its own, with changed settings."""
    tree = {k: v for k, v in config.refined_tree.items() if k not in ("embedding", "meta_embedding", "alpha")}
    chain = hierarchical_kmeans(label_embedding(method, Y, X, Z=Z), seed=seed, **tree)
    return predict(train_ranker(X, Y, chain, **{**config.ranker, **changed}), X_others)


def measure(config, X, E, dataset: Dataset, Z, others: dict[str, dict], seed: int, given) -> dict[str, np.ndarray]:
    """P@1, P@3, P@5 of XR-Linear and of XR-Transformer's ranker, [2, 3] by name of row; NaN where a row has no such.

    Training texts, and so the rows of X and E, are documents and behind them one text a label. others: of "features"
    in place of X, and of the "encoder" in place of E, by name of row.
    """
    Y, nr_documents = dataset.trn.Y, dataset.trn.Y.shape[0] - dataset.trn.nr_label_texts
    order, of_labels = np.random.default_rng(seed).permutation(nr_documents), np.arange(nr_documents, Y.shape[0])
    held = order[: int(given.held_out * len(order))]
    of_run = config.data.label_text_copies if config.data.label_texts else 0

    def rank(weight: float, changed: dict, seed: int, method: str = "pifa", X=X, E=E, copies=of_run):
        """Predictions for the held-out texts; without weight, of XR-Linear."""
        kept = np.concatenate([order[len(held) :], np.tile(of_labels, copies)])
        both = [Features(X[rows], np.float32(weight) * E[rows]) if weight else X[rows] for rows in (kept, held)]
        return rank_others(config, *both, Y[kept], seed, changed, method=method, Z=Z)

    def precision(*predictions) -> list[float]:
        P = predictions[0] if len(predictions) == 1 else combine("rank_average", list(predictions))
        return list(100 * precision_recall(Y[held], P, 5)["prec"][[0, 2, 4]])

    def tell(name: str, *rows: list[float]) -> None:
        found[name] = np.asarray(rows)
        figures = "".join(f"{value:8.2f}" for value in found[name].ravel())
        print(f"seed {seed}  {name:32}{figures}", file=sys.stderr, flush=True)

    found: dict[str, np.ndarray] = {}
    none = [np.nan] * 3
    linear, joined = rank(0, {}, seed), rank(1, {}, seed)
    tell("base", precision(linear), precision(joined))
    for name, changed in changes(len(tree_levels(config, "refined_tree", Y.shape[1]))).items():
        if is_wanted(name, given):
            tell(name, precision(rank(0, changed, seed)), precision(rank(1, changed, seed)))
    for copies in COPIES:
        if is_wanted("labels", given) and copies != of_run and dataset.trn.nr_label_texts:
            name = f"labels: {copies} copies of their texts"
            tell(name, *(precision(rank(weight, {}, seed, copies=copies)) for weight in (0, 1)))
    for name, X_other in others["features"].items():
        tell(name, *(precision(rank(weight, {}, seed, X=X_other)) for weight in (0, 1)))
    for name, E_other in others["encoder"].items():
        tell(name, none, precision(rank(1, {}, seed, E=E_other)))
    for weight in WEIGHTS:
        if is_wanted("weight", given):
            tell(f"weight: embedding × {weight:g}", none, precision(rank(weight, {}, seed)))
    if is_wanted("tree", given):
        rows = [precision(rank(weight, {}, seed, "pifa_lf_concat")) for weight in (0, 1)]
        tell("tree: with the labels' names", *rows)
    if is_wanted("joined", given):
        second = [rank(weight, {}, seed + 100) for weight in (0, 1)]
        tell("joined: two trees", precision(linear, second[0]), precision(joined, second[1]))
        tell("joined: with XR-Linear", none, precision(joined, linear))
        tell("joined: two trees of each", none, precision(linear, joined, *second))
    return found


if __name__ == "__main__":
    main()
