"""One row of benchmarks/reproduce.py, in a process of its own.

    python reproduce_rows.py prepare SPEC    the set's folder and features, which its rows share
    python reproduce_rows.py measure SPEC    trains, predicts, measures; writes the row's JSON file

SPEC is a JSON object of Spec's fields. Nothing large is in this process while another one trains, whose memory counts.
"""

import json
import os
import shlex
import sys
import tempfile
from argparse import Namespace
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import xtransformer
from measure import (
    latencies,
    load_split,
    peak_memory,
    processor,
    run_measured,
    save_split,
    timed,
)
from nearest_neighbours import vote
from xlinear import call_worker
from xlinear_peers import TEXT, write_text

from xrt_jax.config import load_config, override, to_json
from xrt_jax.data.folders import Dataset, Split, load_dataset, save_dataset
from xrt_jax.data.tfidf import fit_tfidf, transform
from xrt_jax.disk import read_json, replace_folder, write_json
from xrt_jax.metrics import all_metrics

ROOT = Path(__file__).resolve().parent.parent
NEIGHBOURS = 15
NR_SINGLE_TEXTS = 100
# What the figures of a row are cut out of all_metrics for.
METRICS = {"P": ("prec", (1, 3, 5)), "nDCG": ("ndcg", (5,)), "PSP": ("psp", (1, 3, 5)), "R": ("recall", (10,))}
NOT_TRAINING = ("data", "tfidf", "embed_test", "predict")  # stages of a run


class Spec(NamedTuple):
    """What to measure, and where."""

    set: str
    row: str
    seed: int
    folder: str  # of the whole data set
    cut: dict | None  # {"lists": [file of trn, of tst]} or {"sizes": [of trn, of tst]}: rows to take of it
    config: str  # configuration file of its XR-Transformer
    out: str
    encoder: str
    peer_python: str
    threads: int
    commit: str
    command: str

    @property
    def name(self) -> str:
        """Of the row's files."""
        return f"{self.set}.{self.row}.{self.seed}"

    @property
    def data(self) -> Path:
        """The data-set folder that rows train on."""
        return Path(self.out, "data", self.set) if self.cut else Path(self.folder)

    @property
    def features(self) -> Path:
        """Features and labels as measure.load_split reads them."""
        return Path(self.out, "features", self.set)

    def work(self, row: str | None = None) -> Path:
        """Folder for what a row writes on its way, by default this one."""
        return Path(self.out, "work", f"{self.set}.{row or self.row}.{self.seed}")


class Measured(NamedTuple):
    """What a row comes to."""

    P: sp.csr_matrix  # [test texts, labels]
    train: float | None  # seconds, without reading of data and TF-IDF; None: nothing is trained
    p50: float  # seconds of one query
    texts_per_second: float
    memory: int  # bytes of the process that trains, at most
    is_resumed: bool = False  # training was broken off and gone on with


# ---------------------------------------------------------------------------- what rows share


def prepare(spec: Spec) -> None:
    """Writes the cut of a data set, and TF-IDF of the texts (or the set's own features), where they are not there."""
    if spec.cut and not spec.data.is_dir():
        with replace_folder(spec.data) as tmp:
            save_dataset(tmp, cut_dataset(spec.folder, spec.cut))
    settings = json.loads(json.dumps(load_config(spec.config).tfidf.to_dict()))  # tuples become lists, as on disk
    if spec.features.is_dir():
        if read_json(spec.features / "about.json")["settings"] != settings:
            raise ValueError(f"{spec.features} was made with other settings of TF-IDF: take another --out")
        return
    dataset = load_dataset(spec.data, dev_size=0)
    if dataset.tst is None:
        raise ValueError(f"{spec.data} has no test split: there is nothing to measure on")
    trn, tst = dataset.trn, dataset.tst
    about = {"settings": settings}
    X_trn, X_tst = trn.X, tst.X
    if X_trn is None:
        seconds, (tfidf, X_trn) = timed(fit_tfidf, trn.texts, **load_config(spec.config).tfidf)
        X_tst = transform(tfidf, tst.texts)
        single = latencies(lambda text: transform(tfidf, [text]), list(tst.texts[:NR_SINGLE_TEXTS]))
        about |= {"tfidf_seconds": seconds, "tfidf_p50": single["p50"]}
    with replace_folder(spec.features) as tmp:
        save_split(tmp, "trn", X_trn, None, trn.Y)
        save_split(tmp, "tst", X_tst, None, tst.Y)
        rows = {"trn": X_trn.shape[0], "tst": X_tst.shape[0], "features": X_trn.shape[1], "labels": trn.Y.shape[1]}
        write_json(tmp / "about.json", about | rows)


