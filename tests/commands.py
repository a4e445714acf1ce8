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
