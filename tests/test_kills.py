"""Killed again and again at any moment, a run ends with the bytes of an unbroken one."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from commands import ROOT, assert_same_model, environment, run
from toy import arguments

NR_KILLS = 20
SETTINGS = {"matcher__save_steps": 5, "matcher__first_bootstrap": "linear"}


@pytest.mark.slow
def test_killed_at_20_random_moments(data, tmp_path):
    whole = tmp_path / "whole"
    for folder in (whole, tmp_path / "again"):  # the second finds compiled programs, as those to be killed do
        start = time.time()
        done = run("xrt_jax.main", *arguments(data, folder, **SETTINGS))
        assert done.returncode == 0, done.stderr
    seconds = time.time() - start
    rng, broken, kills = random.Random(0), tmp_path / "broken", 0
    command = [sys.executable, "-m", "xrt_jax.main", *arguments(data, broken, **SETTINGS)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    while kills < NR_KILLS:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), start_new_session=True, **quiet)
        try:
            # starting takes a good part of the time: most kills come after it, some of them in it
            status = process.wait(timeout=seconds * rng.triangular(0.1, 0.8, 0.6))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        assert status == 0  # it came to its end between two kills
        assert_same_model(whole, broken)
        shutil.rmtree(broken)
    done = run("xrt_jax.main", *arguments(data, broken, **SETTINGS))
    assert done.returncode == 0, done.stderr
    assert_same_model(whole, broken)
    assert not list(broken.rglob("steps")) and not list(broken.rglob("*tmp*"))
