"""Downloads a public data set, unpacks it and compares its statistics with the published ones.

    xrt-jax fetch wiki10-31k --dir=data
    python -m xrt_jax.data.fetch wiki10-31k --dir=data

puts the data set into data/wiki10-31k, a folder for --config.data.dir: texts, labels, label names, and the features
that PECOS's published results were got with. A download that breaks off goes on where it stopped, by itself a few times
and with the same command later. data/wiki10-31k.json keeps address, checksum and statistics.

SHA-256 checksums of the archives are not known here: that of the first download is told and kept, and later downloads
must have it. What makes sure that the data are the right ones is gzip's own checksum and the statistics.

Where a host cannot be reached from here, put the archive into data/wiki10-31k.tar.gz by other means, or name a mirror
with --url. With --url, NAME may be any name; statistics of unknown data sets are not compared.
"""

import argparse
import gzip
import hashlib
import http.client
import os
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from xrt_jax.data.text_files import iter_lines
from xrt_jax.disk import (
    DiskFullError,
    check_archive,
    first_line,
    most_unpacked,
    naming_full_disk,
    read_json,
    replace_folder,
    write_json,
)
from xrt_jax.npz import read_array
from xrt_jax.report import format_bytes, logger, progress, set_up_logging

ADDRESS = "https://archive.org/download/pecos-dataset/xmc-base/{name}.tar.gz"
TRIES = 5  # in a row that bring nothing new
PAUSE = 1.0  # seconds before the second try; doubled before each further one
TIMEOUT = 60  # seconds without a byte
CHUNK = 2**18
X_NAME, Y_NAME = "tfidf-attnxml/X.{}.npz", "Y.{}.npz"


class Statistics(NamedTuple):
    """Sizes of the training split."""

    documents: int
    features: int
    labels: int
    feature_values: int
    label_values: int


class Known(NamedTuple):
    """What is known about a data set before it is there."""

    statistics: Statistics | None = None
    sha256: str | None = None  # of the archive; None: not known here


# As PECOS's examples/spmm lists them
KNOWN = {
    "eurlex-4k": Known(Statistics(15_449, 186_104, 3_956, 4_194_123, 82_265)),
    "wiki10-31k": Known(Statistics(14_146, 101_938, 30_938, 9_526_572, 263_705)),
    "amazoncat-13k": Known(Statistics(1_186_239, 203_882, 13_330, 84_415_397, 5_979_439)),
    "amazon-670k": Known(Statistics(490_449, 135_909, 670_091, 37_119_040, 2_674_356)),
    "wiki-500k": Known(Statistics(1_779_881, 2_381_304, 501_070, 689_526_754, 8_446_236)),
    "amazon-3m": Known(Statistics(1_717_899, 337_067, 2_812_281, 84_600_285, 61_916_857)),
}


# ---------------------------------------------------------------------------- download


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def download(url: str, path: Path, *, pause: float = PAUSE) -> None:
    """Downloads a file; what has come is kept in `path`.part, and a later call goes on from there.

    Args:
        url: http or https.
        path: the file, which is there only when it is whole.
        pause: seconds before a broken transfer is taken up; doubled each time that it brings nothing new.

    Raises:
        OSError: one line; the server has no such file, does not answer, or breaks off time and again, or the disk is
            full (DiskFullError).
    """
    part = path.with_name(f"{path.name}.part")
    failures, longest = 0, _size(part)
    while True:
        try:
            _transfer(url, part)
            break
        except (ConnectionError, http.client.HTTPException) as error:
            failures = 1 if _size(part) > longest else failures + 1
            longest = max(longest, _size(part))
            if failures == TRIES:
                kept = f"; {format_bytes(_size(part))} are kept, and the same command goes on from there"
                what = f"{first_line(error)}, {TRIES} times in a row"
                raise OSError(f"{url}: {what}{kept if _size(part) else ''}") from None
            logger.warning("%s: %s; trying again", url, first_line(error))
            time.sleep(pause * 2 ** (failures - 1))
    os.replace(part, path)
    _about(part).unlink(missing_ok=True)


