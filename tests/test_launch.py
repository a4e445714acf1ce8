"""The scripts in launch/: what they would do, and what they do where gcloud, ssh, srun and mpiexec are stand-ins."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT

SCRIPTS = ("tpu_pod.sh", "gpu_nodes.sh", "slurm.sbatch", "mpi_cluster.sh")
RUN = ["--config=configs/demo.py", "--workdir=runs/a b", "--config.data.dir=it's & $HOME"]
TPU = ["--name=n", "--zone=z", "--accelerator-type=v6e-16", "--version=v"]
TOOLS = ("gcloud", "ssh", "srun", "scontrol", "mpiexec")

# Each notes how it was called, then does what the test says.
STAND_IN = """#!/usr/bin/env bash
printf '%s\\x1f' "${{0##*/}}" "$@" >> {log} && echo >> {log}
{does}
"""


class Tools:
    """Stand-ins for what the scripts call, first in the PATH."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.log = folder / "calls"
        self.log.touch()
        for name in TOOLS:
            self.make(name, "exit 99")

    def make(self, name: str, does: str) -> Path:
        path = self.folder / name
        path.write_text(STAND_IN.format(log=shlex.quote(str(self.log)), does=does))
        path.chmod(0o755)
        return path

    def environment(self, **variables: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        return kept | {"PATH": f"{self.folder}:{os.environ['PATH']}"} | variables

    def run(self, script: str, *args: str, **variables: str) -> subprocess.CompletedProcess:
        command = [ROOT / "launch" / script, *args]
        environment = self.environment(**variables)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    def shown(self, script: str, *args: str, **variables: str) -> list[list[str]]:
        """Commands that a dry run shows; it must call nothing."""
        done = self.run(script, "--dry-run", *args, **variables)
        assert done.returncode == 0 and not done.stderr, done.stderr
        assert not self.calls(*set(TOOLS) - {"mpiexec"})
        return [shlex.split(line[2:]) for line in done.stdout.splitlines() if line.startswith("+ ")]

    def calls(self, *names: str) -> list[list[str]]:
        calls = [line.split("\x1f")[:-1] for line in self.log.read_text().splitlines()]
        return [call for call in calls if call[0] in names]


@pytest.fixture
def tools(tmp_path):
    folder = tmp_path / "tools of the test"
    folder.mkdir()
    return Tools(folder)


def test_shellcheck_finds_nothing():
    command = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if command is None:
        pytest.skip("shellcheck is not installed")
    files = [f"launch/{name}" for name in (*SCRIPTS, "common.sh")]
    done = subprocess.run([command, "-x", *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_comment_that_the_script_begins_with(script, tools):
    done = tools.run(script, "--help")
    assert done.returncode == 0 and f"launch/{script}" in done.stdout and "--dry-run" in done.stdout
    assert "#" not in done.stdout and "set -euo" not in done.stdout


@pytest.mark.parametrize(
    ("script", "args", "message"),
    [
        *((script, ["--nmae=n", *RUN], "unknown option --nmae=n") for script in SCRIPTS),
        ("tpu_pod.sh", ["n", *RUN], "unexpected argument n"),
        ("tpu_pod.sh", TPU[1:] + RUN, "--name is missing"),
        ("tpu_pod.sh", [*TPU, "--zone=", *RUN], "--zone has no value"),
        ("tpu_pod.sh", [*TPU, "--retries=few", *RUN], "--retries is few: it must be a whole number"),
        ("tpu_pod.sh", TPU, "the run needs --config=FILE and --workdir=DIR"),
        ("tpu_pod.sh", [*TPU, "--zone"], "--zone has no value"),
        ("gpu_nodes.sh", ["--hosts=a,b", "--", RUN[0]], "the run needs --config=FILE and --workdir=DIR"),
        ("gpu_nodes.sh", RUN, "--hosts or --hosts-file is missing"),
        ("gpu_nodes.sh", ["--hosts=a", "--hosts-file=f", *RUN], "exclude one another"),
        ("gpu_nodes.sh", ["--hosts=a,,b", *RUN], "--hosts has an empty name"),
        ("gpu_nodes.sh", ["--hosts-file=nowhere", *RUN], "there is no file nowhere"),
        ("slurm.sbatch", RUN, "no Slurm job: start it by sbatch launch/slurm.sbatch"),
        ("mpi_cluster.sh", RUN, "--hosts-file is missing"),
        ("mpi_cluster.sh", ["--hosts-file=nowhere", *RUN], "there is no file nowhere"),
        ("mpi_cluster.sh", ["--hosts-file=README.md", "--mpiexec=no_mpi", *RUN], "there is no no_mpi"),
        ("mpi_cluster.sh", ["--hosts-file=README.md", "--mpiexec=mpiexec", *RUN], "neither MPICH's nor Open MPI's"),
    ],
)
def test_bad_input_is_told_in_one_line(script, args, message, tools):
    done = tools.run(script, *args)
    assert done.returncode == 2 and not done.stdout
    assert message in done.stderr and done.stderr.count("\n") == 1 and done.stderr.startswith(f"{script}: ")


def test_slurm_job_of_another_folder_is_refused(tools):
    done = tools.run("slurm.sbatch", *RUN, SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(tools.folder))
    assert done.returncode == 2 and "submit it in the repository's folder" in done.stderr


# ---------------------------------------------------------------------------- TPU pod

# The slice's state is in a file; each start of the run does what the next line of another file says.
GCLOUD = """
cd {folder}
case "$4 $*" in
    create*) echo READY > state ;;
    delete*) rm state ;;
    describe*networkEndpoints*) echo 10.0.0.9 ;;
    describe*) cat state 2> /dev/null || exit 1 ;;
    ssh*xrt_jax.main\\ --config*)
        next=$(head -n 1 plan) && sed -i 1d plan
        [[ $next != PREEMPTED ]] || {{ echo PREEMPTED > state; exit 1; }}
        exit "$next" ;;
esac
"""


def test_tpu_dry_run(tools):
    setup = "sudo mount 'a b' c;"
    commands = tools.shown("tpu_pod.sh", *TPU, "--project=p", "--spot", "--setup", setup, "--", *RUN)
    tpu, where = ["gcloud", "compute", "tpus", "tpu-vm"], ["--zone=z", "--project=p"]
    create, _, tar, scp, install, describe, start, delete = commands
    assert create == [*tpu, "create", "n", "--accelerator-type=v6e-16", "--version=v", "--spot", *where]
    assert tar[:3] == ["tar", "-czf", "build/n.tar.gz"] and {"setup.py", "xrt_jax", "configs"} < set(tar)
    assert scp == [*tpu, "scp", "build/n.tar.gz", "n:", "--worker=all", *where]
    for command in (install, start):
        assert command[:7] == [*tpu, "ssh", "n", "--worker=all"] and command[-2:] == where
        assert "--ssh-flag=-oServerAliveInterval=30" in command
    assert f"( {setup} )" in install[-3] and install[-3].endswith("-e '.[tpu]' || exit 1")
    subprocess.run(["bash", "-n", "-c", install[-3].removeprefix("--command=")], check=True)
    assert describe == [*tpu, "describe", "n", "--format=value(networkEndpoints[0].ipAddress)", *where]
    expected = "cd xrt_jax && exec env JAX_COORDINATOR_ADDRESS=FIRST_WORKER:8476 .venv/bin/python -m xrt_jax.main "
    assert start[-3].startswith(f"--command={expected}")
    assert shlex.split(start[-3])[-3:] == RUN
    assert delete == [*tpu, "delete", "n", "--quiet", *where]


def run_tpu(tools, *plan, options=(), state=None):
    """(status, verbs of gcloud without describe, standard error)."""
    tools.make("gcloud", GCLOUD.format(folder=shlex.quote(str(tools.folder))))
    (tools.folder / "plan").write_text("".join(f"{line}\n" for line in plan))
    if state:
        (tools.folder / "state").write_text(f"{state}\n")
    done = tools.run("tpu_pod.sh", *TPU, "--pause=0", *options, "--", *RUN)
    (ROOT / "build/n.tar.gz").unlink()
    verbs = [call[4] for call in tools.calls("gcloud") if call[4] != "describe"]
    assert (tools.folder / "plan").read_text() == ""
    return done.returncode, verbs, done.stderr


ATTEMPT = ["scp", "ssh", "ssh"]


def test_tpu_pre_emption_makes_it_create_and_start_again(tools):
    status, verbs, told = run_tpu(tools, "PREEMPTED", "PREEMPTED", "0", options=("--retries=0",))
    assert status == 0 and told.count("the slice is PREEMPTED: creating it again") == 2
    assert verbs == ["create", *ATTEMPT, *2 * ["delete", "create", *ATTEMPT], "delete"]
    starts = [call for call in tools.calls("gcloud") if "xrt_jax.main --config" in " ".join(call)]
    assert len(starts) == 3 and starts[0] == starts[1] == starts[2] and "10.0.0.9:8476" in " ".join(starts[0])


def test_tpu_slice_that_is_there_is_taken_and_kept(tools):
    assert run_tpu(tools, "0", options=("--keep",), state="READY")[:2] == (0, ATTEMPT)


def test_tpu_mistake_is_not_tried_again(tools):
    assert run_tpu(tools, "2", state="TERMINATED")[:2] == (2, ["delete", "create", *ATTEMPT, "delete"])


def test_tpu_failures_are_counted(tools):
    status, verbs, told = run_tpu(tools, "134", "255", "1", options=("--retries=2",))
    assert status == 1 and "status 134: starting again, 1 of 2" in told and "status 255: starting again, 2 of 2" in told
    assert verbs == ["create", *ATTEMPT, *ATTEMPT, "delete", "create", *ATTEMPT, "delete"]  # 255: out of ssh's reach


def test_tpu_waits_for_a_slice_but_not_after_a_mistake(tools):
    tools.make(
        "gcloud", f"[[ $4 == create ]] && exit $(($(wc -l < {shlex.quote(str(tools.log))}) < 6 ? 1 : 2)); exit 1"
    )
    done = tools.run("tpu_pod.sh", *TPU, "--pause=0", *RUN)
    assert done.returncode == 2
    assert [call[4] for call in tools.calls("gcloud")] == ["describe", "create"] * 3


# ---------------------------------------------------------------------------- GPU nodes

HERE = 'host=${@: -2:1} command=${@: -1}\nexec bash -c "$command"'  # a host of any name is this machine


def test_gpu_nodes_dry_run(tools, tmp_path):
    (tmp_path / "hosts").write_text("# these\n me@a:8  # first\n\nb slots=4\n")
    for hosts in (["--hosts", "me@a,b"], [f"--hosts-file={tmp_path}/hosts"]):
        commands = tools.shown("gpu_nodes.sh", *hosts, "--port=99", "--", *RUN)
        assert all(command[:2] == ["ssh", "-tt"] for command in commands)
        assert [command[-2] for command in commands] == ["me@a", "b"]
        for i, command in enumerate(commands):
            variables = ["JAX_COORDINATOR_ADDRESS=a:99", "JAX_NUM_PROCESSES=2", f"JAX_PROCESS_ID={i}"]
            expected = [
                "cd",
                str(ROOT),
                "&&",
                "exec",
                "env",
                *variables,
                ".venv/bin/python",
                "-m",
                "xrt_jax.main",
                *RUN,
            ]
            assert shlex.split(command[-1]) == expected


def test_gpu_nodes_start_one_process_each(tools):
    tools.make("ssh", HERE)
    python = tools.make("py thon", 'printf "<%s>" "$JAX_PROCESS_ID" "$PWD" "$@"; echo')
    done = tools.run("gpu_nodes.sh", "--hosts=a,b,c", f"--dir={tools.folder}", f"--python={python}", *RUN)
    assert done.returncode == 0 and not done.stderr
    rest = "".join(f"<{word}>" for word in (tools.folder, "-m", "xrt_jax.main", *RUN))
    assert sorted(done.stdout.splitlines()) == sorted([f"<0>{rest}", f"b: <1>{rest}", f"c: <2>{rest}"])


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_gpu_node_that_fails_ends_the_others(tools):
    python = tools.make(
        "python", f'[[ $JAX_PROCESS_ID != 1 ]] || exit 3; echo $$ >> "{tools.folder}/pids"; exec sleep 60'
    )
    tools.make("ssh", HERE)
    started = time.time()
    done = tools.run("gpu_nodes.sh", "--hosts=a,b,c", "--grace=1", f"--python={python}", *RUN)
    assert (
        done.returncode == 3 and done.stderr == "gpu_nodes.sh: b ended with status 3\n" and time.time() - started < 20
    )
    assert not any(is_alive(int(pid)) for pid in (tools.folder / "pids").read_text().split())


def test_the_first_gpu_node_knows_best_how_the_run_failed(tools):
    tools.make("ssh", HERE)
    python = tools.make("python", "((JAX_PROCESS_ID)) && exit 2; sleep 0.5; exit 1")
    assert tools.run("gpu_nodes.sh", "--hosts=a,b", f"--python={python}", *RUN).returncode == 1


def test_gpu_nodes_end_when_the_script_is_ended(tools):
    tools.make("ssh", HERE)
    python = tools.make(
        "python", f'echo $$ > "{tools.folder}/pid.tmp"; mv "{tools.folder}"/pid{{.tmp,}}; exec sleep 60'
    )
    command = [ROOT / "launch/gpu_nodes.sh", "--hosts=a", f"--python={python}", *RUN]
    with subprocess.Popen(command, env=tools.environment()) as process:
        wait_for(tools.folder / "pid")
        process.terminate()
    assert process.returncode == 143 and not is_alive(int((tools.folder / "pid").read_text()))


def wait_for(path: Path) -> None:
    deadline = time.time() + 30
    while not path.exists():
        assert time.time() < deadline
        time.sleep(0.02)


# ---------------------------------------------------------------------------- Slurm


@pytest.mark.parametrize(
    ("options", "variables", "expected"),
    [
        ([], {}, "srun --kill-on-bad-exit=0 --wait=0 env"),
        (
            [],
            {"SLURM_CPUS_PER_TASK": "16", "SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": "1"},
            "srun --cpus-per-task=16 --kill-on-bad-exit=0 --wait=0 env JAX_LOCAL_DEVICE_IDS=0,1,2,3",
        ),
        (  # a process for each GPU
            [],
            {"SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": "4"},
            "srun --kill-on-bad-exit=0 --wait=0 env",
        ),
        (
            ["--mpi=pmi2"],
            {"SLURM_CPUS_PER_TASK": "16"},
            "srun --cpus-per-task=16 --mpi=pmi2 --kill-on-bad-exit=1 env NUMBA_NUM_THREADS=16",
        ),
    ],
)
def test_slurm_dry_run(tools, options, variables, expected):
    command = [*expected.split(), ".venv/bin/python", "-m", "xrt_jax.main", *RUN]
    assert tools.shown("slurm.sbatch", *options, *RUN, **variables) == [command]


JOB = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(ROOT)}


def test_slurm_job_runs_from_a_copy_of_the_script(tools, tmp_path):
    tools.make("srun", "exit 5")
    copy = shutil.copy(ROOT / "launch/slurm.sbatch", tmp_path / "slurm_script")
    done = subprocess.run([copy, *RUN], env=tools.environment(**JOB), check=False)
    assert done.returncode == 5
    ((*_, python, dash_m, module, config, workdir, data),) = tools.calls("srun")
    assert [python, dash_m, module, config, workdir, data] == [".venv/bin/python", "-m", "xrt_jax.main", *RUN]


def test_slurm_job_queues_again_before_its_time_is_over(tools):
    tools.make("srun", f'cd "{tools.folder}"; touch started; until [[ -e queued ]]; do sleep 0.05; done')
    tools.make("scontrol", f'sleep 0.2; touch "{tools.folder}/queued"')
    command = [ROOT / "launch/slurm.sbatch", *RUN]
    with subprocess.Popen(command, env=tools.environment(**JOB), stderr=subprocess.DEVNULL) as process:
        wait_for(tools.folder / "started")
        process.send_signal(signal.SIGUSR1)
    assert process.returncode == 0 and tools.calls("scontrol") == [["scontrol", "requeue", "7"]]
    assert len(tools.calls("srun")) == 1


# ---------------------------------------------------------------------------- MPI cluster

VERSION = '[[ $1 != --version ]] || {{ echo "{}"; exit; }}\n'
MPICH, OPEN_MPI, OPEN_MPI_5 = "HYDRA build details:", "mpiexec (OpenRTE) 4.1.4", "mpiexec (Open MPI) 5.0.3"


@pytest.fixture
def cluster(tools, tmp_path):
    """Options for two hosts that are this machine, and a python that tells its version."""
    (tmp_path / "hosts").write_text("a\nb\n")
    tools.make("ssh", HERE)
    tools.make("mpiexec", VERSION.format(MPICH))
    python = tools.make("python", "echo 3.11.2 numpy 2.0")
    return [f"--hosts-file={tmp_path}/hosts", f"--python={python}", "--mpiexec=mpiexec", "--pause=0"]


def run_arguments(tmp_path):
    return ["--config=configs/xlinear.py", f"--workdir={tmp_path}/work dir"]


@pytest.mark.parametrize("version", [MPICH, OPEN_MPI, OPEN_MPI_5])
@pytest.mark.parametrize("threads", [True, False])
def test_mpi_dry_run(tools, cluster, version, threads):
    tools.make("mpiexec", VERSION.format(version))
    more = ["--ranks-per-host=2", "--threads=8"] if threads else []
    look_a, look_b, start = tools.shown("mpi_cluster.sh", *cluster, *more, *RUN)
    assert look_a[:-1] == ["ssh", "-o", "BatchMode=yes", "a"] and look_b[-2] == "b" and look_a[-1] == look_b[-1]
    hosts, python = cluster[0].partition("=")[2], cluster[1].partition("=")[2]
    if version == MPICH:
        expected = ["-f", hosts, *("-n 4 -ppn 2 -genv NUMBA_NUM_THREADS 8" if threads else "-n 2 -ppn 1").split()]
    else:
        ranks = "-n 4 --map-by ppr:2:node" if threads else "-n 2 --map-by ppr:1:node"
        expected = ["--hostfile", hosts, *f"{ranks} --bind-to none".split()]
        expected += ["-x", "NUMBA_NUM_THREADS=8"] if threads else []
    assert start == ["mpiexec", *expected, python, "-m", "xrt_jax.main", *RUN]


@pytest.mark.parametrize(("statuses", "retries"), [((9, 137, 0), 3), ((9, 2), 3), ((9, 7), 1), ((0,), 3)])
def test_mpi_goes_on_after_lost_ranks(tools, cluster, tmp_path, statuses, retries):
    plan = " ".join(map(str, statuses))
    tools.make(
        "mpiexec", VERSION.format(MPICH) + f'plan=({plan}); exit ${{plan[$(grep -c xrt_jax.main "{tools.log}") - 1]}}'
    )
    done = tools.run("mpi_cluster.sh", *cluster, f"--retries={retries}", "--", *run_arguments(tmp_path))
    starts = [call for call in tools.calls("mpiexec") if "xrt_jax.main" in call]
    assert done.returncode == statuses[-1] and len(starts) == len(statuses) == done.stderr.count("\n") + 1
    assert all(start == starts[0] for start in starts) and starts[0][-2:] == run_arguments(tmp_path)
    assert list((tmp_path / "work dir").iterdir()) == []  # what was made to look whether all see it


@pytest.mark.parametrize(
    ("on_b", "message"),
    [
        ('exec bash -c "${command//work dir/other dir}"', "b: does not see "),
        ('exec bash -c "${command/cd /cd /no}"', "b: bash: line 1: cd: /no"),
        ("echo 1 2 3.11.3 numpy 2.0", "b has other code or packages than a: 1 2 3.11.3 numpy 2.0, not "),
        ("echo ssh: no route >&2; exit 255", "b: ssh: no route"),
    ],
)
def test_mpi_hosts_that_do_not_fit_are_refused(tools, cluster, tmp_path, on_b, message):
    tools.make("ssh", HERE.replace("exec", f"[[ $host == a ]] || {{ {on_b}; exit; }}\nexec"))
    done = tools.run("mpi_cluster.sh", *cluster, *run_arguments(tmp_path))
    assert done.returncode == 2 and done.stderr.startswith(f"mpi_cluster.sh: {message}")
    assert done.stderr.count("\n") == 1 and len(tools.calls("mpiexec")) == 1  # for its version
