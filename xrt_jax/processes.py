"""The processes of one run on several hosts: which of them this is, and how the others wait for the first.

What is made once, the first process makes and writes to the work directory, which all of them share; the others wait
for it and read it there. Only the work on the devices, and that on sub-trees of labels (`sharing`), is done by all
together. A process alone is the first and waits for nothing, and until `start` or `join` finds that there are others,
every process is alone.
"""

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

# A process that is not heard of for so many seconds is dead, and jax ends the others.
_HEARTBEAT_TIMEOUT = 30
_FAREWELL = 5  # seconds in which the others may hear that the first has failed, or whether it has
_FOREVER = 2**31 - 1  # milliseconds: most waits are for training, and the heartbeat notices a first that has died
_FAILED = "xrt_jax/failed"

# Variables that tell the number of processes, or their hosts with commas between, where jax finds out the rest.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_HYDRA = "PMI_SIZE"  # MPICH's and Intel's mpiexec, of which jax knows nothing
_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")


class StoppedError(Exception):
    """Another process, as a rule the first, has failed, with this exit status, and has said why."""

    def __init__(self, status: int):
        super().__init__(f"another process has failed with status {status}")
        self.status = status


def failure(status: int) -> str:
    """What a process that has failed says in place of an answer."""
    return f"{_FAILED} {status}"


def failed_with(text: str) -> int | None:
    """The status that a process has failed with if it has said so, else None."""
    return int(text.split()[1]) if text.startswith(_FAILED) else None


class Channel(Protocol):
    """What connects the processes; all of them call `first` and `each` in the same order."""

    index: int
    count: int

    def first(self, text: str) -> str:
        """The first process's text. StoppedError where that has failed."""

    def each(self, text: str) -> list[str]:
        """The texts of all processes, in their order. StoppedError where one is known to have failed."""

    def first_fails_too(self) -> bool:
        """In another process that has failed: whether the first has, or does so in the next seconds."""

    def leave(self, status: int) -> None:
        """Ends this process, which has failed, and with it all others."""


class _Alone:
    """The channel of a process without others."""

    index, count = 0, 1

    def first(self, text: str) -> str:
        return text

    def each(self, text: str) -> list[str]:
        return [text]

    def first_fails_too(self) -> bool:
        return False

    def leave(self, status: int) -> None:
        """Nothing to end but this process, which goes on to do so."""


@dataclass
class _Here:
    """This process among those of the run; `note` is memory in which it says what it does, 256 bytes."""

    channel: Channel = field(default_factory=_Alone)
    note: Any = None


_here = _Here()


# ---------------------------------------------------------------------------- by jax


class _ByJax:
    """Processes joined by jax's coordination service, which keeps keys and values for all of them."""

    def __init__(self, client: Any, index: int, count: int):
        self.client, self.index, self.count = client, index, count
        self.nr_told = 0

    def first(self, text: str) -> str:
        key = self._next_key()
        self.nr_told += 1
        if self.index == 0:
            self.client.key_value_set(f"{key}/0", text)
            return text
        return self._get(f"{key}/0")

    def each(self, text: str) -> list[str]:
        key = self._next_key()
        self.nr_told += 1
        self.client.key_value_set(f"{key}/{self.index}", text)
        return [self._get(f"{key}/{i}") for i in range(self.count)]

    def first_fails_too(self) -> bool:
        if self.index == 0:
            return False
        try:
            return bool(self.client.blocking_key_value_get(_FAILED, 1000 * _FAREWELL))
        except Exception:  # jax's, for a time that is over or a first process that is gone
            return False

    def leave(self, status: int) -> None:
        # To leave in jax's usual way would be to wait for the others, for minutes. They end as soon as they wait for
        # the first, or when jax notices that somebody is gone.
        with contextlib.suppress(Exception):  # whatever it is that does not work any more: the process is to end
            if self.index == 0:
                for key in (_FAILED, f"{self._next_key()}/0"):
                    self.client.key_value_set(key, failure(status))
            self.client.wait_at_barrier(_FAILED, 1000 * _FAREWELL)
            time.sleep(1 if self.index == 0 else 0)  # the service goes last: jax would complain in the others
        end_now(status)

    def _get(self, key: str) -> str:
        text = self.client.blocking_key_value_get(key, _FOREVER)
        if failed_with(text) is not None:
            raise StoppedError(failed_with(text))
        return text

    def _next_key(self) -> str:
        return f"xrt_jax/told/{self.nr_told}"


