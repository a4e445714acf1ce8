"""Draws the figures of docs/algorithm.md from the work directory of a run of XR-Transformer.

    python docs/figures.py runs/demo --out=docs/figures

Wants matplotlib, of the extra `notebooks`, and a run with a test split and XR-Linear beside.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt

from xrt_jax.config import read_fields
from xrt_jax.data.folders import Dataset, load_dataset
from xrt_jax.data.tfidf import load_tfidf, transform
from xrt_jax.disk import read_json
from xrt_jax.metrics import by_frequency
from xrt_jax.model import join_features
from xrt_jax.npz import load_npz
from xrt_jax.tree.chain import load_chain
from xrt_jax.xlinear.folder import load_ranker
from xrt_jax.xlinear.predict import predict

# name in metrics.json: what the figures call it, its colour and marker
METHODS = {
    "xr_transformer": ("XR-Transformer", "#1f5fa8", "o"),
    "xr_linear": ("XR-Linear", "#c8691c", "s"),
    "matcher": ("the matcher alone", "#6b7280", "^"),
}
MOST_NODES = 600  # of a level that is drawn with the borders of its nodes
LEVELS = ("#6fa3d8", "#1f5fa8", "#0b2f5c", "#c8691c", "#6b7280")  # colours
STYLE = {
    "figure.facecolor": "white",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: small files
    "svg.hashsalt": "xrt_jax",  # the same run, the same bytes
}


def main() -> None:
    """Draws all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="work directory of a finished run")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help="folder of the figures")
    args = parser.parse_args()
    if not (args.run / "metrics.json").is_file():
        parser.error(f"{args.run} is no work directory of a finished run: no metrics.json")
    matplotlib.use("Agg")
    args.out.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        figures = {
            "trees": draw_trees(args.run),
            "curves": draw_curves([json.loads(line) for line in (args.run / "metrics.jsonl").read_text().splitlines()]),
            "depth": draw_depth(read_json(args.run / "metrics.json")),
            "frequency": draw_frequency(args.run),
        }
        for name, figure in figures.items():
            figure.savefig(args.out / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
            print(args.out / f"{name}.svg")


def draw_trees(run: Path):
    """The preliminary and the refined tree: a bar a level, parted into its nodes, as wide as their labels."""
    figure, panels = plt.subplots(1, 2, figsize=(8, 2.4), sharex=True, layout="constrained")
    names = {
        "preliminary tree, of the matcher": "preliminary_tree",
        "refined tree, of the ranker": "xr_transformer/tree",
    }
    for axes, (title, folder) in zip(panels, names.items(), strict=True):
        chain = load_chain(run / folder)
        for level, bounds in enumerate(bounds_of(chain)):
            axes.barh(-level, bounds[-1], color=LEVELS[level % len(LEVELS)])
            if len(bounds) <= MOST_NODES:
                width = min(1.0, 80 / len(bounds))
                axes.vlines(bounds, -level - 0.42, -level + 0.42, colors="white", linewidths=width)
        axes.set_yticks([-level for level in range(len(chain))])
        axes.set_yticklabels([f"level {level}: {C.shape[0]:,}" for level, C in enumerate(chain)])
        axes.set_title(title, loc="left")
        axes.set_xlabel("labels, in the order of the tree")
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    return figure


def bounds_of(chain: list) -> list[np.ndarray]:
    """Where the nodes of each level begin and end, in labels, when every node stands below its parent."""
    sizes, found = np.ones(chain[-1].shape[0]), []
    order = [np.zeros(1, np.int64)]  # nodes of a level, from left to right
    for C in chain:
        order.append(np.concatenate([C.indices[C.indptr[node] : C.indptr[node + 1]] for node in order[-1]]))
    for C, nodes in zip(reversed(chain), reversed(order[1:]), strict=True):
        found.append(np.concatenate([[0], np.cumsum(sizes[nodes])]))
        sizes = C.T @ sizes
    return found[::-1]


def draw_curves(entries: list[dict]):
    """Training loss and validation P@1 of each level."""
    figure, panels = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
    for axes, (key, title) in zip(panels, (("loss", "training loss"), ("P@1", "validation P@1, percent")), strict=True):
        levels = sorted({entry["level"] for entry in entries if key in entry and "level" in entry})
        for level in levels:
            points = {entry["step"]: entry[key] for entry in entries if entry.get("level") == level and key in entry}
            steps = sorted(points)  # of a step that an interrupted run did again, the last value
            values = [points[step] for step in steps]
            axes.plot(steps, values, marker="o", ms=4, color=LEVELS[level % len(LEVELS)], label=f"level {level}")
        axes.set_title(title, loc="left")
        axes.set_xlabel("update of the level")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
    panels[0].legend()
    return figure


def draw_depth(metrics: dict):
    """P@k and R@k of the methods on the test split."""
    figure, panels = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
    for axes, (key, letter) in zip(panels, (("prec", "P"), ("recall", "R")), strict=True):
        for name, (called, color, marker) in METHODS.items():
            if name in metrics:
                values = metrics[name][key]
                axes.plot(range(1, len(values) + 1), values, marker=marker, ms=4, color=color, label=called)
        axes.set_title(f"{letter}@k, percent", loc="left")
        axes.set_xlabel("k")
        axes.set_xticks(range(1, len(values) + 1))
        axes.set_ylim(bottom=0)
    panels[0].legend()
    return figure


def draw_frequency(run: Path):
    """Precision and recall at 5 of labels by how many training texts have them."""
    config, model = read_fields(run / "config.json"), run / "model"
    data = load_dataset(
        config["data.dir"] or run / "data",
        trn_rows=config["data.trn_rows"] or None,
        tst_rows=config["data.tst_rows"] or None,
        dev_size=config["data.dev_size"],
        normalize=config["data.normalize"],
    )
    figure, panels = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
    for name, P in predictions_of(run, model, data).items():
        groups = by_frequency(data.trn.Y, data.tst.Y, P, k=5, nr_groups=8)
        called, color, marker = METHODS[name]
        for axes, key in zip(panels, ("prec", "recall"), strict=True):
            values = [100 * group[key] for group in groups]
            axes.plot(range(len(groups)), values, marker=marker, ms=4, color=color, label=called)
    names = [f"{g['least']}" if g["least"] == g["most"] else f"{g['least']}–{g['most']}" for g in groups]
    for axes, title in zip(panels, ("precision@5, percent", "recall@5, percent"), strict=True):
        axes.set_title(title, loc="left")
        axes.set_xticks(range(len(groups)), names, fontsize=8)
        axes.set_xlabel("training texts of a label")
        axes.set_ylim(bottom=0)
    panels[0].legend()
    return figure


def predictions_of(run: Path, model: Path, data: Dataset) -> dict:
    """What the run predicted for the test texts, by method; the linear rankers do it again."""
    X = data.tst.X if data.tst.X is not None else transform(load_tfidf(model / "tfidf"), data.tst.texts)
    joined = join_features(X, np.load(run / "embeddings.tst.npy"))
    found = {
        "xr_transformer": predict(load_ranker(run / "xr_transformer/ranker"), joined),
        "xr_linear": predict(load_ranker(run / "xr_linear/ranker"), X),
    }
    beams = sorted(run.glob("level_*/beam.tst.npz"), key=lambda path: int(path.parent.name.removeprefix("level_")))
    last = load_npz(beams[-1]) if beams else None
    return found | ({"matcher": last} if last is not None and last.shape == data.tst.Y.shape else {})


if __name__ == "__main__":
    main()
