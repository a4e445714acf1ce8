"""What several processes of one run share by way of the work directory: arrays, mapped into memory, and work.

Of an array that is mapped, a host has in memory what its processes read, and that once. A process alone shares with
nobody: `folder` is None then, nothing is written, and every function gives back what it was given.
"""

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from xrt_jax.disk import naming_full_disk, replace_file
from xrt_jax.npz import load_npz, save_npz
from xrt_jax.processes import are_several, count, doing, from_each, from_first, index, is_first

# ---------------------------------------------------------------------------- arrays


def shared_folder(folder: Path) -> Path | None:
    """The folder, without what an earlier start has left there, for all processes of this one; None for one alone."""
    if is_first():
        shutil.rmtree(folder, ignore_errors=True)
        if are_several():
            folder.mkdir(parents=True)
    from_first()
    return folder if are_several() else None


def share(folder: Path | None, name: str, make: Callable[[], Sequence]) -> list:
    """What `make` makes in the first process, in all of them: a list of csr, csc, ndarray and None.

    Only the first process calls `make`. The arrays are those of files folder/name.*, mapped: writing to them changes
    neither the files nor what others read.
    """
    if folder is None:
        return list(make())
    described = None
    if is_first():
        described = [_write(folder / f"{name}.{i}", A) for i, A in enumerate(make())]
    return [_read(folder / f"{name}.{i}", about) for i, about in enumerate(from_first(described))]


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes one .npy file, whole or not at all."""
    with replace_file(path) as tmp:
        np.save(tmp, array, allow_pickle=False)


def map_array(path: Path) -> np.ndarray:
    """The array of a .npy file; what is written to it stays in this process."""
    array = np.load(path, mmap_mode=None if _is_empty(path) else "c", allow_pickle=False)
    return np.asarray(array)


def _is_empty(path: Path) -> bool:
    """Whether the array has no elements: it cannot be mapped."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        return 0 in np.lib.format.read_array_header_1_0(file)[0]


def _write(path: Path, A) -> dict | None:
    """Writes a matrix; what _read must know of it."""
    if A is None:
        return None
    if not sp.issparse(A):
        write_array(path.with_name(f"{path.name}.npy"), A)
        return {"format": "dense"}
    for part in ("indptr", "indices", "data"):
        write_array(path.with_name(f"{path.name}.{part}.npy"), getattr(A, part))
    return {"format": A.format, "shape": A.shape}


def _read(path: Path, about: dict | None):
    if about is None:
        return None
    if about["format"] == "dense":
        return map_array(path.with_name(f"{path.name}.npy"))
    parts = [map_array(path.with_name(f"{path.name}.{part}.npy")) for part in ("data", "indices", "indptr")]
    make = {"csr": sp.csr_matrix, "csc": sp.csc_matrix}[about["format"]]
    return make(tuple(parts), shape=tuple(about["shape"]), copy=False)


# ---------------------------------------------------------------------------- rows


def own_rows(folder: Path | None, nr_rows: int) -> slice:
    """The rows that are this process's part of the work on all rows."""
    if folder is None:
        return slice(0, nr_rows)
    first, last = (nr_rows * i // count() for i in (index(), index() + 1))
    return slice(first, last)


def gather_array(folder: Path | None, name: str, part: np.ndarray) -> np.ndarray:
    """The parts of all processes, one behind the other along the first axis, mapped in all of them."""
    if folder is None:
        return part
    path = folder / f"{name}.npy"
    lengths = from_each(len(part))
    if is_first():
        shape = (sum(lengths), *part.shape[1:])
        with replace_file(path) as tmp, open(tmp, "wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": part.dtype.str, "fortran_order": False, "shape": shape}
            )
            file.truncate(file.tell() + int(np.prod(shape)) * part.itemsize)
    from_first()
    if len(part):
        header = path.stat().st_size - sum(lengths) * part[0].nbytes
        with naming_full_disk(path), open(path, "r+b") as file:
            file.seek(header + sum(lengths[: index()]) * part[0].nbytes)
            np.ascontiguousarray(part).tofile(file)
    from_each()
    return map_array(path)


def gather_rows(folder: Path | None, name: str, part: sp.csr_matrix) -> sp.csr_matrix | None:
    """The parts of all processes, one below the other, in the first process; None in the others."""
    if folder is None:
        return part
    save_npz(folder / f"{name}.{index()}.npz", part)
    from_each()
    if not is_first():
        return None
    return sp.vstack([load_npz(folder / f"{name}.{i}.npz") for i in range(count())], format="csr")


# ---------------------------------------------------------------------------- work


def assign(loads: Sequence[float], nr_processes: int, first_share: float = 1.0) -> list[list[int]]:
    """Numbers of the units of work for each process, largest first: each goes to the one with least (LPT).

    first_share: what the first process gets, as a share of what each of the others gets.
    """
    weight = np.ones(nr_processes)
    weight[0] = first_share
    filled, units = np.zeros(nr_processes), [[] for _ in range(nr_processes)]
    for unit in sorted(range(len(loads)), key=lambda unit: (-loads[unit], unit)):
        process = int(np.argmin((filled + loads[unit]) / weight))
        filled[process] += loads[unit]
        units[process].append(unit)
    return units


def in_turn(units: list[list[int]], process: int) -> list[int]:
    """Numbers of all units in the order in which a process goes for them: its own, then the others', smallest first."""
    others = units[process + 1 :] + units[:process]
    stolen = [unit for turn in itertools.zip_longest(*(each[::-1] for each in others)) for unit in turn]
    return [unit for unit in (*units[process], *stolen) if unit is not None]


def claim(folder: Path | None, name: str, loads: Sequence[float], *, first_share: float = 1.0) -> Iterator[int]:
    """Numbers of units of work, one at a time, each to one process only; all processes call this with the same loads.

    A process takes the units that are assigned to it, largest first, and then those that others have not begun,
    smallest first. So a slow process, or one with much else to do, keeps nobody waiting. A unit is taken by making a
    file that must not be there yet, which one process alone can do, on network disks too.
    """
    if folder is None:
        yield from assign(loads, 1)[0]
        return
    for unit in in_turn(assign(loads, count(), first_share), index()):
        if _take(folder / f"{name}.{unit}.taken"):
            doing(f"{name}, part {unit + 1} of {len(loads)}")
            yield unit


def _take(path: Path) -> bool:
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        return True
    return False