def _about(part: Path) -> Path:
    """The file that tells of which version of which address the part is."""
    return part.with_name(f"{part.name}.json")


def _transfer(url: str, part: Path) -> None:
    """Gets what is missing of the part; ConnectionError where that breaks off."""
    about = read_json(_about(part)) if _about(part).exists() and part.exists() else {}
    if about.get("url") != url:
        part.unlink(missing_ok=True)
    response = _open(url, part, about)
    if response is None:
        return
    with response:
        start, total = _extent(response, part, about)
        if start == 0:
            write_json(_about(part), {"url": url, "validator": _validator(response.headers), "bytes": total})
        _check_space(part, start, total)
        with naming_full_disk(part), open(part, "ab" if start else "wb") as out:
            _copy(response, out, start, total, part.name.removesuffix(".part"))
    if total is not None and _size(part) != total:
        raise ConnectionError(f"the transfer ended after {_size(part)} of {total} bytes")


def _open(url: str, part: Path, about: dict):
    """The server's answer to a request for what is missing; None if nothing is."""
    headers = {"User-Agent": "xrt_jax", "Accept-Encoding": "identity"}
    have = _size(part)
    if have:
        headers["Range"] = f"bytes={have}-"
        if about.get("validator"):
            headers["If-Range"] = about["validator"]  # another version of the file then comes from its start
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing follows: the part is whole, or is none of this file
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return None
            part.unlink()
            raise ConnectionError("the server's file is shorter than what is here") from None
        what = f"the server answers {error.code} {error.reason}"
        if error.code in (408, 425, 429) or error.code >= 500:
            raise ConnectionError(what) from None
        raise FileNotFoundError(f"{url}: {what}; look at the name, or name a mirror with --url") from None
    except http.client.InvalidURL as error:
        raise ValueError(f"{url}: {first_line(error)}") from None
    except OSError as error:  # URLError, and what TLS raises
        raise ConnectionError(first_line(getattr(error, "reason", error))) from None


def _extent(response, part: Path, about: dict) -> tuple[int, int | None]:
    """(where in the file the answer starts, bytes of the whole file or None): all of it, or what follows the part."""
    length = response.headers.get("Content-Length")
    length = int(length) if length and length.isdecimal() else None
    if response.status != 206:
        return 0, length
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    start, total = found.groups() if found else ("", "")
    begun, total = about.get("bytes"), int(total) if total.isdecimal() else about.get("bytes")
    if start != str(_size(part)) or (begun is not None and total != begun):
        part.unlink(missing_ok=True)
        raise ConnectionError("the server goes on with another file than it began with")
    return int(start), total


