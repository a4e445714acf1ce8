"""The least time that a stage can take here: bytes over the memory's bandwidth or FLOPs over the arithmetic's rate.

Weights and other small things are taken to lie in caches, and every byte that must come from memory to come once a
pass. Training is counted as a single pass, so its distance from the floor holds the passes until convergence too.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from measure import BEAM, MAX_LEAF_SIZE, NR_SPLITS, nr_threads, timed

from xrt_jax.tree.chain import aggregate_labels, binary_depth, complete_chain, pattern

ENTRY = 8  # bytes of a stored non-zero: value and index
COPIED = 1 << 28  # bytes, well beyond any cache
SQUARE = 1024  # rows of the matrices multiplied


def measure_bandwidth() -> float:
    """Bytes a second that a copy on all threads reads and writes; the best of five."""
    source, target = np.ones(COPIED, np.uint8), np.zeros(COPIED, np.uint8)
    pairs = list(zip(*(np.array_split(array, nr_threads()) for array in (target, source)), strict=True))
    with ThreadPoolExecutor(nr_threads()) as pool:
        seconds = [timed(list, pool.map(lambda pair: np.copyto(*pair), pairs))[0] for _ in range(5)]
    return 2 * COPIED / min(seconds)


def measure_flops() -> float:
    """float32 operations a second in a product of square matrices by BLAS; the best of five."""
    A, B = np.random.default_rng(0).random((2, SQUARE, SQUARE), np.float32)
    return 2 * SQUARE**3 / min(timed(np.matmul, A, B)[0] for _ in range(5))


# ---------------------------------------------------------------------------- work: (bytes, FLOPs) of a stage


def embedding_work(X, nr_dense: int, Y, embedding_nnz: int) -> tuple[float, float]:
    """Read the features, write the embedding; a multiplication and an addition for each label of each non-zero."""
    nnz = np.diff(X.indptr) + nr_dense
    return ENTRY * X.nnz + 4 * nr_dense * X.shape[0] + ENTRY * embedding_nnz, 2 * float(np.diff(Y.indptr) @ nnz)


def clustering_work(nr_labels: int, embedding_nnz: int) -> tuple[float, float]:
    """Every binary layer goes twice over the embedding: for the sums of a node's halves, and for the scores."""
    passes = 2 * binary_depth(nr_labels, MAX_LEAF_SIZE) if nr_labels > MAX_LEAF_SIZE else 0
    return passes * ENTRY * embedding_nnz, passes * 2 * embedding_nnz


def training_work(X, nr_dense: int, Y, C_leaf) -> tuple[float, float]:
    """One pass: each row of each cluster is read, and each child's classifier takes a dot product and an update."""
    chain = complete_chain(C_leaf, nr_splits=NR_SPLITS, min_codes=None)
    nnz = np.diff(X.indptr)
    nr_bytes, nr_flops = 0.0, 0.0
    for t, Y_above in enumerate([np.ones((X.shape[0], 1)), *aggregate_labels(Y, chain)[:-1]]):
        rows_of_parent = pattern(Y_above).T
        nr_bytes += (rows_of_parent @ (ENTRY * nnz + 4.0 * nr_dense)).sum()
        nr_flops += 4 * np.diff(chain[t].indptr) @ (rows_of_parent @ (nnz + nr_dense + 1.0))
    return nr_bytes, nr_flops


def prediction_work(X, nr_dense: int, C_leaf) -> tuple[float, float]:
    """A mean row: its non-zeros are read once for each cluster that it visits. What they meet there is not counted."""
    chain = complete_chain(C_leaf, nr_splits=NR_SPLITS, min_codes=None)
    visited = sum(min(BEAM, C.shape[1]) for C in chain)
    return visited * (ENTRY * X.nnz / X.shape[0] + 4 * nr_dense), 0.0


def seconds_at_least(work: tuple[float, float], bandwidth: float, flops: float) -> float:
    """The longer of moving the bytes and computing, which may overlap."""
    return max(work[0] / bandwidth, work[1] / flops)
