"""XR-Linear here beside a peer, stage by stage: seconds, memory, model size, P@1/3/5.

    python benchmarks/xlinear.py --synthetic wiki10 --peer pecos --peer-python PEERS/bin/python
    python benchmarks/xlinear.py --data DIR --peer omikuji --peer-python PEERS/bin/python --cache CACHE

PEERS is a virtual environment with the peer (pip install libpecos==1.2.8 transformers==4.49.0 omikuji==0.5.2); the
variable XRT_PEERS_PYTHON names its python too. DIR is a data-set folder in PECOS's layout; without features in it, they
are TF-IDF of its texts. Both sides have the same data, threads and parameters, which are PECOS's defaults: leaves of
100 labels, 16 splits, threshold 0.1, beam 10, 20 labels predicted. Both train on one tree, that of PECOS's first run;
omikuji on its own. Ours trains straight into its model folder: the writing of it is timed too. Fitting and serving are
processes of their own, repeated in turns; figures are medians.

Prints a line on the machine and the data, a Markdown table, and a line of the ratios ours / peer (nan without one).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from floor import clustering_work, embedding_work, prediction_work, seconds_at_least, training_work
from measure import available_cores, load_split, processor, save_split
from synthetic import PRESETS, Split, make_dataset
from xlinear_peers import TEXT, one_csr, write_text

from xrt_jax.data.folders import load_dataset
from xrt_jax.data.tfidf import fit_tfidf, transform
from xrt_jax.metrics import precision_recall
from xrt_jax.sparse import normalize_rows

HERE = Path(__file__).resolve().parent
# ways to load a model; ratios are taken from the first
MODES = {"ours": ("npz", "mmap"), "pecos": ("npz", "mmap"), "omikuji": ("npz",)}
DENSE_AT_A_TIME = 64  # columns

SERVING = [
    ("batch prediction, a row", "predict"),
    ("single query, p50", "p50"),
    ("single query, p99", "p99"),
    ("load", "load"),
]
SECONDS = [
    ("label embedding", "embed"),
    ("clustering", "cluster"),
    ("both", "tree"),
    ("training", "train"),
    ("all three", "fit"),
    *((stage, f"npz.{key}") for stage, key in SERVING),
    *((f"memory-mapped: {stage}", f"mmap.{key}") for stage, key in SERVING),
]
BYTES = [
    ("peak memory of training", "train_memory"),
    ("peak memory of all three", "memory"),
    ("– of that, before they start", "loaded"),
    ("peak memory of serving", "npz.serving_memory"),
    ("model", "bytes"),
]
PRECISIONS = [("P@1", "P1"), ("P@3", "P3"), ("P@5", "P5")]
RATIOS = {"train": "train", "cluster": "tree", "predict": "npz.predict", "latency": "npz.p50", "rss": "train_memory"}
NOTE = """\
Floor: the longer of bytes / memory bandwidth and FLOPs / float32 rate, both measured in this run on the same threads.
Label embedding: features read, embedding written. Clustering: two passes over the embedding for each binary layer.
Training: one pass, in which each classifier of a row takes a dot product and an update; how many passes convergence
needs is in the distance. Prediction: a row's non-zeros read once for each cluster that it visits. Load: model read."""


# ---------------------------------------------------------------------------- data


def read_folder(folder: str) -> tuple[Split, Split]:
    """Training and test split of a data-set folder, with TF-IDF where it has texts only."""
    dataset = load_dataset(folder, dev_size=0)
    if dataset.tst is None:
        sys.exit(f"{folder}: no test split: add Y.tst.npz and X.tst.npz or X.tst.txt")
    if dataset.trn.X is None:
        tfidf, X = fit_tfidf(dataset.trn.texts)
        return Split(X, dataset.trn.Y), Split(transform(tfidf, dataset.tst.texts), dataset.tst.Y)
    if not sp.issparse(dataset.trn.X):
        sys.exit(f"{folder}: X.trn.npy is dense: give sparse features in X.trn.npz and dense columns by --dense")
    return Split(dataset.trn.X, dataset.trn.Y), Split(dataset.tst.X, dataset.tst.Y)


def read_data(args) -> tuple[Split, Split]:
    """The data set, from the cache if it is there."""
    make = (lambda: make_dataset(args.synthetic)) if args.synthetic else (lambda: read_folder(args.data))
    if args.cache is None:
        return make()
    source = args.synthetic or str(Path(args.data).resolve())
    folder = Path(args.cache) / f"{Path(source).name}-{zlib.crc32(source.encode()):08x}"
    if not (folder / "done").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for name, split in zip(("trn", "tst"), make(), strict=True):
            save_split(folder, name, split.X, None, split.Y)
        (folder / "done").touch()
    splits = [load_split(folder, name) for name in ("trn", "tst")]
    return tuple(Split(X, Y) for X, _, Y in splits)


