"""Arrays and sparse matrices in numpy's and scipy's files, read with care: nothing is unpickled or taken on trust."""

import math
import zipfile
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from xrt_jax.disk import check_archive, first_line, replace_file
from xrt_jax.sparse import canonical, check_finite, check_kind, check_structure, index_dtype

# A file whose matrix has more rows (or columns, where these are pointed at) must have entries to match.
MOST_EMPTY = 2**26


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
    check_kind(data.dtype, "data")
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
    check_structure(fmt, shape, indptr, indices, data.size, "indices")
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
