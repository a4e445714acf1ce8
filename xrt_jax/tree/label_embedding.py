"""Label embeddings from which the label tree is clustered (the methods of PECOS's LabelEmbeddingFactory)."""

from itertools import pairwise

import numpy as np
import scipy.sparse as sp
from numba import njit

from xrt_jax.sparse import (
    Features,
    as_features,
    canonical,
    enlarged,
    feature_arrays,
    inverse_or_one,
    normalize_rows,
    nr_features,
    nr_rows,
    row_norms,
    scale_rows,
    thread_map,
)

METHODS = ("pifa", "pii", "pifa_lf_concat", "pifa_lf_convex_combine")
# The rows of a product are handed to threads in this many groups of about equal work.
NR_GROUPS = 64
# The 6 top bits of DE_BRUIJN · 2^i differ for all i < 64: they find the i of a lone bit.
DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
BIT_OF = np.argsort(DE_BRUIJN << np.arange(64, dtype=np.uint64) >> np.uint64(58))


# ---------------------------------------------------------------------------- sparse product, compiled


@njit(cache=True, nogil=True)
def _mark(bits, i):
    bits[i >> 6] |= np.uint64(1) << np.uint64(i & 63)


@njit(cache=True, nogil=True)
def _take_lowest(bits, word):
    """Remove the lowest bit that is set in bits[word]; returns its number in `bits`."""
    lone = bits[word] & (~bits[word] + np.uint64(1))
    bits[word] ^= lone
    return 64 * word + BIT_OF[(lone * DE_BRUIJN) >> np.uint64(58)]


@njit(cache=True, nogil=True)
def _take_sums(sums, touched, words, columns, values, used):
    """Append the touched columns, ascending, and their sums; everything is zero afterwards.

    `touched` has a bit a column, `words` a bit for each of its words, so that a short row is found without a search.
    """
    for top in range(len(words)):
        while words[top]:
            word = _take_lowest(words, top)
            if used + 64 > len(columns):
                columns, values = enlarged(columns, used + 64), enlarged(values, used + 64)
            while touched[word]:
                column = _take_lowest(touched, word)
                columns[used], values[used] = column, sums[column]
                sums[column] = 0
                used += 1
    return columns, values, used