def random_projection(parts: list[sp.csr_matrix], nr_columns: int) -> list[np.ndarray]:
    """Dense columns that stand for an embedding: a random projection of the features, rows of L2 norm 1."""
    rng, projected = np.random.default_rng(0), [[] for _ in parts]
    for first in range(0, nr_columns, DENSE_AT_A_TIME):
        width = min(DENSE_AT_A_TIME, nr_columns - first)
        directions = rng.standard_normal((parts[0].shape[1], width), np.float32)
        for done, X in zip(projected, parts, strict=True):
            done.append(X @ directions)
    return [normalize_rows(np.hstack(columns)) for columns in projected]


def prepare_data(args, folder: Path) -> None:
    """Write the run's data folder (measure.py)."""
    trn, tst = read_data(args)
    trn = Split(trn.X[: args.limit], trn.Y[: args.limit])
    dense = random_projection([trn.X, tst.X], args.dense) if args.dense else (None, None)
    folder.mkdir()
    for name, split, E in zip(("trn", "tst"), (trn, tst), dense, strict=True):
        save_split(folder, name, split.X, E, split.Y)
    if args.peer == "omikuji":
        write_text(folder / TEXT, one_csr(trn.X, dense[0]), trn.Y)


# ---------------------------------------------------------------------------- runs


def call_worker(args, side: str, phase: str, *more) -> dict:
    """What a phase of a side measured, in a process of its own."""
    if side == "ours":
        command = [sys.executable, HERE / "xlinear_ours.py", phase, *more]
    else:
        command = [args.peer_python, HERE / "xlinear_peers.py", f"{side}-{phase}", *more]
    names = ("OMP", "OPENBLAS", "MKL", "NUMBA")
    environment = os.environ | {f"{name}_NUM_THREADS": str(args.threads) for name in names}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        sys.exit(f"{side}, {phase}: {lines[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def precisions(data: Path, predictions: Path) -> dict[str, float]:
    """P@1, P@3 and P@5 in percent."""
    prec = precision_recall(load_split(data, "tst")[2], sp.load_npz(predictions), 5)["prec"]
    return {f"P{k}": 100 * float(prec[k - 1]) for k in (1, 3, 5)}


def run_side(args, side: str, data: Path) -> dict[str, float]:
    """Every figure of one run of a side; those of prediction have their mode before a point."""
    model = data.parent / side
    found = call_worker(args, side, "fit", data, model)
    if "train" in found:
        found["tree"] = found["embed"] + found["cluster"]
        found["fit"] = found["tree"] + found["train"]
    for mode in MODES[side]:
        served = call_worker(args, side, "predict", data, model, mode)
        found |= {f"{mode}.{key}": value for key, value in served.items()}
    return found | precisions(data, Path(f"{model}.{MODES[side][0]}.npz"))


def run_all(args, data: Path) -> dict[str, dict[str, float]]:
    """Medians of the repetitions, {"ours": figures, peer: figures}; the peer comes first, then in turns."""
    sides = ["ours"] if args.peer == "none" else [args.peer, "ours"]
    found = {side: defaultdict(list) for side in sides}
    for repeat in range(args.repeats):
        for side in sides if repeat % 2 == 0 else sides[::-1]:
            print(f"run {repeat + 1} of {args.repeats}: {side}", file=sys.stderr, flush=True)
            for key, value in run_side(args, side, data).items():
                found[side][key].append(value)
    return {side: {key: float(np.median(values)) for key, values in figures.items()} for side, figures in found.items()}


# ---------------------------------------------------------------------------- what is printed


def floors(data: Path, ours: dict, machine: dict) -> dict[str, float]:
    """Least seconds of the stages that have a floor."""
    X, E, Y = load_split(data, "trn")
    X_tst = load_split(data, "tst")[0]
    nr_dense, C_leaf = 0 if E is None else E.shape[1], sp.load_npz(data / "tree.npz")
    embedding_nnz = ours["embedding_nnz"]
    row = prediction_work(X_tst, nr_dense, C_leaf)
    work = {
        "embed": embedding_work(X, nr_dense, Y, embedding_nnz),
        "cluster": clustering_work(Y.shape[1], embedding_nnz),
        "train": training_work(X, nr_dense, Y, C_leaf),
        "npz.predict": row,
        "npz.p50": row,
        "npz.load": (ours["bytes"], 0.0),
    }
    return {stage: seconds_at_least(of_stage, **machine) for stage, of_stage in work.items()}


def number(value: float) -> str:
    """Three digits or more; - where there is no such figure."""
    if np.isnan(value):
        return "-"
    digits = 2 - int(np.floor(np.log10(abs(value)))) if value else 0
    return f"{value:,.{min(max(digits, 0), 6)}f}"


def seconds(value: float) -> str:
    """In a unit that leaves one to three digits before the point."""
    unit, factor = ("s", 1) if not value < 1 else ("ms", 1e3) if value >= 1e-3 else ("µs", 1e6)
    return "-" if np.isnan(value) else f"{number(value * factor)} {unit}"


def mebibytes(value: float) -> str:
    return "-" if np.isnan(value) else f"{number(value / 2**20)} MiB"


def percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f} %"


