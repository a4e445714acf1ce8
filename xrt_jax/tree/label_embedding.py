"""Label embeddings from which the label tree is clustered (the methods of PECOS's LabelEmbeddingFactory)."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numba import njit

from xrt_jax.processes import count, from_each, index
from xrt_jax.sharing import gather_array, share
from xrt_jax.sparse import (
    Features,
    as_features,
    canonical,
    feature_arrays,
    inverse_or_one,
    normalize_rows,
    nr_features,
    nr_rows,
    row_norms,
    scale_rows,
)
from xrt_jax.threads import thread_map
from xrt_jax.tree.passes import NO_ROWS, Embeddings, Product, Rows, embeddings_of, lengths, rows_of

METHODS = ("pifa", "pii", "pifa_lf_concat", "pifa_lf_convex_combine")
# The rows of a product are handed to threads in this many groups of about equal work.
NR_GROUPS = 64
ROWS_AT_A_TIME = 1 << 16
# The 6 top bits of DE_BRUIJN · 2^i differ for all i < 64: they find the i of a lone bit.
DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
BIT_OF = np.argsort(DE_BRUIJN << np.arange(64, dtype=np.uint64) >> np.uint64(58))


# ---------------------------------------------------------------------------- sparse product, compiled


@njit(cache=True, nogil=True)
def _no_marks(nr_columns):
    """(a bit a column in words of 64, a byte a word): what _mark sets and _marked_words finds and clears."""
    nr_words = (nr_columns + 511) // 512 * 8
    return np.zeros(nr_words, np.uint64), np.zeros(nr_words, np.uint8)


@njit(cache=True, nogil=True)
def _mark(words, is_marked, column):
    words[column >> np.uint32(6)] |= np.uint64(1) << np.uint64(column & np.uint32(63))
    is_marked[column >> np.uint32(6)] = 1


@njit(cache=True, nogil=True)
def _nr_bits(word):
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@njit(cache=True, nogil=True)
def _count_rows(first, last, A_indptr, A_indices, B_indptr, B_indices, nr_columns, counts):
    """counts[row]: stored entries of row first:last of A B."""
    words, is_marked = _no_marks(nr_columns)
    eights = is_marked.view(np.uint64)  # a row has few columns of many: most are passed eight words at a time
    for row in range(first, last):
        for i in A_indices[A_indptr[row] : A_indptr[row + 1]]:
            for m in range(np.uint64(B_indptr[i]), np.uint64(B_indptr[i + 1])):
                _mark(words, is_marked, B_indices[m])
        count = np.uint64(0)
        for eight in range(len(eights)):
            if eights[eight]:
                eights[eight] = 0
                for word in range(8 * eight, 8 * eight + 8):
                    count += _nr_bits(words[word])
                    words[word] = 0
        counts[row] = count


@njit(cache=True, nogil=True)
def _take_sums(sums, words, eights, columns, values):
    """Move the marked columns, ascending, and their sums to columns and values; returns the square of the values."""
    used, square = 0, 0.0
    for eight in range(len(eights)):
        if eights[eight]:
            eights[eight] = 0
            for word in range(8 * eight, 8 * eight + 8):
                bits, words[word] = words[word], 0
                while bits:
                    lone = bits & (~bits + np.uint64(1))
                    bits ^= lone
                    column = np.uint64(64 * word + BIT_OF[(lone * DE_BRUIJN) >> np.uint64(58)])
                    columns[used], values[used] = column, sums[column]
                    square += np.float64(sums[column]) * sums[column]
                    sums[column] = 0
                    used += 1
    return square


@njit(cache=True, nogil=True)
def _fill_rows(first, last, A_indptr, A_indices, A_data, B_indptr, B_indices, B_data, nr_columns, squares, Z):
    """Rows first:last of A B, summed in A's order, made unit beside what squares[row] already holds of the same row.

    squares[row] grows by the row's own square. Z: (indptr, indices, data) of the product; indptr is given.
    """
    indptr, columns, values = Z
    sums, (words, is_marked) = np.zeros(nr_columns, np.float32), _no_marks(nr_columns)
    eights = is_marked.view(np.uint64)
    for row in range(first, last):
        for k in range(A_indptr[row], A_indptr[row + 1]):
            factor, i = A_data[k], A_indices[k]
            for m in range(np.uint64(B_indptr[i]), np.uint64(B_indptr[i + 1])):
                sums[B_indices[m]] += factor * B_data[m]
                _mark(words, is_marked, B_indices[m])
        here = slice(indptr[row], indptr[row + 1])
        squares[row] += _take_sums(sums, words, eights, columns[here], values[here])
        factor = 1 / np.sqrt(squares[row]) if squares[row] > 0 else 1.0  # of a tiny row it is no float32
        for k in range(indptr[row], indptr[row + 1]):
            values[k] *= factor


def _equal_work(A: sp.csr_matrix, B: sp.csr_matrix) -> np.ndarray:
    """Bounds of NR_GROUPS groups of rows of A with about the same number of multiplications in A B: int64."""
    work = np.concatenate([[0], np.cumsum(np.diff(B.indptr)[A.indices], dtype=np.int64)])[A.indptr]
    bounds = np.searchsorted(work, np.linspace(0, work[-1], NR_GROUPS + 1)[1:-1])
    return np.unique(np.concatenate([[0], bounds, [A.shape[0]]]))


def _unit_product(A: sp.csr_matrix, B: sp.csr_matrix, squares: np.ndarray) -> sp.csr_matrix:
    """A B in float32 with sorted indices; each row, of which `squares` holds the square of another part, is made unit.

    Entries are counted first, so that the product is made where it stays: it is often the largest array of a run. All
    threads work; the bits do not depend on their number. `squares` float64 [rows] grows by the squares of A B.
    """
    a, b = feature_arrays(Features(A, None)), feature_arrays(Features(B, None))
    groups = list(pairwise(_equal_work(A, B)))
    counts = np.empty(A.shape[0], np.int64)
    list(thread_map(lambda g: _count_rows(*g, *a[:2], *b[:2], B.shape[1], counts), groups))
    indptr = np.concatenate([[0], np.cumsum(counts)])
    Z = (indptr, np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32))
    list(thread_map(lambda g: _fill_rows(*g, *a[:3], *b[:3], B.shape[1], squares, Z), groups))
    return sp.csr_matrix(Z[::-1], shape=(A.shape[0], B.shape[1]))


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


def _transposed(Y, X: Features, normalized_Y: bool) -> sp.csr_matrix:
    """Y^T, csr float32 [L, n], of Y with unit rows if so wished; ValueError unless it fits X."""
    if Y.shape[0] != nr_rows(X):
        raise ValueError(f"Y has {Y.shape[0]} rows, X has {nr_rows(X)}: both need one row an instance")
    return canonical((normalize_rows(Y) if normalized_Y else canonical(Y, "csr")).T, "csr")


def _unit_rows(Yt: sp.csr_matrix, X: Features) -> tuple[Features, sp.csr_matrix]:
    """(Y^T X with unit rows, Y^T times the same factors), whose rows depend on the same row of Y^T only."""
    dense = None if X.dense is None else Yt @ X.dense
    squares = np.zeros(Yt.shape[0]) if dense is None else row_norms(dense) ** 2
    sparse = None if X.sparse is None else _unit_product(Yt, X.sparse, squares)
    factor = inverse_or_one(np.sqrt(squares))
    if dense is not None:
        scale_rows(dense, factor, in_place=True)
    return Features(sparse, dense), scale_rows(Yt, factor)


def pifa_product(Y, X, normalized_Y: bool = True) -> Product:
    """As pifa, with the two factors that its embedding is the product of: from them the tree is clustered sooner."""
    parts = as_features(X)
    Z, A = _unit_rows(_transposed(Y, parts, normalized_Y), parts)
    is_finite = np.isfinite(A.data).all()  # float32 holds the inverse of no length below 1e-38
    return Product(Z, A if is_finite else None, parts)


def _work_above(Yt: sp.csr_matrix, X: Features) -> np.ndarray:
    """Entries that Y^T X reads for all rows above row i: int64 [L + 1]. In blocks: Y may have very many entries."""
    read = np.ones(Yt.shape[1], np.int64)
    read += 0 if X.sparse is None else np.diff(X.sparse.indptr)
    work = np.zeros(Yt.shape[0] + 1, np.int64)
    for first in range(0, Yt.shape[0], ROWS_AT_A_TIME):
        indptr = Yt.indptr[first : first + ROWS_AT_A_TIME + 1]
        above = np.concatenate([[0], np.cumsum(read[Yt.indices[indptr[0] : indptr[-1]]])])
        work[first + 1 : first + len(indptr)] = work[first] + above[indptr[1:] - indptr[0]]
    return work


def shared_pifa(folder: Path, Y, X: Features) -> Embeddings:
    """embeddings_of(pifa_product(Y, X)), made by all processes together and mapped from files in folder.

    Y is read in the first process only; X: the same Features in all, shared (sharing.py).
    """
    [Yt] = share(folder, "Yt", lambda: [_transposed(Y, X, True)])
    work = _work_above(Yt, X)
    first, last = np.searchsorted(work, work[-1] * np.array([index(), index() + 1]) / count())
    own = slice(first, len(work) - 1 if index() == count() - 1 else last)
    Z, A = _unit_rows(Yt[own], X)
    rows, shares = rows_of(Z), rows_of(Features(A, None))
    gathered = {
        name: gather_array(folder, f"Z.{name}", array)
        for name, array in {
            "count": rows.stop - rows.start,
            "indices": rows.indices,
            "values": rows.values,
            "dense": rows.dense,
            "norms": lengths(rows),
            "shares": shares.values,
        }.items()
    }
    ends = np.cumsum(gathered["count"])
    whole = Rows(ends - gathered["count"], ends, *(gathered[name] for name in ("indices", "values", "dense")))
    if not all(from_each(bool(np.isfinite(A.data).all()))):
        return Embeddings(whole, gathered["norms"], NO_ROWS, NO_ROWS, nr_features(X))
    pattern = rows_of(Features(sp.csr_matrix((gathered["shares"], Yt.indices, Yt.indptr), shape=Yt.shape), None))
    return Embeddings(whole, gathered["norms"], pattern, rows_of(X), nr_features(X))


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
    return _as_kind(pifa_product(Y, X, normalized_Y).Z, X)


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


def tree_embeddings(method: str, Y, X, *, Z=None, alpha=0.5, folder: Path | None = None):
    """What hierarchical_kmeans clusters: label_embedding in the form that is fastest for it; arguments as there.

    folder: shared_folder of several processes (sharing.py), which all call this. X is shared among them; Y and Z are
    read in the first process only.
    """
    if folder is None:
        return pifa_product(Y, X) if method == "pifa" else label_embedding(method, Y, X, Z=Z, alpha=alpha)
    if method == "pifa":
        return shared_pifa(folder, Y, X)
    found = share(folder, method, lambda: as_features(label_embedding(method, Y, X, Z=Z, alpha=alpha)))
    return embeddings_of(Features(*found))
