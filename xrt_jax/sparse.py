"""Feature matrices and CSR helpers that several rooms share.

Features of n rows are a sparse part (TF-IDF) and a dense part (embeddings) side by side, sparse columns first. The
dense part is never stored as CSR entries. Compiled code sees both parts as plain arrays (`feature_arrays`).
"""

import math
import mmap
import zipfile
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
import scipy.sparse as sp
from numba import njit

from xrt_jax.disk import check_archive, first_line, forget_stale_code, replace_file

forget_stale_code(Path(__file__).parent)  # every module with compiled code imports this one

# Columns have 32-bit numbers in compiled code, and the bias is one column more.
MAX_COLUMNS = 2**31 - 2
# New pages are slow: only an array of so many bytes is worth them (empty_room).
LARGE_ROOM = 4 * 2**20
# A file whose matrix has more rows (or columns, where these are pointed at) must have entries to match.
MOST_EMPTY = 2**26
CACHE_LINE = 64  # bytes


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


def _check_kind(dtype: np.dtype, what) -> None:
    if dtype.kind not in "biuf":
        raise ValueError(f"{what}: values of the type {dtype}; only real numbers can be used, convert them to float32")


def _check_structure(fmt: str, shape: tuple[int, int], indptr, indices, nr_stored: int, what) -> None:
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
    _check_kind(A.dtype, what)
    if A.ndim != 2:
        raise ValueError(f"{what}: must have two axes [rows, columns], not the shape {A.shape}")
    if sp.issparse(A) and A.format in ("csr", "csc"):
        _check_structure(A.format, A.shape, A.indptr, A.indices, len(A.data), what)
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
    _check_kind(values.dtype, what)
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


@njit(cache=True, nogil=True)
def enlarged(array, size):
    """A copy of the array with room for at least `size` entries, and at least twice its own."""
    larger = np.empty(max(size, 2 * len(array)), array.dtype)
    for i in range(len(array)):
        larger[i] = array[i]
    return larger


def empty_room(shape, dtype) -> np.ndarray:
    """As np.empty, but on a cache line's bounds; a large array goes back to the system, where malloc would keep it."""
    nr_items = int(np.prod(shape))
    nr_bytes = nr_items * np.dtype(dtype).itemsize
    if nr_bytes >= LARGE_ROOM:
        return np.frombuffer(mmap.mmap(-1, nr_bytes), dtype, nr_items).reshape(shape)
    room = np.empty(nr_bytes + CACHE_LINE, np.uint8)
    first = -room.ctypes.data % CACHE_LINE
    return room[first : first + nr_bytes].view(dtype).reshape(shape)


# ---------------------------------------------------------------------------- selection


@njit(cache=True, nogil=True)
def kth_lowest(values, k):
    """The k-th lowest value, from 0; `values` is reordered (quickselect; numpy's own compiles for 10 seconds)."""
    low, high = 0, len(values) - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i, j = i + 1, j - 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]


@njit(cache=True, nogil=True)
def lowest(values, k):
    """Mask uint8 [n] of the k lowest (value, position) of the float32 `values`; 0 < k <= n."""
    cut = kth_lowest(values.copy(), k - 1)
    ties = k
    for value in values:
        ties -= value < cut
    mask = np.zeros(len(values), np.uint8)
    for i in range(len(values)):
        if values[i] < cut:
            mask[i] = 1
        elif values[i] == cut and ties > 0:
            mask[i] = 1
            ties -= 1
    return mask


# ---------------------------------------------------------------------------- threads


def thread_map(fn, jobs):
    """Yield fn(job) in the order of `jobs`, computed by numba.get_num_threads() threads (fn should release the GIL)."""
    nr_threads = min(numba.get_num_threads(), len(jobs))
    if nr_threads <= 1:
        yield from map(fn, jobs)
        return
    with ThreadPoolExecutor(nr_threads) as pool:
        yield from pool.map(fn, jobs)


def thread_unordered(fn, jobs):
    """Yield (job, fn(job)) as they get done, from numba.get_num_threads() threads; `jobs` may be an iterator.

    At most two results a thread wait to be taken, so that memory stays bounded, and a job is asked for no sooner.
    """
    nr_threads = numba.get_num_threads()
    if nr_threads <= 1:
        yield from ((job, fn(job)) for job in jobs)
        return
    rest = iter(jobs)
    with ThreadPoolExecutor(nr_threads) as pool:
        running = {pool.submit(fn, job): job for job in islice(rest, 2 * nr_threads)}
        try:
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    running |= {pool.submit(fn, following): following for following in islice(rest, 1)}
                    yield job, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def tracked(results, sizes, progress, desc: str):
    """Yield `results`, telling progress(total, desc) of sizes[i] more units after the i-th; progress None: silently."""
    bar = progress(int(sum(sizes)), desc) if progress else None
    for result, size in zip(results, sizes, strict=True):
        if bar:
            bar.update(int(size))
        yield result
    if bar:
        bar.close()


# ---------------------------------------------------------------------------- files


def save_npz(path, A) -> None:
    """Write the sparse matrix A to exactly `path`, uncompressed (PECOS's C++ reads no other), in one step."""
    with replace_file(path) as tmp, open(tmp, "wb") as file:
        sp.save_npz(file, A, compressed=False)


