"""Whole files or none: everything is written under a temporary name beside its place and then renamed."""

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np


@contextlib.contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path to write to; it takes the place of `path` when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{os.getpid()}.tmp.{path.name}")  # the ending stays: writers such as numpy's look at it
    try:
        yield tmp
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


@contextlib.contextmanager
def replace_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder to fill; it takes the place of `path` when the block ends without an error."""
    path = Path(path)
    tmp = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    try:
        yield tmp
        if path.exists():
            shutil.rmtree(path)
        os.replace(tmp, path)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def write_json(path: str | Path, value) -> None:
    """Writes value as indented JSON with a final newline."""
    with replace_file(path) as tmp:
        tmp.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | Path):
    """Reads JSON; ValueError names the file where it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): restore it or start in another folder") from error


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