@njit(cache=True, nogil=True)
def _product_rows(first, last, A_indptr, A_indices, A_data, B_indptr, B_indices, B_data, nr_columns):
    """Rows first:last of A B: (entries of every row, column indices ascending, values), summed in A's order."""
    sums = np.zeros(nr_columns, np.float32)
    touched = np.zeros((nr_columns + 63) // 64, np.uint64)
    words = np.zeros((len(touched) + 63) // 64, np.uint64)
    counts = np.zeros(last - first, np.int64)
    columns, values = np.empty(1024, np.int32), np.empty(1024, np.float32)
    used = 0
    for row in range(first, last):
        for k in range(A_indptr[row], A_indptr[row + 1]):
            factor, i = A_data[k], A_indices[k]
            for m in range(B_indptr[i], B_indptr[i + 1]):
                column = np.int64(B_indices[m])
                sums[column] += factor * B_data[m]
                _mark(touched, column)
                _mark(words, column >> 6)
        before = used
        columns, values, used = _take_sums(sums, touched, words, columns, values, used)
        counts[row - first] = used - before
    return counts, columns[:used], values[:used]


def _equal_work(A: sp.csr_matrix, B: sp.csr_matrix) -> np.ndarray:
    """Bounds of NR_GROUPS groups of rows of A with about the same number of multiplications in A B: int64."""
    work = np.concatenate([[0], np.cumsum(np.diff(B.indptr)[A.indices], dtype=np.int64)])[A.indptr]
    bounds = np.searchsorted(work, np.linspace(0, work[-1], NR_GROUPS + 1)[1:-1])
    return np.unique(np.concatenate([[0], bounds, [A.shape[0]]]))


def _sparse_product(A: sp.csr_matrix, B: sp.csr_matrix) -> sp.csr_matrix:
    """A B in float32 with sorted indices, by all threads; the bits do not depend on their number."""
    a, b = feature_arrays(Features(A, None)), feature_arrays(Features(B, None))
    groups = list(pairwise(_equal_work(A, B)))
    arrays = (a.indptr, a.indices, a.data, b.indptr, b.indices, b.data, B.shape[1])
    parts = list(thread_map(lambda group: _product_rows(*group, *arrays), groups))
    indptr = np.concatenate([[0], np.cumsum(np.concatenate([part[0] for part in parts]))])
    columns, values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    for first, _ in reversed(groups):  # parts are given up as they are copied; the heap gives back its end only
        _, of_columns, of_values = parts.pop()
        here = slice(indptr[first], indptr[first] + len(of_columns))
        columns[here], values[here] = of_columns, of_values
    return sp.csr_matrix((values, columns, indptr), shape=(A.shape[0], B.shape[1]))


# ---------------------------------------------------------------------------- parts of features


def _as_kind(parts: Features, X):
    """`parts` as what X is: Features, csr or ndarray."""
    if isinstance(X, Features):
        return parts
    return parts.sparse if sp.issparse(X) else parts.dense


def _of_parts(parts: Features):
    """Features only where both parts are there."""
    return next((part for part, other in (parts, parts[::-1]) if other is None), parts)


def _labels_of(Z, Y) -> Features:
    """Z as Features; ValueError unless it has a row for each label of Y."""
    if Z is None:
        raise ValueError("label features Z [labels, columns] are missing: this method needs them")
    if nr_rows(Z) != Y.shape[1]:
        raise ValueError(f"Z has {nr_rows(Z)} rows, Y has {Y.shape[1]} labels: Z needs one row a label")
    return as_features(Z)


def _side_by_side(left: Features, right: Features) -> Features:
    """Sparse parts beside sparse parts, dense beside dense."""
    sparse = [A for A in (left.sparse, right.sparse) if A is not None]
    dense = [A for A in (left.dense, right.dense) if A is not None]
    return Features(
        canonical(sp.hstack(sparse, format="csr"), "csr") if sparse else None, np.hstack(dense) if dense else None
    )


# ---------------------------------------------------------------------------- methods


def pifa(Y, X, normalized_Y: bool = True):
    """Positive instance feature aggregation: unit rows of Z = Y^T X, with the rows of Y made unit first (as PECOS).

    Args:
        Y: sparse [n, L], values count.
        X: csr, ndarray or Features [n, d].
        normalized_Y: divide each row of Y by its L2 norm first.

    Returns:
        Z [L, d] of X's own type, float32; with two parts the norm is that of the whole row. A label without positives
        has a zero row.
    """
    parts = as_features(X)
    if Y.shape[0] != nr_rows(parts):
        raise ValueError(f"Y has {Y.shape[0]} rows, X has {nr_rows(parts)}: both need one row an instance")
    Yt = canonical((normalize_rows(Y) if normalized_Y else canonical(Y, "csr")).T, "csr")
    sparse = None if parts.sparse is None else _sparse_product(Yt, parts.sparse)
    Z = Features(sparse, None if parts.dense is None else Yt @ parts.dense)
    factor = inverse_or_one(row_norms(Z))
    return _as_kind(Features(*(None if part is None else scale_rows(part, factor, in_place=True) for part in Z)), X)


def pii(Y) -> sp.csr_matrix:
    """Positive instance indices: csr float32 [L, n], the rows of Y^T made unit (as PECOS)."""
    return normalize_rows(canonical(Y, "csr").T)


def pifa_lf_concat(Y, X, Z):
    """PIFA embeddings beside label features, which keep their length (as PECOS, but nothing dense becomes CSR).

    Args:
        Y: sparse [n, L].
        X: csr, ndarray or Features [n, d].
        Z: csr, ndarray or Features [L, e]: label features.

    Returns:
        [L, d + e]: csr if both are sparse, ndarray if both are dense, else Features: the sparse columns of pifa and of
        Z, then the dense ones of pifa and of Z.
    """
    label_features = _labels_of(Z, Y)
    return _of_parts(_side_by_side(as_features(pifa(Y, X)), label_features))


def _mixed(A, B, alpha: np.ndarray):
    """alpha · A + (1 - alpha) · B, row by row: csr if both are csr, else ndarray; None if both are missing."""
    if A is None and B is None:
        return None
    if sp.issparse(A) and sp.issparse(B):
        return canonical(scale_rows(A, alpha) + scale_rows(B, 1 - alpha), "csr")
    A, B = (M.toarray() if sp.issparse(M) else M for M in (A, B))
    return scale_rows(A, alpha) + scale_rows(B, 1 - alpha)


def _alphas(alpha, nr_labels: int) -> np.ndarray:
    """alpha for each label: float64 [L]; ValueError if there is another number of them or one outside [0, 1]."""
    alpha = np.asarray(alpha, np.float64)
    if alpha.shape not in ((), (nr_labels,)):
        raise ValueError(f"alpha has the shape {alpha.shape}: give one number, or one for each of {nr_labels} labels")
    if not ((alpha >= 0) & (alpha <= 1)).all():
        raise ValueError("alpha must be between 0 and 1, for every label")
    return np.broadcast_to(alpha, (nr_labels,))


def _widths(Z: Features) -> list[int | None]:
    return [None if part is None else part.shape[1] for part in Z]


def pifa_lf_convex_combine(Y, X, Z, alpha=0.5):
    """alpha · PIFA embeddings + (1 - alpha) · label features, rows not made unit again (as PECOS).

    Args:
        Y: sparse [n, L].
        X: csr, ndarray or Features [n, d].
        Z: csr, ndarray or Features [L, d]: label features, in the space of X.
        alpha: share of PIFA in [0, 1], a number or one a label [L].

    Returns:
        [L, d]: csr if both are csr; Features if both are (they must have equal parts); else ndarray.
    """
    label_features, alpha = _labels_of(Z, Y), _alphas(alpha, Y.shape[1])
    parts = as_features(X)
    if isinstance(X, Features) != isinstance(Z, Features):
        raise ValueError("X and Z must both have sparse and dense parts, or neither: make them alike")
    if isinstance(X, Features) and _widths(parts) != _widths(label_features):
        raise ValueError(f"parts of X and Z have the widths {_widths(parts)} and {_widths(label_features)}: not equal")
    if nr_features(parts) != nr_features(label_features):
        raise ValueError(f"X has {nr_features(parts)} columns, Z has {nr_features(label_features)}: they must be equal")
    embedding = pifa(Y, X)
    if isinstance(X, Features):
        return Features(*(_mixed(A, B, alpha) for A, B in zip(embedding, label_features, strict=True)))
    return _mixed(embedding, _of_parts(label_features), alpha)


def label_embedding(method: str, Y, X, *, Z=None, alpha=0.5):
    """Label embeddings by the name of a method.

    Args:
        method: "pifa", "pii", "pifa_lf_concat" or "pifa_lf_convex_combine".
        Y: sparse [n, L].
        X: csr, ndarray or Features [n, d]; pii does not read it.
        Z: label features [L, e] of the last two methods.
        alpha: share of PIFA in pifa_lf_convex_combine, in [0, 1], a number or one a label.

    Returns:
        What the function of that name returns; ValueError for an unknown method or arguments that do not fit it.
    """
    if method not in METHODS:
        raise ValueError(f"label embedding {method!r} is unknown: choose one of {', '.join(METHODS)}")
    if method == "pii":
        return pii(Y)
    if method == "pifa":
        return pifa(Y, X)
    if method == "pifa_lf_concat":
        return pifa_lf_concat(Y, X, Z)
    return pifa_lf_convex_combine(Y, X, Z, alpha)
