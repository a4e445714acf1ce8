"""A ranker laid out for the beam search on disk: opened by mapping the files into memory, in milliseconds.

ranker.json          format, version and, for each level, its sizes, settings and the shape and checksum of every array
{t}.{array}.npy      the arrays of level t (xlinear/chunks.py)

Nothing but the spans is read before a query needs it, and processes that map the same folder share the memory. Read
permission is enough. The files are the same on every little-endian machine.
"""

import math
from pathlib import Path

import numpy as np

from xrt_jax.disk import fingerprint, first_line, read_json, replace_folder, write_json
from xrt_jax.npz import check_npy
from xrt_jax.xlinear.chunks import CHILD, DTYPES, ENTRY, LINE, SLOT, START, Chunks
from xrt_jax.xlinear.lanes import LANES
from xrt_jax.xlinear.postprocess import parse
from xrt_jax.xlinear.predict import PreparedLevel, prepare

FORMAT, VERSION = "xrt_jax mapped ranker", 2
SETTINGS = ("nr_features", "nr_labels", "only_topk", "post_processor")


def save_mapped(folder, ranker, nr_dense: int = 0) -> None:
    """Write a ranker (list of Level, or of what prepare made of them) as a folder for load_mapped, whole or not at all.

    nr_dense: as of prepare, for levels that are not laid out yet.
    """
    levels = prepare(ranker, nr_dense)
    described = []
    for level in levels:
        arrays = {"shapes": [array.shape for array in level.chunks], "checksums": [*map(fingerprint, level.chunks)]}
        settings = {key: getattr(level, key) for key in SETTINGS}
        described.append({**settings, "only_topk": int(level.only_topk), **arrays})
    with replace_folder(folder) as tmp:
        for t, level in enumerate(levels):
            for name, array in level.chunks._asdict().items():
                np.save(tmp / f"{t}.{name}.npy", array, allow_pickle=False)
        write_json(tmp / "ranker.json", {"format": FORMAT, "version": VERSION, "levels": described})


def _open_array(path: Path, dtype: np.dtype, shape: list[int]) -> np.ndarray:
    """The array mapped read-only; ValueError if the file is not what was saved."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; save the mapped ranker again")
    try:
        with open(path, "rb") as file:
            check_npy(file, path.stat().st_size)
        # an empty array cannot be mapped
        array = np.load(path, mmap_mode="r" if math.prod(shape) else None, allow_pickle=False)
    except (ValueError, EOFError, OSError, OverflowError) as error:
        reason = first_line(error)
        raise ValueError(f"{path}: cut short or no .npy file ({reason}); save the mapped ranker again") from error
    if array.dtype != dtype or list(array.shape) != shape:
        found, expected = (f"{np.dtype(d).str} {list(s)}" for d, s in ((array.dtype, array.shape), (dtype, shape)))
        raise ValueError(f"{path}: holds {found}, but ranker.json asks for {expected}; save the mapped ranker again")
    array = np.asarray(array)
    array.flags.writeable = False
    return array


def _check_spans(path: Path, chunks: Chunks, nr_labels: int) -> None:
    """ValueError unless all spans lie in their arrays, so that compiled code reads none past its end."""
    ptr, sizes = chunks.ptr, np.diff(chunks.ptr, axis=0)
    ends = {CHILD: chunks.child, SLOT: chunks.slot, START: chunks.start, ENTRY: chunks.entry, LINE: chunks.line}
    sound = ptr.shape[1:] == (len(ends),) and not ptr[0].any() and (sizes >= 0).all()
    sound = sound and all(ptr[-1, column] == len(array) for column, array in ends.items())
    sound = sound and (sizes[:, SLOT] > 0).all() and not (sizes[:, SLOT] & (sizes[:, SLOT] - 1)).any()
    sound = sound and len(chunks.first_dense) == len(sizes) and len(chunks.intercept) == len(chunks.child) <= nr_labels
    sound = sound and 0 <= chunks.child.min(initial=0) <= chunks.child.max(initial=0) < max(nr_labels, 1)
    if not sound or chunks.line.shape[1:] != (LANES,):
        raise ValueError(f"{path}: its spans do not fit the other arrays; save the mapped ranker again")


def _check_content(path: Path, array: np.ndarray, checksum: int) -> None:
    if fingerprint(array) != checksum:
        raise ValueError(f"{path}: is not what was saved (another checksum); save the mapped ranker again")


def _open_level(folder: Path, t: int, described: dict, verify: bool) -> PreparedLevel:
    names = Chunks._fields
    if not len(described["shapes"]) == len(described["checksums"]) == len(names):
        raise TypeError(f"a shape or checksum of level {t}")
    chunks = Chunks(
        *(
            _open_array(folder / f"{t}.{name}.npy", dtype, shape)
            for name, dtype, shape in zip(names, DTYPES, described["shapes"], strict=True)
        )
    )
    _check_spans(folder / f"{t}.ptr.npy", chunks, described["nr_labels"])
    if verify:
        for name, array, checksum in zip(names, chunks, described["checksums"], strict=True):
            _check_content(folder / f"{t}.{name}.npy", array, checksum)
    if not all(isinstance(described[key], int) and described[key] >= 0 for key in SETTINGS[:3]):
        raise TypeError(f"a number of level {t}")
    try:
        parse(described["post_processor"])
    except ValueError as error:
        raise TypeError(f"{error} of level {t}") from None
    return PreparedLevel(chunks, **{key: described[key] for key in SETTINGS})


def load_mapped(folder, *, verify: bool = False) -> list[PreparedLevel]:
    """Open a folder of save_mapped; predict takes the result in a ranker's place.

    verify: read everything and compare checksums, as one does after copying a folder. Sizes and spans are always
        checked; other damage to the arrays, which could make predictions wrong or end the process, is seen only so.

    FileNotFoundError or ValueError names the file that is missing, cut short or foreign.
    """
    path = Path(folder) / "ranker.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; is this a folder of save_mapped?")
    content = read_json(path)
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        raise ValueError(f"{path}: not a mapped ranker of version {VERSION}; save the mapped ranker again")
    try:
        return [_open_level(Path(folder), t, level, verify) for t, level in enumerate(content["levels"])]
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}: {first_line(error)} is missing or wrong; save the mapped ranker again") from error