def cut_dataset(folder: str, cut: dict) -> Dataset:
    """A part of a data set: the rows of two lists beside it, or as many as two sizes say, drawn with seed 0."""
    if "lists" in cut:
        trn_rows, tst_rows = cut["lists"]
        return load_dataset(folder, trn_rows=trn_rows, tst_rows=tst_rows)
    dataset, rng = load_dataset(folder), np.random.default_rng(0)
    splits = {}
    for name, size in zip(("trn", "tst"), cut["sizes"], strict=True):
        split = getattr(dataset, name)
        rows = np.sort(rng.choice(split.Y.shape[0], size, replace=False))
        splits[name] = Split([split.texts[row] for row in rows], split.Y[rows], None)
    return dataset._replace(**splits)


# ---------------------------------------------------------------------------- linear rows


def nearest_neighbours(spec: Spec) -> Measured:
    """Votes of the nearest training texts; nothing is trained."""
    (X, _, Y), (Z, _, _) = (load_split(spec.features, name) for name in ("trn", "tst"))
    Xt, queries = X.T.tocsr(), [Z[row] for row in range(min(NR_SINGLE_TEXTS, Z.shape[0]))]
    single = latencies(lambda query: vote(query, Xt, Y, NEIGHBOURS), queries)
    blocks = [Z[start : start + 500] for start in range(0, Z.shape[0], 500)]
    seconds, voted = timed(lambda: [vote(block, Xt, Y, NEIGHBOURS) for block in blocks])
    return Measured(sp.vstack(voted, format="csr"), None, single["p50"], Z.shape[0] / seconds, peak_memory())


def linear(spec: Spec, side: str) -> Measured:
    """XR-Linear with PECOS's defaults, here or by a peer, as benchmarks/xlinear.py measures it."""
    args = Namespace(peer_python=spec.peer_python, threads=spec.threads)
    with tempfile.TemporaryDirectory() as tmp:
        data, model = Path(tmp, "data"), Path(tmp, side)
        data.mkdir()  # of its own, for the tree goes there
        for path in spec.features.glob("*.np[zy]"):
            (data / path.name).symlink_to(path)
        if side == "omikuji":
            X, _, Y = load_split(data, "trn")
            write_text(data / TEXT, X, Y)
        found = call_worker(args, side, "fit", data, model, spec.seed)
        served = call_worker(args, side, "predict", data, model, "npz")
        P = sp.load_npz(f"{model}.npz.npz")
    train = found["fit"] if "fit" in found else found["embed"] + found["cluster"] + found["train"]
    return Measured(P, train, served["p50"], 1 / served["predict"], found["memory"])


# ---------------------------------------------------------------------------- runs


def fields_of(spec: Spec, changes: dict) -> dict:
    """Fields of a run that are not those of its configuration file."""
    rows = {"data.dir": str(spec.data), "data.trn_rows": "", "data.tst_rows": "", "seed": spec.seed}
    passes = {"xr_linear": False, "matcher.score_test": False}  # what is not of the row
    return {**rows, **passes, "encoder.name": spec.encoder, **changes}


def run_ours(spec: Spec, changes: dict) -> Measured:
    """A run of xrt_jax.main and its model folder on the test texts; after a break it goes on where it was."""
    workdir = spec.work()
    done = Path(f"{workdir}.json")
    if not done.is_file():
        is_resumed = workdir.is_dir()
        flags = [f"--config.{key}={value}" for key, value in fields_of(spec, changes).items()]
        command = [sys.executable, "-m", "xrt_jax.main", f"--config={spec.config}", f"--workdir={workdir}", *flags]
        print(shlex.join(command), flush=True)
        status, memory = run_measured(command, cwd=ROOT)
        if status:
            raise ValueError(f"the run ended with status {status}")
        write_json(done, {"memory": memory, "is_resumed": is_resumed})
    seconds = read_json(workdir / "metrics.json")["seconds"]
    train = sum(value for stage, value in seconds.items() if stage not in NOT_TRAINING)
    P, p50, texts_per_second = serve(workdir / "model", spec.data)
    return Measured(P, train, p50, texts_per_second, **read_json(done))


