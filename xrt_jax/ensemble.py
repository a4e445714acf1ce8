"""One ranking out of several: the ensembling rules of PECOS (its CsrEnsembler)."""

import numpy as np
import scipy.sparse as sp

from xrt_jax.sparse import canonical, find_entries, row_ids


def by_rank(P: sp.csr_matrix) -> sp.csr_matrix:
    """P with every row sorted by descending score, ties by column; zeros that are stored stay."""
    order = np.lexsort((P.indices, -P.data, row_ids(P)))
    return sp.csr_matrix((P.data[order], P.indices[order], P.indptr), shape=P.shape)


def _with_data(P: sp.csr_matrix, data: np.ndarray) -> sp.csr_matrix:
    return sp.csr_matrix((data, P.indices, P.indptr), shape=P.shape)


def _places(P: sp.csr_matrix) -> np.ndarray:
    """Place in its row, from 0, of every stored entry."""
    return np.arange(P.nnz) - np.repeat(P.indptr[:-1], np.diff(P.indptr))


def _relevances(ranked: list[sp.csr_matrix]) -> list[np.ndarray]:
    """Longest row of all, minus the place."""
    longest = max(int(np.diff(P.indptr).max(initial=0)) for P in ranked)
    return [longest - _places(P).astype(np.float64) for P in ranked]


def _scores(ranked: list[sp.csr_matrix]) -> list[np.ndarray]:
    return [P.data.astype(np.float64) for P in ranked]


def _sigmoids(ranked: list[sp.csr_matrix]) -> list[np.ndarray]:
    return [0.5 * (1 + np.tanh(0.5 * data)) for data in _scores(ranked)]  # 1 / (1 + exp(-x)) without overflow


def _softmaxes(ranked: list[sp.csr_matrix]) -> list[np.ndarray]:
    """Softmax over the stored entries of every row."""
    return [_softmax(P) for P in ranked]


def _softmax(P: sp.csr_matrix) -> np.ndarray:
    rows = row_ids(P)
    highest = P.data[P.indptr[rows]]  # the first of a ranked row
    exponential = np.exp(P.data.astype(np.float64) - highest)
    return exponential / np.bincount(rows, exponential, minlength=P.shape[0])[rows]


def _turns(ranked: list[sp.csr_matrix]) -> list[np.ndarray]:
    """Relevances with a share of a place added, so that the earlier of two predictions goes first."""
    n = len(ranked)
    return [relevance + (n - i) / (n + 1) for i, relevance in enumerate(_relevances(ranked))]


# What the entries of every prediction become, and how those of one label are joined before the division by n.
METHODS = {
    "average": (_scores, np.add),
    "rank_average": (_relevances, np.add),
    "sigmoid_average": (_sigmoids, np.add),
    "softmax_average": (_softmaxes, np.add),
    "round_robin": (_turns, np.maximum),
}


def _join(ufunc: np.ufunc, matrices: list[sp.csr_matrix]) -> sp.csr_matrix:
    """ufunc over the stored entries of each place, left to right; a place that one stores is kept, zero or not."""
    shape = matrices[0].shape
    places = np.concatenate([row_ids(P) * shape[1] + P.indices for P in matrices])
    values = np.concatenate([P.data for P in matrices])
    order = np.argsort(places, kind="stable")
    first = np.flatnonzero(np.diff(places[order], prepend=-1))
    joined = ufunc.reduceat(values[order], first) if len(first) else values
    rows, columns = np.divmod(places[order][first], max(1, shape[1]))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=shape[0]))])
    return sp.csr_matrix((joined, columns, indptr), shape=shape)


def check_method(method: str) -> None:
    """ValueError unless `combine` knows the method."""
    if method not in METHODS:
        raise ValueError(f"ensemble method {method!r} is unknown: choose one of {', '.join(METHODS)}")


def combine(method: str, predictions: list) -> sp.csr_matrix:
    """Join the predictions of several models for the same instances (as PECOS).

    Args:
        method: what is averaged, a label that a model does not predict counting 0: "average", its scores;
            "sigmoid_average" and "softmax_average", their sigmoid or their softmax within the row; "rank_average",
            longest row minus rank; or "round_robin", the models' best labels in turns: the greatest, over the models
            i = 0 … n-1, of longest row minus rank plus (n - i) / (n + 1), divided by n.
        predictions: sparse matrices [instances, labels] of one shape, rows in any order; they are not changed.

    Returns:
        csr float32 [instances, labels], each row by descending score, ties by the lower column.
    """
    check_method(method)
    if not predictions:
        raise ValueError("no predictions to combine: give at least one matrix")
    shapes = [P.shape for P in predictions]
    if len(set(shapes)) > 1:
        raise ValueError(f"predictions of unequal shapes {shapes}: all must be for the same instances and labels")
    transform, join = METHODS[method]
    ranked = [by_rank(canonical(P, "csr", f"prediction {i}")) for i, P in enumerate(predictions)]
    data = transform(ranked)
    joined = _join(join, [_with_data(P, values) for P, values in zip(ranked, data, strict=True)])
    return by_rank(_with_data(joined, (joined.data / len(ranked)).astype(np.float32)))


def first_entries(P: sp.csr_matrix, most: int) -> sp.csr_matrix:
    """The first `most` entries of each row, in their order."""
    return _kept(P, _places(P) < most)


def entries_from(P: sp.csr_matrix, least: float) -> sp.csr_matrix:
    """The entries of at least this value, in their order."""
    return _kept(P, P.data >= least)


def without_entries(P: sp.csr_matrix, pattern: sp.csr_matrix) -> sp.csr_matrix:
    """The entries where `pattern`, a canonical csr of the same shape, stores nothing, in their order."""
    return _kept(P, find_entries(pattern, row_ids(P), P.indices) < 0)


def _kept(P: sp.csr_matrix, kept: np.ndarray) -> sp.csr_matrix:
    """The stored entries of a mask [nnz], in their order."""
    indptr = np.concatenate([[0], np.cumsum(kept)])[P.indptr]
    return sp.csr_matrix((P.data[kept], P.indices[kept], indptr), shape=P.shape)
