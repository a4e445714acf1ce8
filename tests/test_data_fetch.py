"""Downloads from a local server that breaks off and lies; archives that would escape; statistics that differ."""

import gzip
import hashlib
import io
import json
import re
import resource
import socket
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from commands import ROOT, environment

from xrt_jax.data import fetch as fetching
from xrt_jax.data.fetch import KNOWN, Known, Statistics, download, fetch, statistics, unpack
from xrt_jax.data.folders import load_dataset
from xrt_jax.disk import DiskFullError, read_json

CONTENT = np.random.default_rng(0).bytes(700_000)


def data_set() -> dict[str, bytes]:
    """Files of a small archive in PECOS's layout: 4 and 2 documents, 5 features, 3 labels."""
    files = {"output-items.txt": b"a\nb\nc\n"}
    for split, n in (("trn", 4), ("tst", 2)):
        files[f"X.{split}.txt"] = "".join(f"text {row} ä\n" for row in range(n)).encode()
        for name, columns in ((f"Y.{split}.npz", 3), (f"tfidf-attnxml/X.{split}.npz", 5)):
            out = io.BytesIO()
            sp.save_npz(out, sp.eye(n, columns, format="csr", dtype=np.float32))
            files[name] = out.getvalue()
    return files


SMALL = Statistics(documents=4, features=5, labels=3, feature_values=4, label_values=3)


