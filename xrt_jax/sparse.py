"""Feature matrices and CSR helpers that several rooms share.

Features of n rows are a sparse part (TF-IDF) and a dense part (embeddings) side by side, sparse columns first. The
dense part is never stored as CSR entries. Compiled code sees both parts as plain arrays (`feature_arrays`).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numba import njit

from xrt_jax.disk import forget_stale_code

forget_stale_code(Path(__file__).parent)  # whatever runs compiled code has features, and so imports this module

# Columns have 32-bit numbers in compiled code, and the bias is one column more.
MAX_COLUMNS = 2**31 - 2


class Features(NamedTuple):
    """Rows of features: sparse columns first, then dense ones. At least one part is there.

    Attributes:
        sparse: csr_matrix float32 [n, d_s], indices sorted, or None.
        dense: ndarray float32 [n, d_d], C-contiguous, or None.
    """

    sparse: sp.csr_matrix | None
    dense: np.ndarray | None


class FeatureArrays(NamedTuple):
    """Features as compiled code takes them; an absent part has no entries.

    Attributes:
        indptr: int64 [n + 1]; indices: uint32 [nnz]; data: float32 [nnz]; the sparse part.
        dense: float32 [n, d_d].
        nr_sparse: number of sparse columns d_s.
    """

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    dense: np.ndarray
    nr_sparse: int


# ---------------------------------------------------------------------------- features


def index_dtype(shape: tuple[int, int], nnz: int) -> type:
    """The index type of a matrix: int32 where it can count the rows, the columns and the stored entries, else int64."""
    return np.int32 if max(*shape, nnz) <= np.iinfo(np.int32).max else np.int64


def check_kind(dtype: np.dtype, what) -> None:
    if dtype.kind not in "biuf":
        raise ValueError(f"{what}: values of the type {dtype}; only real numbers can be used, convert them to float32")


def check_structure(fmt: str, shape: tuple[int, int], indptr, indices, nr_stored: int, what) -> None:
    """ValueError unless csr or csc arrays fit the shape: compiled code would read past their ends."""
    nr_major, nr_minor = shape if fmt == "csr" else shape[::-1]
    if any(array.ndim != 1 or array.dtype.kind not in "iu" for array in (indptr, indices)):
        raise ValueError(f"{what}: indptr and indices must be 1-D arrays of integers; build the matrix again")
    if len(indptr) != nr_major + 1 or indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any():
        raise ValueError(f"{what}: indptr must rise from 0 in {nr_major} steps; build the matrix again")
    if indptr[-1] > min(len(indices), nr_stored):
        raise ValueError(f"{what}: indptr ends at {indptr[-1]}, behind the stored entries; build the matrix again")
    used = indices[: indptr[-1]]
    if len(used) and (used.min() < 0 or used.max() >= nr_minor):
        bad = used.min() if used.min() < 0 else used.max()
        raise ValueError(f"{what}: the index {bad} is outside of 0 to {nr_minor - 1}; build the matrix again")


def check_finite(A, what) -> None:
    """ValueError naming `what` and the first row of A (csr, csc or 2-D ndarray) that holds NaN or infinity."""
    values = A.data if sp.issparse(A) else A
    with np.errstate(invalid="ignore"):
        if np.isfinite(values.sum(dtype=np.float64)):  # no array in between; a float64 has room for all float32
            return
    finite = np.isfinite(values)
    if not sp.issparse(A):
        row = np.flatnonzero(~finite.all(axis=1))[0]
    else:
        row = (row_ids(A) if A.format == "csr" else A.indices)[~finite].min()
    raise ValueError(f"{what}: row {row} holds NaN or infinity (as float32); repair or drop that row")


def canonical(A, fmt: str, what="the matrix") -> sp.spmatrix:
    """A as float32 "csr" or "csc" with sorted, unique, smallest possible indices; A itself is not changed.

    Args:
        A: scipy sparse or ndarray [n, d] of booleans, integers or floats. Repeated entries are summed.
        fmt: "csr" or "csc".
        what: name of A in error messages.

    ValueError on other types and axes, indices that do not fit the shape, NaN and infinity.
    """
    A = A if sp.issparse(A) else np.asarray(A)
    check_kind(A.dtype, what)
    if A.ndim != 2:
        raise ValueError(f"{what}: must have two axes [rows, columns], not the shape {A.shape}")
    if sp.issparse(A) and A.format in ("csr", "csc"):
        check_structure(A.format, A.shape, A.indptr, A.indices, len(A.data), what)
    make = {"csr": sp.csr_matrix, "csc": sp.csc_matrix}[fmt]
    with np.errstate(over="ignore"):  # what overflows is told below
        B = make(A, dtype=np.float32)
    B.prune()
    dtype = index_dtype(B.shape, B.nnz)
    B.indptr, B.indices = B.indptr.astype(dtype, copy=False), B.indices.astype(dtype, copy=False)
    if not B.has_canonical_format:
        B = B.copy()
        B.sum_duplicates()
    check_finite(B, what)
    return B


def dense_float32(values, what) -> np.ndarray:
    """Values [n, d] as a C-contiguous float32 array; ValueError as of canonical."""
    values = np.asarray(values)
    check_kind(values.dtype, what)
    if values.ndim != 2:
        raise ValueError(f"{what}: must have two axes [rows, columns], not the shape {values.shape}")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(values, dtype=np.float32)
    check_finite(values, what)
    return values


def as_features(X) -> Features:
    """X (Features, scipy sparse or ndarray [n, d]) as float32 Features.

    ValueError on NaN, infinity, values that are no real numbers, arrays that are not 2-D or do not fit the matrix, and
    parts with unequal numbers of rows.
    """
    if isinstance(X, Features):
        sparse, dense = X
    else:
        sparse, dense = (X, None) if sp.issparse(X) else (None, X)
    if sparse is None and dense is None:
        raise ValueError("features need a sparse or a dense part, both are None")
    if sparse is not None:
        sparse = canonical(sparse, "csr", "the sparse features")
    if dense is not None:
        dense = dense_float32(dense, "the dense features")
    if sparse is not None and dense is not None and sparse.shape[0] != dense.shape[0]:
        raise ValueError(
            f"{sparse.shape[0]} rows of sparse features beside {dense.shape[0]} of dense ones: give both the same rows"
        )
    if nr_features(Features(sparse, dense)) > MAX_COLUMNS:
        raise ValueError(f"{nr_features(Features(sparse, dense))} features: compiled code counts to {MAX_COLUMNS}")
    return Features(sparse, dense)


def nr_rows(X) -> int:
    """Rows of X (Features, scipy sparse or ndarray)."""
    if isinstance(X, Features):
        return (X.dense if X.sparse is None else X.sparse).shape[0]
    return X.shape[0]


def nr_features(X) -> int:
    """Columns of X (Features, scipy sparse or ndarray), both parts together."""
    if isinstance(X, Features):
        return sum(part.shape[1] for part in X if part is not None)
    return X.shape[1]


@njit(cache=True, nogil=True)
def _row_squares(indptr, data):
    total = np.zeros(len(indptr) - 1)
    for row in range(len(total)):
        for k in range(indptr[row], indptr[row + 1]):
            total[row] += np.float64(data[k]) * data[k]
    return total


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dense_squares(dense, total):
    """Adds the square of each row; numpy's sums would depend on where in memory a row is."""
    for row in range(len(dense)):
        square = 0.0
        for value in dense[row]:
            square += np.float64(value) * value
        total[row] += square