def table(ours: dict, peer: dict, name: str, floor: dict) -> str:
    """Markdown, a stage a row; stages that no side has are left out, and the peer's columns where there is none."""
    lines = [["stage", "ours", name, "ours / peer", "floor", "× floor"], ["---"] + ["--:"] * 5]
    for rows, show in ((SECONDS, seconds), (BYTES, mebibytes), (PRECISIONS, percent)):
        for stage, key in rows:
            a, b, least = (side.get(key, np.nan) for side in (ours, peer, floor))
            beside = number(a / b) if show is not percent else "-" if np.isnan(b) else f"{a - b:+.2f} points"
            if not np.isnan([a, b]).all():
                lines.append([stage, show(a), show(b), beside, seconds(least), number(a / least)])
    return "\n".join(f"| {' | '.join(cells if peer else cells[:2] + cells[4:])} |" for cells in lines)


def ratio_line(ours: dict, peer: dict) -> str:
    """train_ratio=… … dP5=…: ours / peer and points of P@k; nan where a side has no such figure.

    Where the peer's training cannot be told from the rest of its fitting, train_ratio is that of the whole.
    """
    keys = RATIOS if "train" in peer else RATIOS | {"train": "fit"}
    ratios = [f"{name}_ratio={ours[key] / peer.get(key, np.nan):.3f}" for name, key in keys.items()]
    return " ".join(ratios + [f"d{key}={ours[key] - peer.get(key, np.nan):.2f}" for _, key in PRECISIONS])


def headline(args, data: Path, machine: dict) -> str:
    """Machine, threads and data in one line."""
    X, E, Y = load_split(data, "trn")
    n_tst = load_split(data, "tst")[0].shape[0]
    dense = "" if E is None else f" + {E.shape[1]} dense"
    return (
        f"{processor()}, {args.threads} of {os.cpu_count()} cores, {machine['bandwidth'] / 1e9:.1f} GB/s, "
        f"{machine['flops'] / 1e9:.0f} GFLOP/s; {args.synthetic or Path(args.data).name}: "
        f"{X.shape[0]:,} / {n_tst:,} rows × {X.shape[1]:,}{dense} features ({X.nnz / X.shape[0]:.0f} non-zeros a row), "
        f"{Y.shape[1]:,} labels ({Y.nnz / Y.shape[0]:.1f} a row); medians of {args.repeats}"
    )


# ---------------------------------------------------------------------------- the command


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Flags, checked: a wrong one is one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="DIR", help="data-set folder in PECOS's layout")
    source.add_argument("--synthetic", choices=PRESETS, help="made-up data of this size")
    parser.add_argument("--peer", choices=("pecos", "omikuji", "none"), default="pecos")
    parser.add_argument("--peer-python", default=os.environ.get("XRT_PEERS_PYTHON"), help="or XRT_PEERS_PYTHON")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side")
    parser.add_argument("--threads", type=int, default=len(available_cores()), help="all cores, if not given")
    parser.add_argument("--dense", type=int, default=0, metavar="D", help="dense columns to add")
    parser.add_argument("--limit", type=int, metavar="N", help="train on the first N rows only")
    parser.add_argument("--cache", metavar="FOLDER", help="keep the prepared data here; delete it when they change")
    args = parser.parse_args(arguments)
    if min(args.repeats, args.limit or 1) < 1 or args.dense < 0:
        parser.error("--repeats and --limit must be at least 1, --dense at least 0")
    if not 1 <= args.threads <= len(available_cores()):
        parser.error(f"--threads={args.threads} must be from 1 to {len(available_cores())}, the cores to run on")
    if args.peer != "none" and not (args.peer_python and Path(args.peer_python).is_file()):
        parser.error(
            f"no python of an environment with {args.peer} at {args.peer_python!r}: name one by --peer-python or "
            "XRT_PEERS_PYTHON, or take --peer none"
        )
    return args


def main() -> None:
    args = parse_arguments()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, available_cores()[: args.threads])  # every process from here on inherits it
    with tempfile.TemporaryDirectory(prefix="xlinear-") as folder:
        data = Path(folder) / "data"
        prepare_data(args, data)
        machine = call_worker(args, "ours", "machine")
        figures = run_all(args, data)
        ours, peer = figures["ours"], figures.get(args.peer, {})
        print(headline(args, data, machine))
        print(f"\n{table(ours, peer, args.peer, floors(data, ours, machine))}\n\n{NOTE}\n\n{ratio_line(ours, peer)}")


if __name__ == "__main__":
    main()
