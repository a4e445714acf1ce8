"""Files, clock and memory of the benchmarks' processes; numpy and scipy only, for the peers' environment knows no more.

The data folder of benchmarks/xlinear.py holds X.{trn,tst}.npz and Y.{trn,tst}.npz (csr), E.{trn,tst}.npy where there
are dense columns, and tree.npz, the leaf clusters [L, leaves] on which both sides train.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

NR_SINGLES = 500
BEAM, TOPK = 10, 20
NR_SPLITS, MAX_LEAF_SIZE = 16, 100


def load_split(data: Path, name: str):
    """X csr, E ndarray or None, Y csr; all float32."""
    E = data / f"E.{name}.npy"
    X, Y = (sp.csr_matrix(sp.load_npz(data / f"{part}.{name}.npz")) for part in "XY")
    return X, np.load(E) if E.is_file() else None, Y


def save_split(data: Path, name: str, X, E, Y) -> None:
    """Write what load_split reads, uncompressed."""
    for part, matrix in (("X", X), ("Y", Y)):
        sp.save_npz(data / f"{part}.{name}.npz", matrix, compressed=False)
    if E is not None:
        np.save(data / f"E.{name}.npy", E)


def timed(fn, *args, **kwargs):
    """(seconds, result) of a call."""
    start = time.perf_counter()
    result = fn(*args, **kwargs)
    return time.perf_counter() - start, result


def latencies(predict, queries: list) -> dict[str, float]:
    """Seconds of a call with one query: {"p50", "p99"}; the queries are asked once beforehand."""
    for query in queries:
        predict(query)
    seconds = [timed(predict, query)[0] for query in queries]
    return {"p50": float(np.percentile(seconds, 50)), "p99": float(np.percentile(seconds, 99))}


def peak_memory() -> int:
    """Bytes that this process has had in memory at most, up to now."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage's figure starts from that of the process that started this one
        return 1024 * next(int(line.split()[1]) for line in status.open() if line.startswith("VmHWM:"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def forget_peak() -> None:
    """Let peak_memory count from now on, where the system can."""
    refs = Path("/proc/self/clear_refs")
    if refs.is_file():
        refs.write_text("5")


def run_measured(command: list[str], **how) -> tuple[int, int]:
    """(exit status, bytes that it had in memory at most) of a command; `how` as of subprocess.Popen.

    The figure starts from that of this process, which therefore should be small.
    """
    process = subprocess.Popen(command, **how)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss if sys.platform == "darwin" else 1024 * usage.ru_maxrss


def file_bytes(folder: Path, *names: str) -> int:
    """Bytes of the files of these names anywhere under a folder; of all files without a name."""
    files = [path for path in folder.rglob("*") if path.is_file() and (not names or path.name in names)]
    return sum(path.stat().st_size for path in files)


def processor() -> str:
    """Name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def available_cores() -> list[int]:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def nr_threads() -> int:
    """Threads that the driver wants to be used."""
    return int(os.environ["OMP_NUM_THREADS"])


def shared_tree(data: Path, C_leaf) -> sp.csc_matrix:
    """The leaf clusters that every run trains on: those of the run that comes first."""
    if not (data / "tree.npz").is_file():
        sp.save_npz(data / "tree.npz", sp.csc_matrix(C_leaf), compressed=False)
    return sp.csc_matrix(sp.load_npz(data / "tree.npz"))


def run_phase(phases: dict) -> None:
    """A worker's main: `python WORKER PHASE ARGUMENTS`; what the phase measures is the last line printed, as JSON."""
    print(json.dumps(phases[sys.argv[1]](*sys.argv[2:])), flush=True)


def answer_calls(calls: dict) -> None:
    """A long-lived worker's main: each line read is {"call": name, …}, each line written what calls[name](…) returns.

    Between two calls it sleeps, waiting for input. Whatever else is printed goes to standard error.
    """
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        arguments = json.loads(line)
        print(json.dumps(calls[arguments.pop("call")](**arguments)), file=out, flush=True)
