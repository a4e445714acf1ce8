"""What settings of the linear rankers are worth, on held-out training texts of a run that did not fine-tune.

    python benchmarks/ablation.py RUN [--held-out=0.15] [--seeds=0,1] [--only=costs,beam]

RUN is a finished work directory of xrt_jax.main with do_fine_tune=False: its features, embeddings and configuration are
taken. Each seed draws other held-out texts and other trees. The base trains with the run's own ranker settings; every
other row changes one thing. Prints P@1/3/5 in percent, mean of the seeds, as a Markdown table: XR-Linear, and
XR-Transformer's ranker on TF-IDF and embedding. An encoder that was fine-tuned has seen the labels of these texts,
so that nothing could be chosen by them.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from xtransformer import read_config

from xrt_jax.data.tfidf import load_tfidf, transform
from xrt_jax.ensemble import combine
from xrt_jax.metrics import precision_recall
from xrt_jax.sparse import Features, normalize_rows
from xrt_jax.stages import load_data, make_features, tree_levels
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.label_embedding import label_embedding
from xrt_jax.xlinear.predict import predict
from xrt_jax.xlinear.train import train_ranker

WEIGHTS = (0.5, 2.0)  # of the embedding beside TF-IDF rows of length 1


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
        "threshold: 0.1": {"threshold": (0.1,)},
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
    dataset = load_data(config, given.run)
    _, X, _ = make_features(config, dataset._replace(tst=None), given.run)
    E = normalize_rows(np.load(given.run / "embeddings.trn.npy"))
    Z = transform(load_tfidf(given.run / "tfidf"), dataset.label_names)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    found = [measure(config, X, E, dataset.trn.Y, Z, seed, given) for seed in seeds]
    print("| | XR-Linear P@1 | P@3 | P@5 | XR-Transformer P@1 | P@3 | P@5 |\n|---|--:|--:|--:|--:|--:|--:|")
    for name in found[0]:
        figures = np.mean([of_seed[name] for of_seed in found], axis=0).reshape(-1)
        print(f"| {name} | " + " | ".join("" if np.isnan(value) else f"{value:.2f}" for value in figures) + " |")


def rank_others(config, X, X_others, Y, seed: int, changed: dict, *, method: str = "pifa", Z=None):
    """Predictions for other texts of a ranker that learns X -> Y, on a tree of its own, with changed settings."""
    tree = {k: v for k, v in config.refined_tree.items() if k not in ("embedding", "meta_embedding", "alpha")}
    chain = hierarchical_kmeans(label_embedding(method, Y, X, Z=Z), seed=seed, **tree)
    return predict(train_ranker(X, Y, chain, **{**config.ranker, **changed}), X_others)


def measure(config, X, E, Y, Z, seed: int, given) -> dict[str, np.ndarray]:
    """P@1, P@3, P@5 of XR-Linear and of XR-Transformer's ranker, [2, 3] by name of row; NaN where a row has no such."""
    order = np.random.default_rng(seed).permutation(Y.shape[0])
    held = order[: int(given.held_out * len(order))]
    kept = order[len(held) :]

    def rank(weight: float, changed: dict, seed: int, method: str = "pifa"):
        """Predictions for the held-out texts; without weight, of XR-Linear."""
        both = [Features(X[rows], np.float32(weight) * E[rows]) if weight else X[rows] for rows in (kept, held)]
        return rank_others(config, *both, Y[kept], seed, changed, method=method, Z=Z)

    def precision(*predictions) -> list[float]:
        P = predictions[0] if len(predictions) == 1 else combine("rank_average", list(predictions))
        return list(100 * precision_recall(Y[held], P, 5)["prec"][[0, 2, 4]])

    def wanted(name: str) -> bool:
        return not given.only or name.split(":")[0] in given.only.split(",")

    def tell(name: str, *rows: list[float]) -> None:
        found[name] = np.asarray(rows)
        figures = "".join(f"{value:8.2f}" for value in found[name].ravel())
        print(f"seed {seed}  {name:32}{figures}", file=sys.stderr, flush=True)

    found: dict[str, np.ndarray] = {}
    none = [np.nan] * 3
    linear, joined = rank(0, {}, seed), rank(1, {}, seed)
    tell("base", precision(linear), precision(joined))
    for name, changed in changes(len(tree_levels(config, "refined_tree", Y.shape[1]))).items():
        if wanted(name):
            tell(name, precision(rank(0, changed, seed)), precision(rank(1, changed, seed)))
    for weight in WEIGHTS:
        if wanted("weight"):
            tell(f"weight: embedding × {weight:g}", none, precision(rank(weight, {}, seed)))
    if wanted("tree"):
        rows = [precision(rank(weight, {}, seed, "pifa_lf_concat")) for weight in (0, 1)]
        tell("tree: with the labels' names", *rows)
    if wanted("joined"):
        others = [rank(weight, {}, seed + 100) for weight in (0, 1)]
        tell("joined: two trees", precision(linear, others[0]), precision(joined, others[1]))
        tell("joined: with XR-Linear", none, precision(joined, linear))
        tell("joined: two trees of each", none, precision(linear, joined, *others))
    return found


if __name__ == "__main__":
    main()
