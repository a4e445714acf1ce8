"""How many programs jax compiled in this process, how many it took from its cache on disk, and the time of both."""

import functools

from jax import monitoring

# jax tells the first for each program that it did not have in memory yet, compiled or read, and the second for each
# read one.
_PROGRAM = "/jax/core/compile/backend_compile_duration"
_READ = "/jax/compilation_cache/cache_hits"


def compilations() -> dict[str, float]:
    """Totals since the first call: programs compiled, programs read from the cache, seconds that both took.

    Seconds of tracing a Python function are not among them.
    """
    totals = _listen()
    return {
        "compilations": totals["programs"] - totals["read"],
        "cache_hits": totals["read"],
        "compile_seconds": totals["seconds"],
    }


@functools.cache
def _listen() -> dict[str, float]:
    """Asks jax to tell, once a process, and returns the totals, which grow from then on."""
    totals = {"programs": 0, "read": 0, "seconds": 0.0}

    def on_event(event: str, **_) -> None:
        totals["read"] += event == _READ

    def on_duration(event: str, seconds: float, **_) -> None:
        if event == _PROGRAM:
            totals["programs"] += 1
            totals["seconds"] += seconds

    monitoring.register_event_listener(on_event)
    monitoring.register_event_duration_secs_listener(on_duration)
    return totals
