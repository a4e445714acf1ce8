"""The peers' side of benchmarks/xlinear.py, run by the python of an environment that has PECOS or omikuji.

    python xlinear_peers.py pecos-fit DATA MODEL [SEED]         PECOS: label embedding, clustering, training
    python xlinear_peers.py pecos-predict DATA MODEL MODE       load time, single queries, batch
    python xlinear_peers.py omikuji-fit DATA MODEL [SEED]       omikuji: all in one call, its reading of text included
    python xlinear_peers.py omikuji-predict DATA MODEL MODE

Predictions go to MODEL.MODE.npz.
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from measure import (
    BEAM,
    MAX_LEAF_SIZE,
    NR_SINGLES,
    NR_SPLITS,
    TOPK,
    file_bytes,
    forget_peak,
    latencies,
    load_split,
    nr_threads,
    peak_memory,
    run_phase,
    shared_tree,
    timed,
)

TEXT = "trn.txt"
REQUIREMENTS = "libpecos==1.2.8 transformers==4.49.0 omikuji==0.5.2"


def one_csr(X, E):
    """Dense columns as explicit entries: the only way that a peer takes both."""
    return X if E is None else sp.csr_matrix(sp.hstack([X, sp.csr_matrix(E)], format="csr"))


# ---------------------------------------------------------------------------- PECOS


def pecos_fit(data: str, model: str, seed: str = "0") -> dict:
    """Seconds a stage, bytes of memory and of the model."""
    from pecos.xmc import Indexer, LabelEmbeddingFactory
    from pecos.xmc.xlinear.model import XLinearModel

    data, model = Path(data), Path(model)
    X, E, Y = load_split(data, "trn")
    X, E, threads = one_csr(X, E), None, {"threads": nr_threads()}
    Y_csc, loaded = Y.tocsc(), peak_memory()
    embed, Z = timed(LabelEmbeddingFactory.create, Y, X, method="pifa", **threads)
    tree = {"nr_splits": NR_SPLITS, "max_leaf_size": MAX_LEAF_SIZE, "seed": int(seed)}
    cluster, chain = timed(Indexer.gen, Z, **tree, **threads)
    C_leaf, Z = shared_tree(data, chain[-1]), None
    memory = peak_memory()
    forget_peak()
    train, trained = timed(XLinearModel.train, X, Y_csc, C=C_leaf, nr_splits=NR_SPLITS, **threads)
    found = {"embed": embed, "cluster": cluster, "train": train, "loaded": loaded}
    found |= {"train_memory": peak_memory(), "memory": max(memory, peak_memory())}
    trained.save(str(model))
    XLinearModel.compile_mmap_model(str(model), f"{model}.mapped")
    return {**found, "bytes": file_bytes(model, "W.npz", "C.npz")}


def pecos_predict(data: str, model: str, mode: str) -> dict:
    """Seconds to load, of single queries and of a row in a batch; bytes of memory."""
    from pecos.xmc.xlinear.model import XLinearModel

    X, E, _ = load_split(Path(data), "tst")
    X = one_csr(X, E)
    # hash look-ups are its fastest; a memory-mapped model knows binary search only
    layout = {"npz": (model, {"weight_matrix_type": "HASH_CHUNKED"}), "mmap": (f"{model}.mapped", {})}
    folder, more = layout[mode]
    load, loaded = timed(XLinearModel.load, folder, is_predict_only=True, **more)
    settings = {"beam_size": BEAM, "only_topk": TOPK, "threads": nr_threads()}
    queries = [X[i : i + 1] for i in range(min(NR_SINGLES, X.shape[0]))]
    single = latencies(lambda query: loaded.predict(query, **settings), queries)
    batch, P = timed(loaded.predict, X, **settings)
    sp.save_npz(f"{model}.{mode}.npz", P)
    return {**single, "load": load, "predict": batch / X.shape[0], "serving_memory": peak_memory()}


# ---------------------------------------------------------------------------- omikuji


def write_text(path: Path, X, Y) -> None:
    """Rows as omikuji reads them: a line of sizes, then "labels feature:value …" a row.

    Rows without features are left out: omikuji reads no file that has one.
    """
    rows = np.flatnonzero(np.diff(X.indptr))
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{len(rows)} {X.shape[1]} {Y.shape[1]}\n")
        for i in rows:
            labels = ",".join(map(str, Y.indices[Y.indptr[i] : Y.indptr[i + 1]]))
            span = slice(X.indptr[i], X.indptr[i + 1])
            pairs = " ".join(map("{}:{:.8g}".format, X.indices[span].tolist(), X.data[span].tolist()))
            file.write(f"{labels} {pairs}\n")


def omikuji_fit(data: str, model: str, seed: str = "0") -> dict:
    """Seconds in all, bytes of memory and of the model; the default parameters (Parabel's) with one tree.

    omikuji takes no seed: another one is another run.
    """
    del seed
    from omikuji import Model

    settings = Model.default_hyper_param()
    settings.n_trees = 1
    fit, trained = timed(Model.train_on_data, f"{data}/{TEXT}", settings, nr_threads())
    memory = peak_memory()
    trained.save(model)
    return {"fit": fit, "memory": memory, "train_memory": memory, "bytes": file_bytes(Path(model))}


def omikuji_predict(data: str, model: str, mode: str) -> dict:
    """As pecos_predict; its Python interface takes a row a call, so a batch is one row after the other."""
    from omikuji import Model

    X, E, Y = load_split(Path(data), "tst")
    X = one_csr(X, E)
    load, loaded = timed(Model.load, model)
    loaded.init_prediction_thread_pool(nr_threads())
    spans = pairwise(X.indptr.tolist())
    rows = [list(zip(X.indices[a:b].tolist(), X.data[a:b].tolist(), strict=True)) for a, b in spans]

    def rank(row):
        return loaded.predict(row, beam_size=BEAM, top_k=TOPK)

    single = latencies(rank, rows[:NR_SINGLES])
    batch, ranked = timed(list, map(rank, rows))
    row = np.repeat(np.arange(len(ranked)), [len(found) for found in ranked])
    label, score = zip(*(pair for found in ranked for pair in found), strict=True)
    sp.save_npz(f"{model}.{mode}.npz", sp.csr_matrix((np.float32(score), (row, label)), shape=Y.shape))
    return {**single, "load": load, "predict": batch / X.shape[0], "serving_memory": peak_memory()}


def main() -> None:
    """One line in place of a traceback where the environment lacks the peer."""
    phases = {
        "pecos-fit": pecos_fit,
        "pecos-predict": pecos_predict,
        "omikuji-fit": omikuji_fit,
        "omikuji-predict": omikuji_predict,
    }
    try:
        run_phase(phases)
    except ImportError as error:
        sys.exit(f"{sys.executable} cannot import a peer ({error}): install {REQUIREMENTS} there")


if __name__ == "__main__":
    main()
