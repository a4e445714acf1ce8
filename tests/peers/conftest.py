"""PECOS in a process of its own: `pecos("train", folder=…, X=…)` calls the function of that name in pecos_worker.py.

Its python is named by the variable XRT_PEERS_PYTHON, or is that of the environment that `make test-peers` makes.
Without either, every test here is skipped.
"""

import contextlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from exchange import decode, encode

HERE = Path(__file__).resolve().parent
DEFAULT = HERE.parent.parent / ".venv-peers"
ABSENT = "no PECOS here: run `make test-peers`, or name a python with libpecos in XRT_PEERS_PYTHON"


def peers_python() -> str | None:
    """The python that has libpecos; None where nobody named one and none was installed."""
    installed = (DEFAULT / "installed").is_file()
    return os.environ.get("XRT_PEERS_PYTHON") or (str(DEFAULT / "bin" / "python") if installed else None)


def pytest_runtest_setup() -> None:
    """Skip where there is no PECOS: from here, all tests are one line of the summary."""
    if peers_python() is None:
        pytest.skip(ABSENT)


class Peer:
    """Calls to the worker, one after the other."""

    def __init__(self, folder: Path):
        command = [peers_python(), str(HERE / "pecos_worker.py"), str(folder / "answers")]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        self.folder, self.log = folder, open(folder / "log.txt", "w+")  # noqa: SIM115
        for name in ("questions", "answers"):
            (folder / name).mkdir()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment | {"OMP_NUM_THREADS": "1"},
        )

    def __call__(self, call: str, **arguments):
        question = {"call": call, "arguments": encode(arguments, self.folder / "questions")}
        line = ""
        with contextlib.suppress(BrokenPipeError):  # told below
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError(f"PECOS's process ended (code {self.process.wait()}): {self.log.read()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"PECOS, {call}:\n{answer['error']}")
        return decode(answer["result"])

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(timeout=60)
        self.log.close()


@pytest.fixture(scope="session")
def pecos(tmp_path_factory):
    """A Peer."""
    peer = Peer(tmp_path_factory.mktemp("pecos"))
    yield peer
    peer.close()


@pytest.fixture(scope="session")
def sentence_transformers():
    """The peers' python, if it has sentence-transformers too; else the test is skipped."""
    python = peers_python()
    found = subprocess.run([python, "-c", "import sentence_transformers"], capture_output=True, check=False)
    if found.returncode:
        pytest.skip("the peers' python has no sentence-transformers")
    return python