def archive(files: dict[str, bytes], prefix: str = "xmc-base/small/") -> bytes:
    """The bytes of a .tar.gz, the same ones for the same files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(out.getvalue(), mtime=0)


@pytest.fixture
def server(monkeypatch):
    """A server on this machine; how it behaves and what it was asked are attributes."""
    monkeypatch.setenv("no_proxy", "*")
    state = SimpleNamespace(
        content=CONTENT,
        ranges=True,
        tag='"1"',
        breaks=[],
        statuses=[],
        length=None,
        chunked=False,
        silent=False,
        asked=[],
    )

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked = self.headers.get("Range")
            state.asked.append(asked)
            if state.statuses:
                self.send_error(state.statuses.pop(0))
                return
            start, content = 0, state.content
            is_same = self.headers.get("If-Range") in (None, state.tag)
            if asked and state.ranges and is_same:
                start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            if state.tag:
                self.send_header("ETag", state.tag)
            if state.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(state.length or len(content) - start))
            self.end_headers()
            end = state.breaks.pop(0) if state.breaks else len(content)
            body = content[start:end]
            if state.chunked:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body) + (b"0\r\n\r\n" if end == len(content) else b""))
            else:
                self.wfile.write(body)
            if end < len(content) and state.silent:
                time.sleep(10)  # longer than the client waits
            if end < len(content) or state.length:
                self.close_connection = True

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_port}/small.tar.gz"
        yield state
        http.shutdown()
        thread.join()


def get(server, folder, **settings) -> bytes:
    download(server.url, folder / "f.tar.gz", pause=0.0, **settings)
    assert sorted(path.name for path in folder.iterdir()) == ["f.tar.gz"]
    return (folder / "f.tar.gz").read_bytes()


# ---------------------------------------------------------------------------- transfers


def test_a_whole_transfer(server, tmp_path):
    assert get(server, tmp_path) == CONTENT
    assert server.asked == [None]


def test_broken_transfers_go_on_where_they_broke(server, tmp_path):
    ends = [
        100_000,
        100_000,
        200_000,
        300_000,
        400_000,
        500_000,
        699_999,
    ]  # more than TRIES, all but one bring something
    server.breaks = list(ends)
    assert get(server, tmp_path) == CONTENT
    assert server.asked == [None, *(f"bytes={end}-" for end in ends)]


def test_without_ranges_a_transfer_starts_over(server, tmp_path):
    server.ranges, server.breaks = False, [300_000, 200_000]
    assert get(server, tmp_path) == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=200000-"]


def test_chunks_that_end_early_are_noticed(server, tmp_path):
    server.chunked, server.breaks = True, [300_000]
    assert get(server, tmp_path) == CONTENT
    assert len(server.asked) == 2


@pytest.mark.parametrize(("tag", "changed"), [('"2"', CONTENT[::-1]), (None, CONTENT[::-1] + b"more")])
def test_a_file_that_has_changed_is_fetched_from_its_start(server, tmp_path, tag, changed):
    """By its tag, or where the server tells none by its length."""
    server.tag = tag and '"1"'
    server.breaks = [300_000] + [0] * fetching.TRIES
    with pytest.raises(OSError, match="go"):
        get(server, tmp_path)
    server.tag, server.content, server.breaks = tag, changed, []
    assert get(server, tmp_path) == changed


def test_another_address_starts_over(server, tmp_path):
    server.breaks = [300_000] + [0] * fetching.TRIES
    with pytest.raises(OSError, match="the same command goes on"):
        get(server, tmp_path)
    server.url, server.asked, server.breaks = server.url + "?mirror", [], []
    assert get(server, tmp_path) == CONTENT
    assert server.asked == [None]


def test_a_part_that_is_whole_is_not_asked_for_again(server, tmp_path):
    server.breaks = [300_000] + [0] * fetching.TRIES
    with pytest.raises(OSError, match="in a row"):
        get(server, tmp_path)
    (tmp_path / "f.tar.gz.part").write_bytes(CONTENT)
    assert get(server, tmp_path) == CONTENT
    (tmp_path / "f.tar.gz").unlink()
    server.breaks = [300_000] + [0] * fetching.TRIES
    with pytest.raises(OSError, match="in a row"):
        get(server, tmp_path)
    (tmp_path / "f.tar.gz.part").write_bytes(CONTENT + b"more")
    assert get(server, tmp_path) == CONTENT


def test_a_server_that_breaks_off_time_and_again_is_one_line(server, tmp_path):
    server.breaks = [300_000] + [300_000] * fetching.TRIES
    with pytest.raises(OSError, match="the transfer ended after 300000 of 700000 bytes, 5 times in a row") as error:
        get(server, tmp_path)
    assert "; 293 KiB are kept, and the same command goes on from there" in str(error.value)
    assert len(server.asked) == fetching.TRIES
    server.asked, server.breaks = [], []
    assert get(server, tmp_path) == CONTENT
    assert server.asked == ["bytes=300000-"]


def test_a_length_that_is_wrong(server, tmp_path):
    server.length, server.ranges = 800_000, False
    with pytest.raises(OSError, match="the transfer ended after 700000 of 800000 bytes, 5 times in a row"):
        get(server, tmp_path)


def test_busy_servers_are_asked_again_and_missing_files_are_not(server, tmp_path):
    server.statuses = [503, 500, 429]
    assert get(server, tmp_path) == CONTENT
    server.statuses, server.asked = [404], []
    with pytest.raises(FileNotFoundError, match=r"small\.tar\.gz: the server answers 404 Not Found; look at the name"):
        download(server.url, tmp_path / "g.tar.gz", pause=0.0)
    assert len(server.asked) == 1
    server.statuses = [503] * fetching.TRIES
    with pytest.raises(OSError, match=r"the server answers 503 Service Unavailable, 5 times in a row$"):
        download(server.url, tmp_path / "g.tar.gz", pause=0.0)


def test_no_server_and_growing_pauses(tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetching.time, "sleep", pauses.append)
    with socket.socket() as nobody:  # a port at which nobody listens
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/x"
        with pytest.raises(OSError, match=rf"^{url}: .*refused, 5 times in a row$"):
            download(url, tmp_path / "x", pause=0.5)
    assert pauses == [0.5, 1, 2, 4]


def test_a_server_that_falls_silent(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT", 2)  # a server thread may need tenths of a second to answer
    server.breaks, server.silent = [300_000], True
    assert get(server, tmp_path) == CONTENT
    assert server.asked[0] is None and server.asked[-1].startswith("bytes=")


def test_a_full_disk(server, tmp_path):
    server.length = 10**16
    with pytest.raises(DiskFullError, match=r"no space left on the disk for .*part: .* are to come and .* are free"):
        get(server, tmp_path)
    server.length = None
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    try:
        with pytest.raises(DiskFullError, match=rf"^no space left on the disk for {tmp_path}/f\.tar\.gz\.part$"):
            get(server, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert get(server, tmp_path) == CONTENT
    assert server.asked[-1] == "bytes=400000-"


# ---------------------------------------------------------------------------- archives


def tar_of(*members, content: bytes = b"x" * 600) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, changes in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in changes.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return out.getvalue()


def with_holes(size: int) -> bytes:
    """An archive of a file of this size that is nothing but a hole."""
    header = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(size)}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("hole")
        member.pax_headers = header | {"GNU.sparse.name": "hole"}
        sparse_map = f"1\n{size}\n0\n".encode().ljust(512, b"\0")
        member.size = len(sparse_map)
        tar.addfile(member, io.BytesIO(sparse_map))
    return out.getvalue()


def long_header(size: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("x" * size))
    return out.getvalue()


FILE = ("a/ok", {})
LINK = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd", "size": 0}
BAD_ARCHIVES = {
    "parent": (tar_of(FILE, ("a/../../evil", {})), r"'a/\.\./\.\./evil' would lie outside the folder"),
    "absolute": (tar_of(("/tmp/evil", {})), "'/tmp/evil' would lie outside"),
    "windows": (tar_of(("..\\evil", {})), "would lie outside"),
    "drive": (tar_of(("c:evil", {})), "would lie outside"),
    "symbolic": (tar_of(("a", LINK), ("a/evil", {})), "'a' is neither a file nor a folder"),
    "hard": (tar_of(("a", LINK | {"type": tarfile.LNKTYPE})), "'a' is neither"),
    "device": (tar_of(("a", {"type": tarfile.CHRTYPE, "size": 0})), "'a' is neither"),
    "fifo": (tar_of(("a", {"type": tarfile.FIFOTYPE, "size": 0})), "'a' is neither"),
    "twice": (tar_of(FILE, ("a//ok", {})), "it holds 'a//ok' twice"),
    "bomb": (tar_of(("a", {}), content=bytes(100 * 2**20)), "it unpacks to more than .* bytes, which data do not"),
    "holes": (with_holes(2**40), "it unpacks to more than"),
    "header": (long_header(100 * 2**20), "it unpacks to more than"),
    "behind": (gzip.compress(gzip.decompress(tar_of(FILE)) + bytes(100 * 2**20)), "it unpacks to more than"),
    "no gzip": (b"<html>log in</html>", "Not a gzipped file"),
    "no tar": (gzip.compress(b"hello" * 300), "cannot be unpacked"),
    "cut": (tar_of(FILE)[:-20], "cannot be unpacked"),
    "checksum": (tar_of(FILE)[:-8] + b"\0\0\0\0" + tar_of(FILE)[-4:], "CRC check failed"),
    "short tar": (gzip.compress(gzip.decompress(tar_of(FILE))[:700]), "unexpected end of data"),
    "empty": (tar_of(("a", {"type": tarfile.DIRTYPE, "size": 0})), "it holds no files"),
}


@pytest.mark.parametrize("what", BAD_ARCHIVES)
def test_archives_that_are_refused(tmp_path, what):
    content, message = BAD_ARCHIVES[what]
    (tmp_path / "f.tar.gz").write_bytes(content)
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match=rf"^{tmp_path}/f\.tar\.gz: cannot be unpacked \(.*") as error:
        unpack(tmp_path / "f.tar.gz", tmp_path / "in" / "folder")
    assert re.search(message, str(error.value)) and "\n" not in str(error.value)
    assert not list(tmp_path.rglob("evil")) and not (tmp_path / "in" / "passwd").exists()
    assert sum(path.stat().st_size for path in (tmp_path / "in").rglob("*") if path.is_file()) <= 600


def test_modes_and_owners_of_an_archive_are_not_taken_over(tmp_path):
    (tmp_path / "f.tar.gz").write_bytes(tar_of(("a", {"mode": 0o6777, "uid": 12345})))
    unpack(tmp_path / "f.tar.gz", tmp_path / "in")
    assert (tmp_path / "in" / "a").stat().st_mode & 0o7022 == 0


# ---------------------------------------------------------------------------- data sets


@pytest.fixture
def known(monkeypatch, server):
    """The small data set as a known one, on the server."""
    monkeypatch.setitem(KNOWN, "small", Known(SMALL))
    server.content = archive(data_set())
    return server


def test_fetch_gives_a_folder_that_loads(known, tmp_path):
    found = fetch("small", tmp_path / "data", url=known.url, pause=0.0)
    sha256 = hashlib.sha256(known.content).hexdigest()
    expected = {"url": known.url, "bytes": len(known.content), "sha256": sha256, "statistics": SMALL._asdict()}
    assert found == read_json(tmp_path / "data" / "small.json") == expected
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["small", "small.json"]
    files = {path.relative_to(tmp_path / "data" / "small") for path in (tmp_path / "data" / "small").rglob("*.*")}
    assert {str(file) for file in files} == set(data_set())
    dataset = load_dataset(tmp_path / "data" / "small")
    assert dataset.trn.Y.shape == (4, 3) and dataset.trn.X.shape == (4, 5) and len(dataset.tst.texts) == 2
    known.asked = []
    assert fetch("small", tmp_path / "data", url=known.url, pause=0.0) == expected
    assert known.asked == []


def test_a_later_download_must_have_the_same_checksum(known, tmp_path):
    fetch("small", tmp_path, url=known.url, pause=0.0)
    (tmp_path / "small").rename(tmp_path / "old")
    known.content = archive(data_set() | {"more.txt": b"x"})
    with pytest.raises(
        ValueError, match=r"its SHA-256 is \w{64}, but \w{64} an earlier download had \(.*small\.json\)"
    ):
        fetch("small", tmp_path, url=known.url, pause=0.0)
    assert not (tmp_path / "small").exists()
    known.content = archive(data_set())
    (tmp_path / "small.tar.gz").unlink()
    fetch("small", tmp_path, url=known.url, pause=0.0)


def test_a_published_checksum_is_compared(known, tmp_path, monkeypatch):
    monkeypatch.setitem(KNOWN, "small", Known(SMALL, "0" * 64))
    with pytest.raises(ValueError, match=r"but 0{64} is the known one: remove it to download it again"):
        fetch("small", tmp_path, url=known.url, pause=0.0)
    monkeypatch.setitem(KNOWN, "small", Known(SMALL, hashlib.sha256(known.content).hexdigest()))
    assert fetch("small", tmp_path, url=known.url, pause=0.0)["statistics"]


def test_an_archive_that_lies_there_already_is_taken(known, tmp_path):
    (tmp_path / "small.tar.gz").write_bytes(known.content)
    assert fetch("small", tmp_path)["statistics"] == SMALL._asdict()
    assert known.asked == []


def test_a_damaged_archive_is_removed_and_fetched_again(known, tmp_path):
    whole, known.content = known.content, known.content[:-30]
    with pytest.raises(ValueError, match=r"it is removed, and the same command downloads it again"):
        fetch("small", tmp_path, url=known.url, pause=0.0)
    assert list(tmp_path.iterdir()) == []
    known.content = whole
    (tmp_path / ".1.tmp.small").mkdir()  # of a fetch that was killed
    fetch("small", tmp_path, url=known.url, pause=0.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small", "small.json"]


WRONG = {
    "documents": (lambda files: files | {"X.trn.txt": files["X.trn.txt"] + b"more\n"}, r"X\.trn\.txt has 5 documents"),
    "names": (lambda files: files | {"output-items.txt": b"a\n"}, r"output-items\.txt has 1 labels"),
    "missing": (lambda files: {k: v for k, v in files.items() if k != "X.tst.txt"}, r"X\.tst\.txt: there is no such"),
    "no npz": (lambda files: files | {"Y.tst.npz": b"x"}, r"Y\.tst\.npz: not a sparse matrix"),
    "features": (
        lambda files: files | {"tfidf-attnxml/X.tst.npz": files["Y.tst.npz"]},
        r"X\.tst\.npz has 3 features: these files are not of one data set",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_files_that_do_not_fit_together(known, tmp_path, what):
    change, message = WRONG[what]
    known.content = archive(change(data_set()))
    with pytest.raises(ValueError, match=message) as error:
        fetch("small", tmp_path, url=known.url, pause=0.0)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["small.tar.gz"]


def test_other_statistics_than_the_known_ones(known, tmp_path, monkeypatch):
    monkeypatch.setitem(KNOWN, "small", Known(SMALL._replace(documents=15_449, label_values=2)))
    message = r"holds 4 documents and not 15,449, 3 label values and not 2: this is not the data set"
    with pytest.raises(ValueError, match=message):
        fetch("small", tmp_path, url=known.url, pause=0.0)
    assert not (tmp_path / "small").exists()


def test_an_unknown_data_set_of_a_given_address(server, tmp_path):
    server.content = archive({"train.txt": b"1 1 1\n0 0:1\n"}, prefix="./")
    assert fetch("mine", tmp_path, url=server.url, pause=0.0)["statistics"] is None
    assert (tmp_path / "mine" / "train.txt").exists()


@pytest.mark.parametrize(
    ("name", "url", "message"),
    [
        ("nothing", None, "there is no known data set 'nothing': choose one of eurlex-4k, wiki10-31k, "),
        ("../x", None, "'../x' is no name of a data set"),
        (".x", "http://h/x", "'.x' is no name"),
        ("x", "file:///etc/passwd", "--url=file:///etc/passwd is no address that begins with http"),
        ("x", "http://a b/", "--url=http://a b/ is no address"),
    ],
)
def test_names_and_addresses_that_are_refused(tmp_path, name, url, message):
    with pytest.raises(ValueError, match=message):
        fetch(name, tmp_path / "data", url=url)
    assert not (tmp_path / "data").exists()


def test_an_address_without_a_port_number(tmp_path):
    with pytest.raises(ValueError, match=r"^http://localhost:x/: nonnumeric port: 'x'$"):
        fetch("mine", tmp_path, url="http://localhost:x/")


def test_folders_that_were_not_fetched_stay(tmp_path):
    (tmp_path / "eurlex-4k").mkdir()
    with pytest.raises(ValueError, match="eurlex-4k is there already, and was not fetched"):
        fetch("eurlex-4k", tmp_path)
    (tmp_path / "eurlex-4k.json").write_text("[]")
    with pytest.raises(ValueError, match="is not what a fetch keeps"):
        fetch("eurlex-4k", tmp_path)


def test_statistics_count_what_is_stored(tmp_path):
    for name, content in data_set().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert statistics(tmp_path) == SMALL


def test_command(server, tmp_path):
    server.content = archive(data_set())
    server.breaks = [500]

    def run(*arguments):
        command = [sys.executable, "-m", "xrt_jax.cli", "fetch", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)

    done = run("mine", f"--dir={tmp_path}", f"--url={server.url}")
    assert done.returncode == 0, done.stderr
    assert f"data folder   {tmp_path}/mine\n" in done.stdout and "none are known to compare with" in done.stdout
    assert "WARNING: " in done.stderr and "ended after 500 of" in done.stderr and "mine.tar.gz" in done.stderr
    sha256 = json.loads((tmp_path / "mine.json").read_text())["sha256"]
    assert sha256 == hashlib.sha256(server.content).hexdigest() and sha256 in done.stdout
    assert "mine, which was there already" in run("mine", f"--dir={tmp_path}", f"--url={server.url}").stdout
    done = run("other", f"--dir={tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch("error: there is no known data set 'other': .*\n", done.stderr)
