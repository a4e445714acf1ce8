"""A run that finds the disk full says so in one line and goes on once there is space, to the same bytes."""

import os
import re
import resource
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from commands import ROOT, assert_same_model, environment, run
from toy import arguments

from xrt_jax import checkpoint, disk
from xrt_jax.matcher.step import State
from xrt_jax.report import Report
from xrt_jax.scalars import Scalars

# Wide enough that a checkpoint inside a level is larger than all that is written before it.
SETTINGS = {"matcher__save_steps": 5, "scratch__hidden_size": 64, "scratch__intermediate_size": 128, "xr_linear": False}


def run_with_limit(data, workdir, limit: int) -> subprocess.CompletedProcess:
    """The command, in a process none of whose files may have more than `limit` bytes."""
    return subprocess.run(
        [sys.executable, "-m", "xrt_jax.main", *arguments(data, workdir, **SETTINGS)],
        cwd=ROOT,
        env=environment() | {"JAX_ENABLE_COMPILATION_CACHE": "false"},  # its files would be cut off as well
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_full_disk_is_one_line_and_the_run_goes_on_to_the_same_bytes(data, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = run("xrt_jax.main", *arguments(data, whole, **SETTINGS))  # compiles what numba keeps, too
    assert done.returncode == 0, done.stderr
    for limit, place in ((2_000, r"config\.json"), (20_000, r"X\.trn\.npz"), (190_000, r"level_0/steps/\d+")):
        result = run_with_limit(data, broken, limit)
        assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
        (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        told = rf"error: no space left on the disk for {broken}/{place}; the last checkpoint is usable: make room, and "
        assert re.fullmatch(told + "the same command goes on from there", error)
        assert not list(broken.rglob("*tmp*"))
    done = run("xrt_jax.main", *arguments(data, broken, **SETTINGS))
    assert done.returncode == 0, done.stderr
    assert_same_model(whole, broken)


@pytest.fixture
def small_files():
    """No file of this process may grow beyond 50,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_every_writer_tells_a_full_disk_and_keeps_what_was_there(tmp_path, small_files):
    disk.write_json(tmp_path / "a.json", "old")
    with disk.replace_folder(tmp_path / "f") as tmp:
        disk.write_json(tmp / "b.json", "old")
    with pytest.raises(disk.DiskFullError, match=rf"^no space left on the disk for {tmp_path}/a\.json$"):
        disk.write_json(tmp_path / "a.json", "x" * 60_000)
    for save in (np.save, lambda path, array: array.tofile(path), lambda path, array: path.write_bytes(bytes(array))):
        with (
            pytest.raises(disk.DiskFullError, match=rf"^no space left on the disk for {tmp_path}/f$"),
            disk.replace_folder(tmp_path / "f") as tmp,
        ):
            save(tmp / "b.npy", np.ones(60_000))
    with (
        pytest.raises(disk.DiskFullError, match=rf"^no space left on the disk for {tmp_path}/f/b\.json$"),
        disk.replace_folder(tmp_path / "f") as tmp,
    ):
        disk.write_json(tmp / "b.json", "x" * 60_000)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.json", "b.json", "f"]
    assert disk.read_json(tmp_path / "a.json") == disk.read_json(tmp_path / "f/b.json") == "old"


def test_a_log_line_is_whole_or_not_there(tmp_path, small_files):
    report = Report(tmp_path)
    report.log({"stage": "s", "figure": 1})
    with pytest.raises(disk.DiskFullError, match=r"metrics\.jsonl$"):
        report.log({"stage": "s", "text": "x" * 60_000})
    report.log({"stage": "s", "figure": 2})
    assert [entry["figure"] for entry in report.entries()] == [1, 2]
    with pytest.raises(disk.DiskFullError, match=r"tensorboard/s$"):
        Scalars(tmp_path / "tensorboard").add("s", 1, {"x" * 60_000: 1.0}, 0.0)


def test_a_checkpoint_that_finds_no_space_leaves_the_one_before(tmp_path, small_files):
    def state(step: int, size: int) -> State:
        return State(jnp.array(step), jnp.asarray(np.random.default_rng(step).random(size, np.float32)), {}, (), ())

    checkpoint.quiet_orbax()
    steps = checkpoint.Steps(tmp_path)
    steps.save(1, state(1, 1_000))
    steps.save(2, state(2, 50_000))
    with pytest.raises(disk.DiskFullError, match=r"steps/2$"):
        steps.wait()
    assert [path.name for path in steps.folder.iterdir()] == ["1"] and checkpoint.Steps(tmp_path).latest() == 1
    np.testing.assert_array_equal(checkpoint.Steps(tmp_path).load(state(0, 1_000)).encoder, state(1, 1_000).encoder)
    with pytest.raises(disk.DiskFullError, match=r"level_0/state$"):
        checkpoint.save_state(tmp_path / "level_0", {"a": state(3, 50_000).encoder}, {})
    assert not checkpoint.has_state(tmp_path / "level_0") and not list((tmp_path / "level_0").iterdir())


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), disk.naming_full_disk(tmp_path):
        os.stat(tmp_path / "none")
    with pytest.raises(ValueError, match=r"^bad$"), disk.naming_full_disk(tmp_path):
        raise ValueError("bad")
