"""UTF-8 text files, plain or packed as .gz or .xz: whole, or line by line so that memory holds the lines once."""

import contextlib
import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from xrt_jax.disk import most_unpacked

PACKERS = {"": open, ".gz": gzip.open, ".xz": lzma.open}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CHUNK = 2**20  # bytes that are read at once


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The file, unpacked if it is .gz or .xz; ValueError names it where that fails."""
    try:
        with PACKERS.get(path.suffix, open)(path, "rb") as file:
            yield file
    except (lzma.LZMAError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: cannot be unpacked ({error}); write or download the file again") from None


def without_packing(name: str) -> str:
    """A file's name without .gz or .xz."""
    stem, dot, ending = name.rpartition(".")
    return stem if f"{dot}{ending}" in PACKERS else name


def _chunks(path: Path) -> Iterator[bytes]:
    """What is in the file, a piece at a time; ValueError where it unpacks to far more than texts do."""
    most = most_unpacked(path.stat().st_size) if path.suffix in PACKERS else None
    nr_bytes = 0
    with unpacked(path) as file:
        while chunk := file.read(CHUNK):
            nr_bytes += len(chunk)
            if most is not None and nr_bytes > most:
                raise ValueError(
                    f"{path}: unpacks to more than {most} bytes, which texts do not; if it is right, unpack it"
                )
            yield chunk


def read_bytes(path: Path) -> bytes:
    """What is in the file, unpacked if it is .gz or .xz; ValueError where that is far more than texts unpack to."""
    return b"".join(_chunks(path)) if path.suffix in PACKERS else path.read_bytes()


def _not_utf8(name: str | Path, line: int) -> ValueError:
    return ValueError(f"{name}: line {line} is not UTF-8; convert the file to UTF-8")


def decode_lines(data: bytes, name: str | Path) -> list[str]:
    """Lines of UTF-8 text, without their line ends; ValueError names the source and the line that is not UTF-8."""
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise _not_utf8(name, data.count(b"\n", 0, error.start) + 1) from None
    # str.splitlines would also break at form feeds and other characters that documents do contain.
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def _byte_lines(path: Path) -> Iterator[bytes]:
    begun = []  # pieces of a line whose end is not there yet
    for chunk in _chunks(path):
        head, *rest = chunk.split(b"\n")
        begun.append(head)
        if rest:
            yield b"".join(begun)
            yield from rest[:-1]
            begun = rest[-1:]
    last = b"".join(begun)
    if last:
        yield last


def iter_lines(path: Path) -> Iterator[str]:
    """The lines of read_lines one after another, for files that are large; a line that is not UTF-8 is a ValueError."""
    for number, line in enumerate(_byte_lines(path), 1):
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        try:
            yield line.removesuffix(b"\r").decode()
        except UnicodeDecodeError:
            raise _not_utf8(path, number) from None


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file, plain or packed as .gz or .xz, without their line ends."""
    return list(iter_lines(path))
