"""Two processes make the model that one process makes with as many devices, and none of them outlives the other."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import ROOT, assert_same_model, environment
from safetensors.numpy import load_file
from toy import arguments

from xrt_jax import processes
from xrt_jax.processes import cluster_settings
from xrt_jax.report import Report, progress

SETTINGS = {"matcher__save_steps": 5, "matcher__first_bootstrap": "linear", "matcher__max_steps": 10}
SETTINGS |= {"matcher__eval_steps": 5, "matcher__ensemble": "average", "matcher__max_match_clusters": 8}  # two levels
SETTINGS |= {"data__label_texts": "names"}
THREADS = {"PJRT_NPROC": "16"}  # as in conftest.py
ENDED = 120  # seconds in which a process must notice that it has lost the other; the heartbeat takes 30


def start(*command: str, **variables: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment() | THREADS | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def several(n: int, *command: str):
    """The processes of one run; killed if they are still there in the end."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(n)}
    started = [start(*command, **shared, JAX_PROCESS_ID=str(i)) for i in range(n)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def run_two(*command: str) -> list[tuple[int, str, str]]:
    """As run_several of two."""
    return run_several(2, *command)


def run_several(n: int, *command: str) -> list[tuple[int, str, str]]:
    """(status, standard output, standard error) of each process."""
    with several(n, *command) as started:
        printed = [process.communicate() for process in started]
        return [(process.returncode, *texts) for process, texts in zip(started, printed, strict=True)]


def run_one(*command: str, devices: int = 2) -> None:
    process = start(*command, XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}")
    _, errors = process.communicate()
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Work directory of one process with two devices."""
    workdir = tmp_path_factory.mktemp("processes") / "w"
    run_one("-m", "xrt_jax.main", *arguments(data, workdir, **SETTINGS))
    return workdir


def test_two_processes_make_the_same_model_and_one_set_of_files(whole, data, tmp_path):
    workdir = tmp_path / "w"
    (first, printed, errors), (second, silent, others_errors) = run_two(
        "-m", "xrt_jax.main", *arguments(data, workdir, **SETTINGS)
    )
    assert first == second == 0, errors + others_errors
    assert_same_model(whole, workdir)
    assert "2 processes" in printed and "model folder" in printed and "fine-tune" in errors
    assert all(line.startswith("[Gloo]") for line in silent.splitlines()) and "fine-tune" not in others_errors
    files = [
        sorted(
            str(path.relative_to(w))
            for path in w.rglob("*")
            if path.is_file() and not {"state", "tensorboard"} & set(path.relative_to(w).parts)
        )
        for w in (whole, workdir)
    ]
    assert files[0] == files[1]
    metrics = [json.loads((w / "metrics.json").read_text()) for w in (whole, workdir)]
    assert all(metrics[0][name] == metrics[1][name] for name in ("xr_linear", "xr_transformer"))
    lines = [(w / "metrics.jsonl").read_text().count('"step"') for w in (whole, workdir)]
    assert lines[0] == lines[1]

    # A mistake is told once, be it found by the first process or by all.
    for changes, expected in (({"seed": 7}, "seed: 0 -> 7"), ({"matcher__loss": "hing"}, "matcher.loss")):
        folder = tmp_path / "bad" if "matcher__loss" in changes else workdir
        ended = run_two("-m", "xrt_jax.main", *arguments(data, folder, **SETTINGS | changes))
        assert [status for status, *_ in ended] == [2, 2]
        told = [line for _, _, text in ended for line in text.splitlines() if "error:" in line]
        assert len(told) == 1 and expected in told[0]


@pytest.mark.slow
def test_a_head_split_over_two_processes_is_that_of_one(data, tmp_path):
    settings = SETTINGS | {"mesh__label": 2, "matcher__max_no_improve": 2, "matcher__gradient_accumulation": 2}
    run_one("-m", "xrt_jax.main", *arguments(data, tmp_path / "one", **settings))
    ended = run_two("-m", "xrt_jax.main", *arguments(data, tmp_path / "two", **settings))
    assert [status for status, *_ in ended] == [0, 0], ended
    assert_same_model(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_four_processes_make_the_same_model_but_for_rounding(data, tmp_path):
    """Two gradients have one sum; those of four are added up in another order between processes than in one."""
    run_one("-m", "xrt_jax.main", *arguments(data, tmp_path / "one", **SETTINGS), devices=4)
    ended = run_several(4, "-m", "xrt_jax.main", *arguments(data, tmp_path / "four", **SETTINGS))
    assert [status for status, *_ in ended] == [0] * 4, ended
    one, four = (load_file(tmp_path / run / "model/encoder/model.safetensors") for run in ("one", "four"))
    for name in one:
        np.testing.assert_allclose(one[name], four[name], rtol=0, atol=1e-6, err_msg=name)
    metrics = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("one", "four")]
    assert all(metrics[0][name] == metrics[1][name] for name in ("xr_linear", "xr_transformer"))


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_one_is_killed_the_other_ends_and_both_go_on_to_the_same_model(whole, data, tmp_path, killed):
    workdir = tmp_path / "w"
    command = ("-m", "xrt_jax.main", *arguments(data, workdir, **SETTINGS))
    with several(2, *command) as started:
        deadline = time.time() + 300
        while not (workdir / "level_1/steps/5").is_dir():
            assert all(process.poll() is None for process in started), "a run ended before it could be killed"
            assert time.time() < deadline
            time.sleep(0.005)
        started[killed].send_signal(signal.SIGKILL)
        assert started[1 - killed].wait(timeout=ENDED) != 0
    ended = run_two(*command)
    assert [status for status, *_ in ended] == [0, 0], ended
    assert_same_model(whole, workdir)


CHECKS = """
import os, sys
from pathlib import Path
import jax, numpy as np
from xrt_jax import processes
from xrt_jax.checkpoint import Steps
from xrt_jax.encoders.flops import matmul_ceiling
from xrt_jax.matcher import mesh as M
processes.start()
folder, me = Path(sys.argv[1]), jax.process_index()
assert processes.are_several() and processes.is_first() == (me == 0)
assert processes.from_first(f"of {me}") == "of 0"
made = processes.first_then_others(lambda: (folder / "made").exists() or (folder / "made").write_text("whole"))
assert (made is True) == (me == 1)
for label, axes in ((1, ("data",)), (2, ("label",))):
    mesh = M.make_mesh(label)
    assert dict(mesh.shape) == {"data": 2 // label, "label": label}
    whole = np.arange(12, dtype=np.float32).reshape(4, 3)
    split = {"data": M.split_batch, "label": M.split_labels}[axes[0]](mesh, {"a": whole})["a"]
    assert split.shape == (4, 3) and split.addressable_data(0).shape == (2, 3)
    assert M.replicate(mesh, split).addressable_data(0).shape == (4, 3)
    np.testing.assert_array_equal(M.fetch({"a": split})["a"], whole)
    np.testing.assert_array_equal(M.fetch(M.replicate(mesh, whole)), whole)
    steps = Steps(folder / axes[0])
    state = [split, M.replicate(mesh, whole + 1), jax.numpy.float32(3)]
    for number in (1, 2):
        steps.save(number, [state[0] + number, *state[1:]])
    steps.wait()
    assert steps.latest() == 2 and [path.name for path in steps.folder.iterdir()] == ["2"]
    found = steps.load(state)
    assert [a.sharding for a in found] == [a.sharding for a in state]
    np.testing.assert_array_equal(M.fetch(found)[0], whole + 2)
    np.testing.assert_array_equal(M.fetch(found)[1], whole + 1)
assert matmul_ceiling(np.float32) > 0
print("checked", file=sys.stderr)
"""


def test_arrays_and_checkpoints_of_two_processes(tmp_path):
    for status, _, errors in run_two("-c", CHECKS, str(tmp_path)):
        assert status == 0 and "checked" in errors, errors


FAILING = """
import sys
from xrt_jax import processes
processes.start()
if processes.is_first():
    processes.leave(3)
try:
    processes.from_first()
except processes.StoppedError:
    assert processes.first_fails_too()
    processes.leave(4)
"""


def test_the_failure_of_the_first_is_heard():
    assert [status for status, *_ in run_two("-c", FAILING)] == [3, 4]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"JAX_COORDINATOR_ADDRESS": "h:1"}, {}),  # jax finds out the rest
        (
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "0"},
            {"num_processes": 4, "process_id": 0},
        ),
        ({"SLURM_STEP_NUM_TASKS": "2"}, {}),
        ({"SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "8"}, {}),
        ({"PMI_SIZE": "2"}, {"cluster_detection_method": "mpi4py"}),
        ({"PMI_SIZE": "1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, {}),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ],
)
def test_what_the_environment_tells_of_other_processes(environment, expected):
    assert cluster_settings(environment) == expected


def test_variables_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="JAX_PROCESS_ID set without JAX_COORDINATOR_ADDRESS"):
        cluster_settings({"JAX_PROCESS_ID": "1"})
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES is 'two'"):
        cluster_settings({"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "two"})


def test_a_process_alone_is_the_first_and_waits_for_nobody():
    assert processes.is_first() and not processes.are_several() and not processes.first_fails_too()
    assert processes.from_first([1, None]) == [1, None] and processes.from_each(1) == [1]
    assert processes.first_then_others(lambda: "made") == "made"
    processes.leave(1)  # returns


def test_only_the_first_process_records_and_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes._here.channel, "index", 1, raising=False)
    report = Report(tmp_path)
    with report.stage("s"):
        report.log({"level": 0, "step": 1, "loss": 1.0})
    bar = progress(2, "bar")
    bar.update(2)
    bar.close()
    assert not list(tmp_path.iterdir()) and capsys.readouterr() == ("", "")