def write_csc_npz(path, shape: tuple[int, int], indptr: np.ndarray, indices, data) -> None:
    """Write a csc matrix as save_npz does, from blocks of bytes of its int32 indices and float32 data, in one step."""
    dtype = index_dtype(shape, int(indptr[-1]))
    if dtype is not np.int32:
        indices = (np.frombuffer(block, np.int32).astype(dtype).tobytes() for block in indices)
    members = (
        ("indices", dtype, (int(indptr[-1]),), indices),
        ("indptr", dtype, indptr.shape, [indptr.astype(dtype).tobytes()]),
        ("format", "S3", (), [b"csc"]),
        ("shape", np.int64, (2,), [np.array(shape, np.int64).tobytes()]),
        ("data", np.float32, (int(indptr[-1]),), data),
    )
    with replace_file(path) as tmp, zipfile.ZipFile(tmp, "w") as archive:
        for name, kind, length, blocks in members:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": length}
                np.lib.format.write_array_header_1_0(file, header)
                for block in blocks:
                    file.write(block)


def check_npy(file, nr_bytes: int) -> None:
    """ValueError unless a .npy stream of nr_bytes has as many as its header promises: reading allocates these first."""
    try:
        version = np.lib.format.read_magic(file)
        of_version = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = of_version[version](file)
    except Exception as error:  # Python's tokenizer and parser, which numpy takes, raise all kinds
        raise ValueError(f"no header of numpy's: {first_line(error)}") from None
    promised, follow = math.prod(shape) * dtype.itemsize, nr_bytes - file.tell()
    if min(shape, default=0) < 0 or promised > follow:
        raise ValueError(f"its header promises {promised} bytes, but {max(follow, 0)} follow")
    file.seek(0)


def read_array(file, nr_bytes: int) -> np.ndarray:
    """The array of a .npy stream of nr_bytes.

    The stream must end with it: only then is the checksum of a packed one compared.
    """
    check_npy(file, nr_bytes)
    array = np.lib.format.read_array(file, allow_pickle=False)
    if file.read(1):
        raise ValueError("there is more than its header says")
    return array


def read_arrays(path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; errors of all kinds where it is damaged. Nothing is unpickled."""
    with zipfile.ZipFile(path) as archive:
        check_archive(archive, Path(path).stat().st_size)
        arrays = {}
        for member in archive.infolist():
            with archive.open(member) as file:
                arrays[member.filename.removesuffix(".npy")] = read_array(file, member.file_size)
        return arrays


def _sparse_shape(shape: np.ndarray) -> tuple[int, int]:
    if shape.shape != (2,) or shape.dtype.kind not in "iu" or min(shape.tolist()) < 0:
        raise ValueError(f"its shape is {shape.tolist()}, not two whole numbers")
    return tuple(shape.tolist())


def _check_emptiness(nr_pointers: int, nr_stored: int) -> None:
    if nr_pointers > MOST_EMPTY + 64 * nr_stored:
        raise ValueError(f"{nr_pointers} rows or columns for {nr_stored} entries: drop the empty ones")


def _from_arrays(arrays: dict[str, np.ndarray]) -> sp.spmatrix:
    """The matrix that scipy.sparse.save_npz wrote as these arrays: csc for csc, else csr."""
    fmt, shape, data = arrays["format"].item(), _sparse_shape(arrays["shape"]), arrays["data"]
    fmt = fmt.decode("ascii") if isinstance(fmt, bytes) else fmt
    _check_kind(data.dtype, "data")
    with np.errstate(over="ignore"):  # what overflows is told by check_finite
        data = data.astype(np.float32, copy=False)
    if fmt == "coo":
        coords = arrays["coords"] if "coords" in arrays else (arrays["row"], arrays["col"])
        if any(axis.dtype.kind not in "iu" for axis in coords):
            raise ValueError("its rows and columns are no integers")
        _check_emptiness(shape[0], data.size)
        return sp.coo_matrix((data, tuple(coords)), shape=shape).tocsr()
    if fmt not in ("csr", "csc"):
        raise ValueError(f"its format is {fmt!r}, not csr, csc or coo")
    indptr, indices = arrays["indptr"], arrays["indices"]
    _check_structure(fmt, shape, indptr, indices, data.size, "indices")
    if data.shape != indices.shape or indptr[-1] != len(indices):
        raise ValueError(f"{len(data)} values and {len(indices)} indices, but indptr ends at {indptr[-1]}")
    return {"csr": sp.csr_matrix, "csc": sp.csc_matrix}[fmt]((data, indices, indptr), shape=shape)


def load_npz(path) -> sp.spmatrix:
    """Read a sparse matrix written by scipy.sparse.save_npz in the format csr, csc or coo; nothing is unpickled.

    Returns:
        csc for csc, else csr; float32, finite, every index in range; the entries of csr and csc in the file's order.

    FileNotFoundError or ValueError names the file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        A = _from_arrays(read_arrays(path))
    except Exception as error:  # zipfile, zlib and numpy raise all kinds on a damaged file
        raise ValueError(
            f"{path}: not a sparse matrix in scipy's npz format ({first_line(error)}); write it with "
            "scipy.sparse.save_npz"
        ) from error
    check_finite(A, path)
    return A


def load_canonical(path, fmt: str) -> sp.spmatrix:
    """The matrix of load_npz as canonical "csr" or "csc"."""
    A = load_npz(path)
    if A.format != fmt:
        try:
            _check_emptiness(A.shape[0] if fmt == "csr" else A.shape[1], A.nnz)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return canonical(A, fmt, path)