def start() -> None:
    """Joins the other processes of the run if the environment tells of any; to be called before devices are touched.

    From then on all but the first are silent on standard output. ValueError for variables that do not fit together.
    """
    settings = cluster_settings(os.environ)
    if settings is None:
        return
    import jax
    from jax._src import distributed  # its store of keys has no public name; Orbax and others take it from here too

    jax.distributed.initialize(**settings, heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT)
    join(_ByJax(distributed.global_state.client, jax.process_index(), jax.process_count()))


def join(channel: Channel) -> None:
    """Makes this process one of those that the channel connects: from now on all but the first print nothing."""
    _here.channel = channel
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (it stays open as long as the process runs)
        logging.getLogger("xrt_jax").setLevel(logging.ERROR)


def cluster_settings(environment: Mapping[str, str]) -> dict[str, int | str] | None:
    """Arguments of jax.distributed.initialize beside what it finds out itself; None for a process that runs alone.

    ValueError for a variable JAX_NUM_PROCESSES or JAX_PROCESS_ID that is no number or lacks JAX_COORDINATOR_ADDRESS.
    """
    names = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
    settings = {}
    for argument, name in names.items():
        if name in environment:
            if not environment[name].isdecimal():
                raise ValueError(f"{name} is {environment[name]!r}: it must be a number")
            settings[argument] = int(environment[name])
    if "JAX_COORDINATOR_ADDRESS" in environment:
        return settings
    if settings:
        raise ValueError(f"{' and '.join(map(names.get, settings))} set without JAX_COORDINATOR_ADDRESS")
    if int(environment.get(_HYDRA, 1)) > 1:  # jax asks MPI for the address of the first
        return {"cluster_detection_method": "mpi4py"}
    several = any(int(environment.get(name, 1)) > 1 for name in _COUNTS)
    return {} if several or any("," in environment.get(name, "") for name in _HOSTS) else None


def index() -> int:
    """Number of this process, from 0."""
    return _here.channel.index


def count() -> int:
    """Number of processes of the run."""
    return _here.channel.count


def is_first() -> bool:
    """Whether this process is the one that writes, prints and makes what is made once."""
    return index() == 0


def are_several() -> bool:
    """Whether the run has other processes."""
    return count() > 1


def from_first(value: T = None) -> T:
    """The first process's value, which JSON can hold, in every process; the others wait until the first calls this too.

    All processes call it equally often. StoppedError where the first has failed.
    """
    return json.loads(_here.channel.first(json.dumps(value))) if are_several() else value


def from_each(value: T = None) -> list[T]:
    """The values of all processes, which JSON can hold, in every process, once all have called this.

    StoppedError where one has failed instead.
    """
    return [json.loads(text) for text in _here.channel.each(json.dumps(value))] if are_several() else [value]


def first_then_others(stage: Callable[[], T]) -> T:
    """Result of a stage that writes to the work directory and takes what it finds there: the first process is first."""
    result = stage() if is_first() else None
    from_first()
    return result if is_first() else stage()


def first_fails_too() -> bool:
    """Whether the first process has failed or does so in the next seconds; False in the first itself."""
    return _here.channel.first_fails_too()


def leave(status: int) -> None:
    """Ends this process, which has failed, and with it all others; returns if there are none."""
    _here.channel.leave(status)


def end_now(status: int) -> None:
    """Ends this process as it is."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


# ---------------------------------------------------------------------------- what it is doing


def note_in(memory: Any) -> None:
    """Lets `doing` write into this memory, of 256 bytes, which whoever watches this process can read."""
    _here.note = memory


def doing(what: str) -> None:
    """Notes what this process is doing, for the case that it is killed there."""
    if _here.note is not None:
        _here.note[:] = what.encode()[:256].ljust(256)
