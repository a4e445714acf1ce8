"""What a run shows and records: progress bars with rates, log lines, metrics.jsonl, TensorBoard, seconds a stage."""

import contextlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from xrt_jax.disk import DiskFullError, append_line, replace_file
from xrt_jax.processes import doing, is_first
from xrt_jax.scalars import Scalars

logger = logging.getLogger("xrt_jax")


@dataclass
class _Shown:
    bars: bool = True


_shown = _Shown()


def set_up_logging() -> None:
    """Sends this package's log lines to standard error, a short form without dates."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


def keep_compiled() -> None:
    """Lets jax keep compiled programs between processes, in the user's cache folder, unless it is told where already.

    To be called before jax is imported.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "xrt_jax"))


def progress(total: int | None, desc: str, *, unit: str = "it", done: int = 0) -> tqdm:
    """A bar with rate and remaining time; in a log file, a line every ten seconds. Only the first process shows one.

    Args:
        total: steps until the end; None where that is unknown.
        desc: what is done.
        unit: of a step; "B" for bytes, which are told in thousands, millions and so on.
        done: steps that an earlier run has done.
    """
    return tqdm(
        total=total,
        initial=done,
        unit=unit,
        unit_scale=unit == "B",
        desc=f"  {desc:<24}",
        mininterval=0.2 if sys.stderr.isatty() else 10,
        leave=True,
        ncols=100,
        file=sys.stderr,
        disable=not (is_first() and _shown.bars),
    )


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No progress bars and nothing on standard output inside the block; log lines and warnings stay."""
    before, _shown.bars = _shown.bars, False
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        _shown.bars = before


def tell_error(error: Exception, workdir: str | None) -> None:
    """One line on standard error, and the traceback of the exception that is handled in the work directory."""
    advice = "; the last checkpoint is usable: make room, and the same command goes on from there"
    # Not print: the line is not to go on after a bar that the error broke off.
    tqdm.write(f"error: {error}{advice if isinstance(error, DiskFullError) else ''}", file=sys.stderr)
    if workdir and (Path(workdir) / "config.json").is_file():  # a folder that is a work directory
        with contextlib.suppress(OSError), replace_file(Path(workdir) / "error.txt") as tmp:  # the disk may be full
            tmp.write_text(traceback.format_exc(), encoding="utf-8")


class Report:
    """Appends to metrics.jsonl of a work directory and times the stages of a run, across restarts.

    In other processes than the first it records nothing.
    """

    def __init__(self, workdir: str | Path, counters: Callable[[], dict[str, float]] | None = None):
        """`counters()` gives totals that only grow; what a stage adds to them is logged after it, if it is not 0."""
        self.counters = counters or dict
        self.path = Path(workdir) / "metrics.jsonl"
        self.scalars = Scalars(Path(workdir) / "tensorboard")

    def log(self, entry: dict) -> None:
        """Appends one line to metrics.jsonl and shows it; an entry with a step goes to TensorBoard too.

        Such an entry has a "level" (int) or a "stage" (name), which groups its figures.
        """
        if not is_first():
            return
        now = self._append(entry)
        if "step" in entry:
            group = f"level_{entry['level']}" if "level" in entry else entry["stage"]
            names = entry.keys() - {"level", "stage", "step"}
            figures = {name: value for name, value in entry.items() if name in names and isinstance(value, int | float)}
            self.scalars.add(group, entry["step"], figures, now)
        tqdm.write("  " + "  ".join(f"{name} {_short(value)}" for name, value in entry.items()))

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announces a stage of the run and records its wall seconds when it ends."""
        doing(name)
        if not is_first():
            yield
            return
        tqdm.write(f"{name} ...")
        start, before = time.perf_counter(), self.counters()
        yield
        self._append({"stage": name, "seconds": round(time.perf_counter() - start, 3)})
        added = {key: round(total - before[key], 3) for key, total in self.counters().items()}
        if any(added.values()):
            self.log({"stage": name, **added})

    def _append(self, entry: dict) -> float:
        """Writes the entry with the time, which it returns, in seconds since 1970."""
        now = round(time.time(), 3)
        append_line(self.path, json.dumps({"time": now, **entry}))
        return now

    def entries(self) -> list[dict]:
        """All lines of metrics.jsonl, those of interrupted starts too."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        return [_parse(line) for line in lines]

    def seconds(self) -> dict[str, float]:
        """Wall seconds of each stage, summed over the starts of an interrupted run, in order of appearance.

        The part of a stage that was cut off is not counted.
        """
        totals: dict[str, float] = {}
        for entry in self.entries():
            if "stage" in entry and "seconds" in entry:
                totals[entry["stage"]] = round(totals.get(entry["stage"], 0.0) + entry["seconds"], 3)
        return totals


def _parse(line: str) -> dict:
    """One entry; a kill in the middle of a write may have left half a line."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return {}


def _short(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def peak_memory() -> int:
    """Most bytes of memory that this process has had; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def format_bytes(n: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            return f"{n:.3g} {unit}"
        n /= 1024
