"""xrt_jax's side of benchmarks/xlinear.py, in processes of their own.

    python xlinear_ours.py machine                      what this machine's memory and arithmetic can do
    python xlinear_ours.py fit DATA MODEL [SEED]        label embedding, clustering, training
    python xlinear_ours.py predict DATA MODEL MODE      load time, single queries, batch; predictions to MODEL.MODE.npz

Every process first runs all stages on a random problem, so that no compilation is measured.
"""

import tempfile
from pathlib import Path

import floor
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
    peak_memory,
    run_phase,
    shared_tree,
    timed,
)

from xrt_jax.sparse import Features
from xrt_jax.tree.chain import complete_chain
from xrt_jax.tree.kmeans import LARGE_ROOT, hierarchical_kmeans
from xrt_jax.tree.label_embedding import pifa_product
from xrt_jax.xlinear.folder import load_ranker, save_ranker
from xrt_jax.xlinear.mapped import load_mapped, save_mapped
from xrt_jax.xlinear.predict import predict, prepare
from xrt_jax.xlinear.train import train_ranker, train_to_folder

# how a saved model gets ready to answer queries with so many dense columns
MODES = {
    "npz": lambda folder, nr_dense: prepare(load_ranker(folder), nr_dense),
    "mmap": lambda folder, nr_dense: load_mapped(f"{folder}.mapped"),
}


def features(X, E):
    """As this project takes them: the dense columns stay dense."""
    return X if E is None else Features(X, E)


def cluster(Z, seed=0):
    return hierarchical_kmeans(Z, nr_splits=NR_SPLITS, max_leaf_size=MAX_LEAF_SIZE, seed=seed)


def rank(prepared, X):
    return predict(prepared, X, beam_size=BEAM, only_topk=TOPK)


def warm_up(is_dense: bool) -> None:
    """Compile, or load from numba's cache, what the stages use for such features."""
    rng = np.random.default_rng(0)
    draw = lambda n, d: sp.random(n, d, 0.1, format="csr", dtype=np.float32, random_state=rng)  # noqa: E731
    dense = lambda n: rng.random((n, 4), np.float32) if is_dense else None  # noqa: E731
    cluster(features(draw(LARGE_ROOT + 1, 20), dense(LARGE_ROOT + 1)))  # roots above this size go another way
    X, Y = features(draw(2000, 50), dense(2000)), draw(2000, 200)
    ranker = train_ranker(X, Y, cluster(pifa_product(Y, X)))
    with tempfile.TemporaryDirectory() as folder:
        save_ranker(Path(folder) / "model", ranker)
        save_mapped(Path(folder) / "model.mapped", ranker, 4 * is_dense)
        for load in MODES.values():
            prepared = load(Path(folder) / "model", 4 * is_dense)
            rank(prepared, X)
            rank(prepared, features(draw(1, 50), dense(1)))


def fit(data: str, model: str, seed: str = "0") -> dict:
    """Seconds a stage, bytes of memory and of the model."""
    data, model = Path(data), Path(model)
    warm_up((data / "E.trn.npy").is_file())
    X, E, Y = load_split(data, "trn")
    X, loaded = features(X, E), peak_memory()
    embed, product = timed(pifa_product, Y, X)
    embedding_nnz = sum(part.size for part in product.Z if part is not None)
    clustering, chain = timed(cluster, product, int(seed))
    chain, product = complete_chain(shared_tree(data, chain[-1]), nr_splits=NR_SPLITS, min_codes=None), None
    memory = peak_memory()
    forget_peak()
    train, _ = timed(train_to_folder, model, X, Y, chain)  # what a run does: the weights go to disk as they come
    found = {"embed": embed, "cluster": clustering, "train": train, "loaded": loaded}
    found |= {"train_memory": peak_memory(), "memory": max(memory, peak_memory())}
    save_mapped(f"{model}.mapped", load_ranker(model), 0 if E is None else E.shape[1])
    return found | {"bytes": file_bytes(model, "W.npz", "C.npz"), "embedding_nnz": embedding_nnz}


def serve(data: str, model: str, mode: str) -> dict:
    """Seconds to load, of single queries and of a row in a batch; bytes of memory."""
    data = Path(data)
    warm_up((data / "E.tst.npy").is_file())
    X, E, _ = load_split(data, "tst")
    load, prepared = timed(MODES[mode], model, 0 if E is None else E.shape[1])
    rows = [slice(i, i + 1) for i in range(min(NR_SINGLES, X.shape[0]))]
    queries = [features(X[row], None if E is None else E[row]) for row in rows]
    single = latencies(lambda query: rank(prepared, query), queries)
    batch, P = timed(rank, prepared, features(X, E))
    sp.save_npz(f"{model}.{mode}.npz", P)
    return single | {"load": load, "predict": batch / X.shape[0], "serving_memory": peak_memory()}


def machine() -> dict:
    """Also fills numba's cache, so that no later process compiles."""
    for is_dense in (False, True):
        warm_up(is_dense)
    return {"bandwidth": floor.measure_bandwidth(), "flops": floor.measure_flops()}


if __name__ == "__main__":
    run_phase({"machine": machine, "fit": fit, "predict": serve})
