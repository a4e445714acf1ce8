"""Whole files or none: everything is written under a temporary name beside its place and then renamed."""

import contextlib
import errno
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, quota used up, larger than a file may be
# What libraries make of these: Orbax a ValueError with the system's words, numpy a count of what it could write.
_TOLD_FULL = re.compile("|".join((*map(os.strerror, _FULL), r"\d+ requested and \d+ written", "Not enough free space")))


class DiskFullError(OSError):
    """There is no space for what was to be written; the message is one line that names it."""


def is_full(error: BaseException) -> bool:
    """Whether an error of writing, of whatever library, says that there is no space for more."""
    known = isinstance(error, DiskFullError) or getattr(error, "errno", None) in _FULL
    return known or bool(_TOLD_FULL.search(str(error)))


@contextlib.contextmanager
def naming_full_disk(path: str | Path) -> Iterator[None]:
    """Makes an error that says the disk is full a DiskFullError about `path`, unless it names what it is about."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFullError) or not is_full(error):
            raise
        place = re.sub(r"\.\d+\.tmp\.", "", str(path))  # what it was to become
        raise DiskFullError(f"no space left on the disk for {place}") from error


@contextlib.contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path to write to; it takes the place of `path` when the block ends without an error.

    A full disk is a DiskFullError.
    """
    path = Path(path)
    tmp = path.with_name(f".{os.getpid()}.tmp.{path.name}")  # the ending stays: writers such as numpy's look at it
    try:
        with naming_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield tmp
            os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


@contextlib.contextmanager
def replace_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder to fill; it takes the place of `path` when the block ends without an error.

    A full disk is a DiskFullError.
    """
    path = Path(path)
    tmp = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    shutil.rmtree(tmp, ignore_errors=True)
    try:
        with naming_full_disk(path):
            tmp.mkdir(parents=True)
            yield tmp
            if path.exists():
                shutil.rmtree(path)
            os.replace(tmp, path)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def append_line(path: str | Path, line: str) -> None:
    """Appends one line of text to a file, whole or not at all."""
    with naming_full_disk(path), open(path, "ab") as out:
        size = out.tell()
        try:
            out.write(f"{line}\n".encode())
            out.flush()
        except OSError:
            os.truncate(path, size)
            raise


def write_json(path: str | Path, value) -> None:
    """Writes value as indented JSON with a final newline."""
    with replace_file(path) as tmp:
        tmp.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | Path):
    """Reads JSON; ValueError names the file where it is not JSON, or nested deeper than Python reads."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({first_line(error)}): restore it or start in another folder") from error


def _whole(digits: str) -> int:
    if len(digits) > 300:  # no float holds it: said here, not in each function that wants one
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def most_unpacked(nr_bytes: int) -> int:
    """Bytes to which a packed file of nr_bytes may unpack: far more than texts and matrices do, and no bomb does."""
    return 16 * 2**20 + 50 * nr_bytes


def check_archive(archive: zipfile.ZipFile, nr_bytes: int) -> None:
    """ValueError for a zip file of nr_bytes that unpacks to far more, holds a name twice or is packed in other ways.

    numpy, scipy and torch store or deflate.
    """
    members = archive.infolist()
    if len({member.filename for member in members}) < len(members):
        raise ValueError("it holds a name twice")
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise ValueError("it is packed in another way than stored or deflated")
    unpacked = sum(member.file_size for member in members)
    if unpacked > most_unpacked(nr_bytes):
        raise ValueError(f"its {nr_bytes} bytes would unpack to {unpacked}: if that is right, store it uncompressed")


def clear_unfinished(workdir: str | Path) -> None:
    """Removes what a killed run left under temporary names."""
    for path in Path(workdir).rglob("*"):
        if ".orbax-checkpoint-tmp" in path.name or (path.name.startswith(".") and ".tmp." in path.name):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def forget_stale_code(package: str | Path) -> None:
    """Removes numba's compiled code from a package's __pycache__ folders if a source with such code has changed.

    numba itself looks at the file of a function only, not at the files of what it calls.
    """
    package = Path(package)
    stamp = package / "__pycache__" / "numba.stamp"
    sources = [path for path in sorted(package.rglob("*.py")) if b"numba" in path.read_bytes()]
    state = str(zlib.crc32(repr([(path.name, path.stat().st_mtime_ns) for path in sources]).encode()))
    if stamp.is_file() and stamp.read_text() == state:
        return
    with contextlib.suppress(OSError):  # a read-only package has its code elsewhere, by the time of installation
        for path in package.rglob("__pycache__/*.nb[ic]"):
            path.unlink(missing_ok=True)
        with replace_file(stamp) as tmp:
            tmp.write_text(state)


def fingerprint(*parts) -> int:
    """A checksum of arrays and settings: equal for equal ones, on every machine."""
    checksum = 0
    for part in parts:
        data = (
            np.ascontiguousarray(part).view(np.uint8).ravel() if isinstance(part, np.ndarray) else repr(part).encode()
        )
        checksum = zlib.crc32(data, checksum)
    return checksum
