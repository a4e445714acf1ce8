"""XR-Linear over MPI: any number of ranks makes the bits of one process, and a rank that is lost takes all with it."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from commands import ROOT, environment, run
from toy import arguments as small_run

from xrt_jax.npz import save_npz
from xrt_jax.tree.chain import complete_chain, save_chain
from xrt_jax.xlinear.mpi import nr_ranks

MPIEXEC = Path(sys.executable).with_name("mpiexec")  # of mpich's wheel, in the environment's bin
pytestmark = pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec beside python: pip install -e '.[mpi]'")

SECONDS = 60  # in which a job that has lost a rank must be over; a few are usual
NR_LABELS = 150


def ranks(n: int, *command: str, threads: int = 1) -> subprocess.CompletedProcess:
    """A finished job of n ranks."""
    everything = [str(MPIEXEC), "-n", str(n), sys.executable, *command]
    env = environment() | {"NUMBA_NUM_THREADS": str(threads)}
    return subprocess.run(everything, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300)


def arguments(data: Path, workdir: Path, *more: str) -> list[str]:
    tree = ["--config.refined_tree.nr_splits=4", "--config.refined_tree.max_leaf_size=6"]
    return ["--config=configs/xlinear.py", f"--config.data.dir={data}", f"--workdir={workdir}", *tree, *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of features, with costs, matches, label features and a tree of its own."""
    folder, rng = tmp_path_factory.mktemp("mpi"), np.random.default_rng(0)
    C = sp.csc_matrix((np.ones(NR_LABELS), (rng.permutation(NR_LABELS), np.arange(NR_LABELS) // 7)))
    for split, n in (("trn", 500), ("tst", 60)):
        Y = sp.random(n, NR_LABELS, 0.02, format="csr", rng=rng, data_rvs=lambda size: np.ones(size))
        X = Y @ sp.random(NR_LABELS, 400, 0.04, rng=rng) + sp.random(n, 400, 0.02, rng=rng)
        save_npz(folder / f"Y.{split}.npz", sp.csr_matrix(Y, dtype=np.float32))
        save_npz(folder / f"X.{split}.npz", sp.csr_matrix(X, dtype=np.float32))
        np.save(folder / f"X.{split}.npy", np.asarray(X @ rng.normal(size=(400, 24)), np.float32))
        if split == "trn":
            save_npz(folder / "R.npz", Y.multiply(1 + rng.random(Y.shape)).tocsr().astype(np.float32))
            save_npz(folder / "M.npz", (Y @ C + sp.random(n, C.shape[1], 0.05, rng=rng)).tocsr().astype(np.float32))
    save_npz(folder / "Z.npz", sp.random(NR_LABELS, 90, 0.1, format="csr", rng=rng, dtype=np.float32))
    (folder / "output-items.txt").write_text("".join(f"label {i}\n" for i in range(NR_LABELS)))
    save_chain(folder / "chain", complete_chain(C, nr_splits=4, min_codes=None))
    for kept, gone in (("npz", "npy"), ("npy", "npz")):
        shutil.copytree(folder, folder / kept, ignore=lambda where, names: [n for n in names if n in ("npz", "npy")])
        for split in ("trn", "tst"):
            (folder / kept / f"X.{split}.{gone}").unlink()
    return folder


def assert_same(first: Path, second: Path) -> None:
    """Fails unless tree and ranker of two runs have the same files and bytes, and the second left nothing else."""
    files = [sorted(path.relative_to(w) for path in (w / "xr_linear").rglob("*") if path.is_file())
             for w in (first, second)]  # fmt: skip
    assert files[0] == files[1] and len(files[0]) > 4
    for file in files[0]:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file
    names = [sorted(path.name for path in w.iterdir()) for w in (first, second)]
    assert names[0] == names[1]


CASES = {
    "defaults": ("npz", 4, []),
    "every scheme, costs": (
        "npz",
        3,
        ["data.matches=M.npz", "ranker.negative_sampling=tfn,usn+tfn+man,usn+man,tfn+man", "data.relevance=R.npz"]
        + ["ranker.rel_mode=induce", "ranker.rel_norm=l1", "ranker.only_topk=5", "data.clusters=chain"],
    ),
    "a given tree, ranker-only": (
        "npz",
        2,
        ["data.clusters=chain", "ranker.rel_mode=ranker-only", "data.relevance=R.npz", "ranker.bias=0"],
    ),
    "label features, another embedding on top": (
        "npz",
        2,
        ["data.label_features=Z.npz", "refined_tree.embedding=pifa_lf_concat", "refined_tree.meta_embedding=pii"]
        + ["distributed.min_n_sub_tree=4", "distributed.main_workload_factor=0.3", "refined_tree.do_sample=True"],
    ),
    "dense features, man": ("npy", 3, ["ranker.negative_sampling=tfn+man", "refined_tree.kmeans_max_iter=3"]),
    "no tree": ("npz", 2, ["refined_tree.max_leaf_size=200"]),
    "primal": ("npy", 2, ["ranker.solver=L2R_L2LOSS_SVC_PRIMAL", "refined_tree.meta_embedding=pii"]),
}


@pytest.mark.parametrize("case", CASES)
def test_any_number_of_ranks_makes_the_bits_of_one_process(folder, tmp_path, case):
    kind, n, settings = CASES[case]
    settings = [f"--config.{setting}" for setting in settings]
    whole = run("xrt_jax.main", *arguments(folder / kind, tmp_path / "one", *settings))
    assert whole.returncode == 0, whole.stderr
    shared = ranks(n, "-m", "xrt_jax.main", *arguments(folder / kind, tmp_path / "n", *settings), threads=2)
    assert shared.returncode == 0, shared.stderr
    assert_same(tmp_path / "one", tmp_path / "n")
    tables = [result.stdout[result.stdout.index("percent") :].splitlines()[:3] for result in (whole, shared)]
    assert tables[0] == tables[1] and shared.stdout.count("percent") == 1


def test_every_process_may_be_another_number_of_ranks(folder, tmp_path):
    """What one job has begun, jobs of other sizes go on with, to the same bits."""
    whole = run("xrt_jax.main", *arguments(folder / "npz", tmp_path / "one"))
    assert whole.returncode == 0, whole.stderr
    command = ("-m", "xrt_jax.main", *arguments(folder / "npz", tmp_path / "n"))
    for n in (3, 2):
        kill_in_training(n, command, tmp_path / "n", random.Random(n))
    result = ranks(1, *command)
    assert result.returncode == 0, result.stderr
    assert_same(tmp_path / "one", tmp_path / "n")


# ---------------------------------------------------------------------------- ranks that are lost


def start(n: int, command: tuple[str, ...]) -> subprocess.Popen:
    return subprocess.Popen(
        [str(MPIEXEC), "-n", str(n), sys.executable, *command],
        cwd=ROOT,
        env=environment() | {"NUMBA_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def workers(job: subprocess.Popen) -> list[int]:
    """Process numbers of the ranks, those that are watched over, of a job."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, level = [], [job.pid]
    while level := [child for parent in level for child in children.get(parent, [])]:
        found = level
    return sorted(found)


def kill_in_training(n: int, command: tuple[str, ...], workdir: Path, rng: random.Random) -> str:
    """Starts a job, kills one of its ranks once the tree or the rankers are begun; what the job then told."""
    job = start(n, command)
    deadline = time.time() + SECONDS
    while not (workdir / "xr_linear.shared").is_dir():
        assert job.poll() is None and time.time() < deadline, job.communicate()
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 1.5))
    alive = workers(job)
    if len(alive) == n:
        os.kill(rng.choice(alive), signal.SIGKILL)
    began = time.time()
    _, errors = job.communicate(timeout=SECONDS)
    assert job.returncode == 0 or time.time() - began < 10
    return errors


def test_a_lost_rank_is_named_and_ends_the_job(folder, tmp_path):
    script = (
        "from xrt_jax.xlinear.mpi import join_ranks, watch_over_rank\nwatch_over_rank()\njoin_ranks()\n"
        "import os, signal\nfrom xrt_jax import processes\n"
        "processes.from_each()\nprocesses.doing('the third sub-tree')\n"
        "os.kill(os.getpid(), signal.SIGKILL) if processes.index() == 1 else processes.from_each()"
    )
    began = time.time()
    result = ranks(3, "-c", script)
    assert result.returncode != 0 and time.time() - began < SECONDS
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert line.startswith("error: rank 1 (process ") and "ended by SIGKILL" in line and "third sub-tree" in line


@pytest.mark.slow
def test_ten_kills_each_recovered_to_the_same_bits(folder, tmp_path):
    settings = ["--config.ranker.negative_sampling=tfn,tfn,tfn+man,tfn", "--config.ranker.eps=0.0001"]
    settings += ["--config.ranker.max_iter=3000", "--config.ranker.threshold=0.0"]
    whole = run("xrt_jax.main", *arguments(folder / "npz", tmp_path / "one", *settings))
    assert whole.returncode == 0, whole.stderr
    told = 0
    for number in range(10):
        rng, workdir = random.Random(number), tmp_path / f"n{number}"
        n = 2 + number % 3
        command = ("-m", "xrt_jax.main", *arguments(folder / "npz", workdir, *settings))
        told += "was ended by SIGKILL" in kill_in_training(n, command, workdir, rng)
        result = ranks(n, *command)
        assert result.returncode == 0, result.stderr
        assert_same(tmp_path / "one", workdir)
    assert told >= 5, "hardly any kill came before the end: draw shorter waits"


# ---------------------------------------------------------------------------- mistakes


def told(result: subprocess.CompletedProcess) -> str:
    """The one line that a job which must fail has told."""
    assert result.returncode != 0 and "Traceback" not in result.stderr, result.stderr
    [line] = [line for line in result.stderr.splitlines() if "error:" in line]
    return line


def test_a_mistake_is_told_once(folder, tmp_path):
    result = ranks(3, "-m", "xrt_jax.main", *arguments(folder / "npz", tmp_path / "w", "--config.ranker.Cp=-1"))
    assert "ranker.Cp" in told(result)
    result = ranks(2, "-m", "xrt_jax.main", *arguments(folder / "npz", tmp_path / "w", "--config.no_such_field=1"))
    assert result.returncode != 0 and "no_such_field" in result.stderr
    result = ranks(2, "-m", "xrt_jax.main", *arguments(folder / "npz", tmp_path / "v", "--config.distributed."
                                                       "min_n_sub_tree=0"))  # fmt: skip
    assert "distributed.min_n_sub_tree is 0" in told(result)


def two_commands(*commands: list[str], cwds: tuple = (ROOT, ROOT)) -> subprocess.CompletedProcess:
    """A job of two ranks with a command, and a folder to start in, each."""
    parts = []
    for command, cwd in zip(commands, cwds, strict=True):
        parts += [":", "-n", "1", "-wdir", str(cwd), sys.executable, *command]
    env = environment() | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([str(MPIEXEC), *parts[1:]], env=env, capture_output=True, text=True, check=False, timeout=300)


def test_ranks_that_do_not_fit_together_are_refused(folder, tmp_path):
    same = arguments(folder / "npz", tmp_path / "w")
    other = two_commands(["-m", "xrt_jax.main", *same], ["-m", "xrt_jax.main", *same, "--config.ranker.Cp=2"])
    assert "another config" in told(other) and "ranker.Cp: [1.0] -> [2.0]" in told(other)

    patched = (
        "import sys; from xrt_jax import main, stages; found = stages.software(); "
        "stages.software = lambda: found | {'numba': '0.1'}; sys.exit(main.run(['main', *sys.argv[1:]]))"
    )
    other = two_commands(["-m", "xrt_jax.main", *same], ["-c", patched, *same])
    assert "another software" in told(other) and "-> 0.1" in told(other) and "process 1 on " in told(other)

    config = [f"--config={ROOT / 'configs/xlinear.py'}", f"--config.data.dir={folder / 'npz'}", "--workdir=here"]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    command = ["-m", "xrt_jax.main", *config]
    other = two_commands(command, command, cwds=(tmp_path / "a", tmp_path / "b"))
    assert "does not see the work directory here" in told(other)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, 1), ({"PMI_SIZE": "3"}, 3), ({"OMPI_COMM_WORLD_SIZE": "2"}, 2), ({"SLURM_STEP_NUM_TASKS": "4"}, 4)],
)
def test_how_many_ranks_the_environment_tells_of(environment, expected):
    assert nr_ranks(environment) == expected


def test_no_mpi4py_and_jax_variables_are_told(monkeypatch):
    from xrt_jax.xlinear import mpi

    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(ValueError, match="start it with mpiexec"):
        mpi.join_ranks()
    monkeypatch.delenv("JAX_NUM_PROCESSES")
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ValueError, match="install mpi4py"):
        mpi.join_ranks()


# ---------------------------------------------------------------------------- XR-Transformer


@pytest.mark.slow
def test_mpiexec_starts_xr_transformer_too(data, tmp_path):
    """jax asks MPI where the first process is."""
    result = ranks(2, "-m", "xrt_jax.main", *small_run(data, tmp_path / "w"))
    assert result.returncode == 0, result.stderr
    assert "2 processes" in result.stdout and (tmp_path / "w/model/ranker").is_dir()
