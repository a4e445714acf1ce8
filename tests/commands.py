"""Runs this package's commands as a user does, in a process of their own, on one CPU device."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


CACHE = tempfile.TemporaryDirectory(prefix="xrt_jax-tests-")  # compiled programs, shared by a session's commands


def environment() -> dict[str, str]:
    """This process's environment without the tests' virtual devices."""
    kept = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "PJRT_NPROC")}
    cache = {"JAX_COMPILATION_CACHE_DIR": CACHE.name, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return {**kept, **cache, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def run(module: str, *args: str, **kwargs) -> subprocess.CompletedProcess:
    """Runs python -m module args in the repository's root and captures what it prints."""
    command = [sys.executable, "-m", module, *args]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, **kwargs)


def assert_same_model(whole, broken) -> None:
    """Fails unless the model folders of two work directories hold the same files with the same bytes."""
    files = [sorted(path.relative_to(w / "model") for path in (w / "model").rglob("*") if path.is_file())
             for w in (whole, broken)]  # fmt: skip
    assert files[0] == files[1] and len(files[0]) > 10
    for file in files[0]:
        assert (whole / "model" / file).read_bytes() == (broken / "model" / file).read_bytes(), file