@njit(cache=True, nogil=True)
def _scale(indptr, data, factor, scaled):
    for row in range(len(indptr) - 1):
        for k in range(indptr[row], indptr[row + 1]):
            scaled[k] = data[k] * factor[row]


def row_norms(X) -> np.ndarray:
    """L2 norm of every row of X (csr, ndarray or Features, parts concatenated): float64 [n]."""
    parts = X if isinstance(X, Features) else (X, None) if sp.issparse(X) else (None, X)
    total = np.zeros(nr_rows(X))
    if parts[0] is not None:
        A = parts[0].tocsr()
        total += _row_squares(A.indptr, A.data)
    if parts[1] is not None:
        _dense_squares(np.ascontiguousarray(parts[1], np.float32), total)
    return np.sqrt(total)


def scale_rows(A, factor: np.ndarray, *, in_place: bool = False):
    """Row i of A (csr or ndarray, float32) times factor[i]; a new matrix, unless A itself is to be changed."""
    if not sp.issparse(A):
        return np.multiply(
            A, factor[:, None], out=A if in_place else np.empty(A.shape, np.float32), casting="same_kind"
        )
    B = A if in_place else sp.csr_matrix((np.empty(A.nnz, np.float32), A.indices, A.indptr), shape=A.shape)
    _scale(A.indptr, A.data, factor, B.data)
    return B


def inverse_or_one(norms: np.ndarray) -> np.ndarray:
    """1 / norms, and 1 where the norm is zero, so that zero rows stay zero."""
    return 1.0 / np.where(norms > 0, norms, 1.0)


def normalize_rows(X):
    """Rows of X (scipy sparse → csr, ndarray → ndarray) scaled to L2 norm 1, float32; zero rows stay zero."""
    A = canonical(X, "csr") if sp.issparse(X) else np.asarray(X, dtype=np.float32)
    return scale_rows(A, inverse_or_one(row_norms(A)))


def feature_arrays(X: Features) -> FeatureArrays:
    """The arrays of X for compiled code, with fixed types so that each kernel is compiled once."""
    n = nr_rows(X)
    A = sp.csr_matrix((n, 0), dtype=np.float32) if X.sparse is None else X.sparse
    dense = np.zeros((n, 0), np.float32) if X.dense is None else X.dense
    # unsigned indices spare numba the test for negative ones in the inner loops
    indices = A.indices.astype(np.int32, copy=False).view(np.uint32)
    return FeatureArrays(A.indptr.astype(np.int64), indices, A.data, dense, A.shape[1])


# ---------------------------------------------------------------------------- entries and rows


def row_ids(A) -> np.ndarray:
    """Row (csr) or column (csc) of every stored entry of A, in storage order: int64 [nnz]."""
    return np.repeat(np.arange(len(A.indptr) - 1), np.diff(A.indptr))


def find_entries(A, major: np.ndarray, minor: np.ndarray) -> np.ndarray:
    """Where (major, minor) is stored in A: position in A.data, or -1 where it is not.

    Args:
        A: canonical csr (major = rows) or csc (major = columns).
        major: integer [m].
        minor: integer [m].

    Returns:
        int64 [m].
    """
    if A.nnz == 0:
        return np.full(len(major), -1, np.int64)
    width = A.shape[1] if A.format == "csr" else A.shape[0]
    stored = row_ids(A) * width + A.indices
    wanted = major.astype(np.int64) * width + minor
    position = np.minimum(np.searchsorted(stored, wanted), A.nnz - 1)
    return np.where(stored[position] == wanted, position, -1)
