"""The processes of one run on several hosts: which of them this is, and how the others wait for the first.

What is made once, the first process makes and writes to the work directory, which all of them share; the others wait
for it and read it there. Only the work on the devices is done by all together. A process alone is the first and waits
for nothing, and until `start` finds that there are others, every process is alone.
"""

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

# A process that is not heard of for so many seconds is dead, and jax ends the others.
_HEARTBEAT_TIMEOUT = 30
_FAREWELL = 5  # seconds in which the others may hear that the first has failed, or whether it has
_FOREVER = 2**31 - 1  # milliseconds: most waits are for training, and the heartbeat notices a first that has died
_FAILED = "xrt_jax/failed"

# Variables that tell the number of processes, or their hosts with commas between, where jax finds out the rest.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")


class StoppedError(Exception):
    """The first process has failed, and has said why."""


@dataclass
class _Here:
    """This process among those of the run."""

    index: int = 0
    count: int = 1
    client: Any = None  # of jax's coordination service, which keeps keys and values for all processes
    nr_told: int = 0  # calls of from_first


_here = _Here()


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
    _here.index, _here.count, _here.client = jax.process_index(), jax.process_count(), distributed.global_state.client
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (it stays open as long as the process runs)
        logging.getLogger("xrt_jax").setLevel(logging.ERROR)


def cluster_settings(environment: Mapping[str, str]) -> dict[str, int] | None:
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
    several = any(int(environment.get(name, 1)) > 1 for name in _COUNTS)
    return {} if several or any("," in environment.get(name, "") for name in _HOSTS) else None


def require_one() -> None:
    """ValueError where the environment tells of more than one process."""
    several = [name for name in ("JAX_NUM_PROCESSES", *_COUNTS) if int(os.environ.get(name, 1)) > 1]
    if several:
        raise ValueError(f"{several[0]} is {os.environ[several[0]]}, but this runs in one process: start only one")


def is_first() -> bool:
    """Whether this process is the one that writes, prints and makes what is made once."""
    return _here.index == 0


def are_several() -> bool:
    """Whether the run has other processes."""
    return _here.count > 1


def from_first(value: T = None) -> T:
    """The first process's value, which JSON can hold, in every process; the others wait until the first calls this too.

    All processes call it equally often. StoppedError where the first has failed.
    """
    if not are_several():
        return value
    key = _next_key()
    _here.nr_told += 1
    if is_first():
        _here.client.key_value_set(key, json.dumps({"value": value}))
        return value
    told = json.loads(_here.client.blocking_key_value_get(key, _FOREVER))
    if "value" not in told:
        raise StoppedError("the first process has failed")
    return told["value"]


def first_then_others(stage: Callable[[], T]) -> T:
    """Result of a stage that writes to the work directory and takes what it finds there: the first process is first."""
    result = stage() if is_first() else None
    from_first()
    return result if is_first() else stage()


def first_fails_too() -> bool:
    """Whether the first process has failed or does so in the next seconds; False in the first itself."""
    if is_first():
        return False
    try:
        return bool(_here.client.blocking_key_value_get(_FAILED, 1000 * _FAREWELL))
    except Exception:  # jax's, for a time that is over or a first process that is gone
        return False


def leave(status: int) -> None:
    """Ends this process, which has failed, and with it all others; returns if there are none.

    To leave in jax's usual way would be to wait for the others, for minutes. They end as soon as they wait for the
    first, or when jax notices that somebody is gone.
    """
    if not are_several():
        return
    with contextlib.suppress(Exception):  # whatever it is that does not work any more: the process is to end
        if is_first():
            for key in (_FAILED, _next_key()):
                _here.client.key_value_set(key, json.dumps({"failed": True}))
        _here.client.wait_at_barrier(_FAILED, 1000 * _FAREWELL)
        time.sleep(1 if is_first() else 0)  # the service goes last: jax would complain in the others
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _next_key() -> str:
    return f"xrt_jax/told/{_here.nr_told}"