def serve(folder: Path, data: Path) -> tuple[sp.csr_matrix, float, float]:
    """(predictions, seconds of one text, texts a second) of a model folder on the test texts of a data set."""
    from xrt_jax.report import keep_compiled

    keep_compiled()
    from xrt_jax.model import load_model, rank_texts
    from xrt_jax.xlinear.predict import prepare as prepare_ranker

    model, tst = load_model(folder), load_dataset(data, dev_size=0).tst
    nr_dense = model.encoder.module.hidden_size if model.encoder else 0
    model = model._replace(ranker=prepare_ranker(model.ranker, nr_dense))
    with tempfile.TemporaryDirectory() as tmp:
        number = count()

        def rank(rows):
            X = None if tst.X is None else tst.X[rows]
            texts = None if tst.texts is None else tst.texts[rows]
            return rank_texts(model, texts, f"{tmp}/{next(number)}", X=X)

        singles = [slice(row, row + 1) for row in range(min(NR_SINGLE_TEXTS, tst.Y.shape[0]))]
        single = latencies(rank, singles)
        seconds, P = timed(rank, slice(None))
    return P, single["p50"], tst.Y.shape[0] / seconds


def run_pecos(spec: Spec, changes: dict) -> Measured:
    """PECOS's XR-Transformer with the settings of run_ours, as far as it has them; it cannot go on after a break."""
    config = load_config(spec.config)
    override(config, fields_of(spec, changes))
    workdir = spec.work()
    write_json(workdir / "config.json", to_json(config))
    return pecos_result(spec, workdir, xtransformer.measure_peer(workdir, spec.peer_python, spec.threads))


def run_pecos_text_only(spec: Spec) -> Measured:
    """PECOS's ranker on the embedding alone, of the encoder that it fine-tuned in the row xrt-pecos."""
    workdir = spec.work("xrt-pecos")
    found = xtransformer.measure_peer(workdir, spec.peer_python, spec.threads, phase="text-only")
    return pecos_result(spec, workdir, found, "text-only")


def pecos_result(spec: Spec, workdir: Path, found: dict, phase: str = "train") -> Measured:
    """What a phase of xtransformer_pecos.py has measured."""
    P = sp.load_npz(workdir / "pecos" / f"P.{phase}.npz")
    seconds = found["seconds"]
    return Measured(P, seconds["training"], found["p50"], P.shape[0] / seconds["prediction"], found["memory"])


def fine_tuned(spec: Spec) -> str:
    """The encoder of the row xrt, of the same seed."""
    return str(spec.work("xrt") / "model" / "encoder")


PLAIN, TEXT_ONLY = {"do_fine_tune": False}, {"ranker_features": "embedding"}
MEASURE = {
    "knn": nearest_neighbours,
    "xlinear": lambda spec: linear(spec, "ours"),
    "xlinear-pecos": lambda spec: linear(spec, "pecos"),
    "xlinear-omikuji": lambda spec: linear(spec, "omikuji"),
    "xlinear-tuned": lambda spec: run_ours(spec, {"method": "xr_linear"}),
    "xrt-plain": lambda spec: run_ours(spec, PLAIN),
    "xrt-plain-pecos": lambda spec: run_pecos(spec, PLAIN),
    "xrt": lambda spec: run_ours(spec, {}),
    "xrt-pecos": lambda spec: run_pecos(spec, {}),
    "xrt-text": lambda spec: run_ours(spec, PLAIN | TEXT_ONLY | {"encoder.name": fine_tuned(spec)}),
    "xrt-text-pecos": run_pecos_text_only,
}


# ---------------------------------------------------------------------------- the row


def percents(spec: Spec, P: sp.csr_matrix) -> dict[str, float]:
    """{"P@1": percent, …} of predictions for the test texts."""
    (_, _, Y_trn), (_, _, Y_tst) = (load_split(spec.features, name) for name in ("trn", "tst"))
    found = all_metrics(Y_tst, P, 10, Y_trn)
    pairs = [(f"{name}@{k}", found[key][k - 1]) for name, (key, ks) in METRICS.items() for k in ks]
    return {name: 100 * float(value) for name, value in pairs}


def machine(spec: Spec) -> str:
    """Processor, cores, and where jax was at work, what it worked on."""
    text = f"{processor()}, {spec.threads} of {os.cpu_count()} cores"
    if "jax" not in sys.modules:
        return text
    import jax

    return text if jax.default_backend() == "cpu" else f"{text}, {jax.devices()[0].device_kind}"


def measure(spec: Spec) -> None:
    """Writes the row's file."""
    found = MEASURE[spec.row](spec)
    row = {"set": spec.set, "row": spec.row, "seed": spec.seed, "metrics": percents(spec, found.P)}
    row |= {key: value for key, value in found._asdict().items() if key != "P"}
    write_json(
        Path(spec.out, "rows", f"{spec.name}.json"),
        row | {"machine": machine(spec), "commit": spec.commit, "command": spec.command},
    )


if __name__ == "__main__":
    {"prepare": prepare, "measure": measure}[sys.argv[1]](Spec(**json.loads(sys.argv[2])))
