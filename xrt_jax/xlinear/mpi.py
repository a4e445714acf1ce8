"""The ranks of a run of XR-Linear over MPI: how they are joined, and how one that is lost is told of.

Ranks exchange a few bytes only; arrays go through the work directory (`sharing`).
"""

import contextlib
import ctypes
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np

from xrt_jax import processes
from xrt_jax.processes import StoppedError, end_now, failed_with, failure, note_in

# Variables in which the starters (MPICH's and Intel's, Open MPI's, Slurm's) tell the number of ranks, and which one
# this is.
_COUNTS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
_RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")

_FAREWELL = 5  # seconds in which the others may hear that this rank has failed, before it ends them
_PAUSES = (1e-4, 2e-3)  # seconds, shortest and longest, between two looks whether the others are there
_PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when its parent dies


# ---------------------------------------------------------------------------- ranks


def nr_ranks(environment: Mapping[str, str]) -> int:
    """How many ranks the environment tells of; 1 for a process that was not started over MPI."""
    return next((int(environment[name]) for name in _COUNTS if name in environment), 1)


def join_ranks() -> None:
    """Joins the other ranks where the environment tells of any; ValueError where that cannot be done."""
    expected = nr_ranks(os.environ)
    if int(os.environ.get("JAX_NUM_PROCESSES", 1)) > 1:
        raise ValueError("JAX_NUM_PROCESSES is set, but XR-Linear runs over MPI: start it with mpiexec")
    if expected == 1:
        return
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ValueError(
            f"this is one of {expected} ranks, but mpi4py cannot be used ({error}): install mpi4py and mpich"
        ) from error
    if MPI.COMM_WORLD.size != expected:
        raise ValueError(
            f"the starter tells of {expected} ranks, mpi4py's MPI ({MPI.Get_library_version().splitlines()[0][:40]}) "
            f"of {MPI.COMM_WORLD.size}: use the mpiexec that belongs to mpi4py's MPI"
        )
    processes.join(Ranks(MPI))
    share_cores(MPI)


def share_cores(MPI) -> None:
    """As many threads a rank as this host has cores for each of its ranks, unless NUMBA_NUM_THREADS says how many."""
    import numba  # not on top: before `watch_over_rank` it would take time, and may start threads

    of_host = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
    if "NUMBA_NUM_THREADS" not in os.environ:
        bound = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < (os.cpu_count() or 1)
        nr_threads = numba.get_num_threads()
        numba.set_num_threads(nr_threads if bound else max(1, nr_threads // of_host.size))
    of_host.Free()


class Ranks:
    """The channel (processes.py) of MPI's world."""

    def __init__(self, MPI):
        self.MPI, self.world = MPI, MPI.COMM_WORLD
        self.index, self.count = self.world.rank, self.world.size
        self.heard: list[str] | None = None  # what all said when one said that it had failed

    def first(self, text: str) -> str:
        """As Channel."""
        return self.each(text if self.index == 0 else "")[0]

    def each(self, text: str) -> list[str]:
        """As Channel; text of other ranks may be of any length, all together below 2 GiB."""
        texts = self._exchange(text)
        failed = [status for status in map(failed_with, texts) if status is not None]
        if failed:
            self.heard = texts
            raise StoppedError(failed[0])
        return texts

    def first_fails_too(self) -> bool:
        """As Channel."""
        if self.index == 0:
            return False
        self._tell_failure(2)  # the status of a mistake, of which one process is to tell
        return self.heard is not None and failed_with(self.heard[0]) is not None

    def leave(self, status: int) -> None:
        """As Channel: in good order where the others hear of it, else by MPI's emergency exit."""
        self._tell_failure(status)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if self.heard is None:
            self.world.Abort(status)
        self.MPI.Finalize()
        end_now(status)

    def _tell_failure(self, status: int) -> None:
        """All others hear that this rank has failed, if they come to listen within some seconds."""
        if self.heard is None:
            with contextlib.suppress(TimeoutError):
                self.heard = self._exchange(failure(status), time.monotonic() + _FAREWELL)

    def _exchange(self, text: str, deadline: float = np.inf) -> list[str]:
        """The texts of all ranks; TimeoutError where they have not all come by the deadline."""
        mine = np.frombuffer(text.encode(), np.uint8)
        sizes = np.empty(self.count, np.int64)
        _wait(self.world.Iallgather(np.array([len(mine)]), sizes), deadline)
        ends = np.cumsum(sizes)
        texts = np.empty(ends[-1], np.uint8)
        _wait(self.world.Iallgatherv(mine, [texts, sizes, ends - sizes, self.MPI.BYTE]), deadline)
        return [part.tobytes().decode() for part in np.split(texts, ends[:-1])]


def _wait(request, deadline: float) -> None:
    """Until the request is done; MPI's own way of waiting would keep a core busy that others can use."""
    shortest, longest = _PAUSES
    pause = shortest
    while not request.Test():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(pause)
        pause = min(1.5 * pause, longest)


# ---------------------------------------------------------------------------- the watch over a rank


def watch_over_rank() -> None:
    """Goes on in a child process, if this is one of several ranks; this process waits for it and ends as it does.

    Of a rank that is killed, the starter tells a process number at most. The process that stays behind says which rank
    it was and what it was doing, and ends the same way, by which the starter ends all others. To be called before
    threads are started.
    """
    if nr_ranks(os.environ) == 1 or not hasattr(os, "fork"):
        return
    note, parent = mmap.mmap(-1, 256), os.getpid()
    child = os.fork()
    if child == 0:
        _die_with(parent)
        note_in(note)
        return
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _hand_on_to(child))
    status = _wait_for(child)
    if status < 0:
        rank = next((os.environ[name] for name in _RANKS if name in os.environ), "?")
        what = note[:].decode(errors="replace").strip() or "starting"
        print(f"error: {_lost(rank, child, -status, what)}", file=sys.stderr, flush=True)
        signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(parent, -status)
    os._exit(status)


def _lost(rank: str, process: int, number: int, what: str) -> str:
    """One line on a rank that a signal has ended."""
    advice = " (for want of memory, perhaps)" if number == signal.SIGKILL else ""
    return (
        f"rank {rank} (process {process} on {socket.gethostname()}) was ended by {signal.Signals(number).name}{advice} "
        f"in {what}; the others end with it, and the same command goes on from there"
    )


def _hand_on_to(child: int) -> Callable:
    def hand_on(number: int, frame) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    return hand_on


def _wait_for(child: int) -> int:
    """The exit status of the child, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _die_with(parent: int) -> None:
    """Lets the system kill this process when its parent dies, where the system can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was faster
            os._exit(1)