def _validator(headers) -> str | None:
    """What tells this version of the server's file from others."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _check_space(part: Path, start: int, total: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        needed = f"{format_bytes(total - start)} are to come and {format_bytes(free)} are free"
        raise DiskFullError(f"no space left on the disk for {part}: {needed}")


def _copy(response, out: IO[bytes], start: int, total: int | None, name: str) -> None:
    with progress(total, name, unit="B", done=start) as bar:
        while chunk := _read(response):
            out.write(chunk)
            bar.update(len(chunk))


def _read(response) -> bytes:
    try:
        return response.read(CHUNK)
    except OSError as error:  # a timeout, a lost route, TLS
        raise ConnectionError(first_line(error)) from None


# ---------------------------------------------------------------------------- archive


class _Bounded:
    """An open file that gives no more than `most` bytes: what a small archive unpacks to is not read without end."""

    def __init__(self, file: IO[bytes], most: int):
        self.file, self.most, self.left = file, most, most

    def read(self, size: int) -> bytes:
        data = self.file.read(min(size, self.left + 1))
        self.left -= len(data)
        if self.left < 0:
            raise ValueError(f"it unpacks to more than {self.most} bytes, which data do not")
        return data


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a .tar.gz into a folder: plain files and folders below it only.

    Raises:
        ValueError: one line; the archive is damaged, unpacks to far more than data do, or has a member that is a link
            or a device, has a name twice, or lies outside the folder.
    """
    try:
        with gzip.open(archive) as file:
            bounded = _Bounded(file, most_unpacked(_size(archive)))
            with tarfile.open(fileobj=bounded, mode="r|") as tar:
                _extract(tar, folder, bounded.most)
            while bounded.read(CHUNK):  # to the end, where gzip's checksum is
                pass
    except (ValueError, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{archive}: cannot be unpacked ({first_line(error)})") from None


def _extract(tar: tarfile.TarFile, folder: Path, most: int) -> None:
    tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 has none
    seen, nr_bytes = set(), 0
    for member in tar:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name:
            raise ValueError(f"{member.name!r} would lie outside the folder")
        if not (member.isreg() or member.isdir()):
            raise ValueError(f"{member.name!r} is neither a file nor a folder")
        if member.isreg() and path in seen:
            raise ValueError(f"it holds {member.name!r} twice")
        nr_bytes += member.size  # which may be more than is stored: of a file with holes
        if nr_bytes > most:
            raise ValueError(f"it unpacks to more than {most} bytes, which data do not")
        seen.add(path)
        tar.extract(member, folder)
    if not any(member.isreg() for member in tar.getmembers()):
        raise ValueError("it holds no files")


def _innermost(folder: Path) -> Path:
    """The folder that has the files, where an archive holds it in others."""
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return _innermost(inside[0]) if len(inside) == 1 and inside[0].is_dir() else folder


# ---------------------------------------------------------------------------- statistics


class Shape(NamedTuple):
    """Of a sparse matrix."""

    rows: int
    columns: int
    values: int  # that are stored


def _shape(path: Path) -> Shape:
    """The shape of a matrix in scipy's npz format, of which the values are not read."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, _size(path))
            parts = []
            for name in ("shape.npy", "indptr.npy"):
                with archive.open(name) as file:
                    parts.append(read_array(file, archive.getinfo(name).file_size))
        (rows, columns), indptr = parts
        return Shape(int(rows), int(columns), int(indptr[-1]))
    except Exception as error:  # zipfile, zlib and numpy raise all kinds on a damaged file
        raise ValueError(f"{path}: not a sparse matrix in scipy's npz format ({first_line(error)})") from None


def statistics(folder: Path) -> Statistics:
    """Sizes of the training split of one of PECOS's archives.

    Raises:
        ValueError: one line; a file is missing or damaged, or texts, features, labels and names do not fit together.
    """
    X, Y = ({split: _shape(folder / name.format(split)) for split in ("trn", "tst")} for name in (X_NAME, Y_NAME))
    nr_names = _nr_lines(folder / "output-items.txt")
    for split in ("trn", "tst"):
        texts = f"X.{split}.txt"
        counts = {X_NAME: X[split].rows, Y_NAME: Y[split].rows}
        counts = {name.format(split): count for name, count in counts.items()} | {texts: _nr_lines(folder / texts)}
        _check_equal(folder, counts, "documents")
        _check_equal(folder, {Y_NAME.format(split): Y[split].columns, "output-items.txt": nr_names}, "labels")
    _check_equal(folder, {X_NAME.format(split): X[split].columns for split in X}, "features")
    return Statistics(*X["trn"][:2], Y["trn"].columns, X["trn"].values, Y["trn"].values)


def _nr_lines(path: Path) -> int:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file, though PECOS's archives have it")
    return sum(1 for _ in iter_lines(path))


def _check_equal(folder: Path, counts: dict[str, int], what: str) -> None:
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} has {count:,}" for name, count in counts.items())
        raise ValueError(f"{folder}: {told} {what}: these files are not of one data set")


def _check_statistics(found: Statistics, known: Statistics, archive: Path) -> None:
    wrong = [
        f"{found[number]:,} {name.replace('_', ' ')} and not {known[number]:,}"
        for number, name in enumerate(Statistics._fields)
        if found[number] != known[number]
    ]
    if wrong:
        raise ValueError(
            f"{archive}: holds {', '.join(wrong)}: this is not the data set that results are published on. It is not "
            "unpacked; if you want it all the same, unpack it yourself"
        )


# ---------------------------------------------------------------------------- command


def fetch(name: str, folder: str | Path, *, url: str | None = None, pause: float = PAUSE) -> dict:
    """Puts the data set into folder/name and returns what folder/name.json keeps of it.

    Args:
        name: one of KNOWN, or with url any name.
        folder: where it goes; archive and what has come of it lie here too while they are needed.
        url: of the .tar.gz, if it is not the usual one.
        pause: as for download.

    Returns:
        {"url", "bytes", "sha256", "statistics": {…} or None where nothing is known to compare with}.

    Raises:
        ValueError or OSError: one line. What has come is kept unless it is damaged.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"{name!r} is no name of a data set: letters, digits, dots and hyphens only")
    if url is None and name not in KNOWN:
        raise ValueError(f"there is no known data set {name!r}: choose one of {', '.join(KNOWN)}, or give its --url")
    url = url or ADDRESS.format(name=name)
    if not re.fullmatch(r"https?://[^\s/]\S*", url):
        raise ValueError(f"--url={url} is no address that begins with http:// or https://")
    folder = Path(folder)
    target, record, archive = (folder / f"{name}{ending}" for ending in ("", ".json", ".tar.gz"))
    if target.exists():
        if not record.exists():
            raise ValueError(f"{target} is there already, and was not fetched: choose another --dir")
        return _read_record(record)
    folder.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        download(url, archive, pause=pause)
    for path in folder.glob(f".*.tmp.{name}"):  # of a fetch that was killed
        shutil.rmtree(path, ignore_errors=True)
    known, kept = KNOWN.get(name, Known()), _read_record(record) if record.exists() else {}
    with open(archive, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    _check_sha256(archive, sha256, known.sha256, "is the known one")
    _check_sha256(archive, sha256, kept.get("sha256"), f"an earlier download had ({record})")
    found = {"url": url, "bytes": _size(archive), "sha256": sha256, "statistics": None}
    with replace_folder(target) as tmp:
        unpacked = tmp / ".unpacked"
        logger.info("unpacking %s", archive)
        try:
            unpack(archive, unpacked)
        except ValueError as error:
            archive.unlink()
            raise ValueError(f"{error}; it is removed, and the same command downloads it again") from None
        inner = _innermost(unpacked)
        if known.statistics:
            counts = statistics(inner)
            _check_statistics(counts, known.statistics, archive)
            found["statistics"] = counts._asdict()
        for path in list(inner.iterdir()):
            os.replace(path, tmp / path.name)
        shutil.rmtree(unpacked)
        write_json(record, found)
    archive.unlink()
    return found


def _read_record(path: Path) -> dict:
    record = read_json(path)
    if not isinstance(record, dict) or not record.keys() >= {"url", "bytes", "sha256", "statistics"}:
        raise ValueError(f"{path} is not what a fetch keeps of a data set: choose another --dir")
    return record


def _check_sha256(archive: Path, found: str, expected: str | None, whose: str) -> None:
    if expected is not None and found != expected:
        raise ValueError(f"{archive}: its SHA-256 is {found}, but {expected} {whose}: remove it to download it again")


def main(arguments: list[str] | None = None) -> None:
    """The command; a mistake is one line on standard error and exit status 2."""
    parser = argparse.ArgumentParser(
        "xrt-jax fetch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", metavar="NAME", help=", ".join(KNOWN))
    parser.add_argument("--dir", required=True, help="folder of data sets, to which NAME is added")
    parser.add_argument("--url", help="address of the .tar.gz, such as a mirror's")
    given = parser.parse_args(arguments)
    set_up_logging()
    there = (Path(given.dir) / given.name).exists()
    try:
        found = fetch(given.name, given.dir, url=given.url)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    folder = Path(given.dir) / given.name
    print(f"data folder   {folder}{', which was there already' if there else ''}")
    print(f"archive       {found['url']}, {format_bytes(found['bytes'])}")
    print(f"SHA-256       {found['sha256']}, kept in {folder}.json: later downloads must have it")
    if found["statistics"]:
        for key, value in found["statistics"].items():
            print(f"{key.replace('_', ' '):<13} {value:,}, as published")
    else:
        print("statistics    none are known to compare with")
    print(f"next          xrt-jax describe {folder}")


if __name__ == "__main__":
    main()
