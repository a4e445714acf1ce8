"""Checkpoints with Orbax, one directory a resolution level.

    level_0/steps/200/        everything that updates change, after 200 batches, while the level is fine-tuned (Orbax)
    level_0/state/            encoder and head after the level's fine-tuning (Orbax)
    level_0/beam.trn.npz      what the level's model predicts on the training texts, and on the validation texts
    level_0/beam.dev.npz
    level_0/embeddings.trn.npy
    level_0/done              written last: the level is whole

Orbax itself writes to a temporary directory and renames it, so that `state` and each of `steps` is whole where it
exists. Where a run has several processes, all of them call these functions, with the same arrays; the first one writes,
and only it looks at what is there, as a file that a process missed once may stay hidden from it on a network disk.
"""

import contextlib
import functools
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from xrt_jax.disk import clear_unfinished, naming_full_disk
from xrt_jax.matcher.mesh import fetch, place_like
from xrt_jax.processes import from_first, is_first


@functools.cache
def quiet_orbax() -> None:
    """Keeps what Orbax raises from being printed too, for the rest of this process.

    It prints an error of a thread of its own with pages of tracebacks, once for each thread that waits for it; and
    writes that end after the first one failed find that their event loop is closed.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of writes that failed beside the one that is told
    logging.getLogger("absl").addFilter(lambda record: "_SignalingThread.run() raised" not in str(record.msg))
    tell = sys.unraisablehook

    def hook(unraisable) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            tell(unraisable)

    sys.unraisablehook = hook


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Around what Orbax writes: a full disk is a DiskFullError, and of a checkpoint that fails nothing is left."""
    try:
        with naming_full_disk(path):
            yield
    except Exception:
        if is_first():
            clear_unfinished(path.parent)
        raise


def save_state(folder: str | Path, encoder, head: dict[str, np.ndarray]) -> None:
    """Writes the parameters of encoder and head to folder/state; DiskFullError if there is no space for them."""
    path = Path(folder).absolute() / "state"
    with _writing(path):
        ocp.save(path, fetch({"encoder": encoder, "head": head}), overwrite=True)


def load_state(folder: str | Path, encoder, nr_labels: int, hidden_size: int) -> tuple[dict, dict[str, np.ndarray]]:
    """(encoder, head) from folder/state as numpy arrays; `encoder` is a tree of the shapes and dtypes to expect."""
    head = empty_head(nr_labels, hidden_size)
    like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), {"encoder": encoder, "head": head})
    state = ocp.load(Path(folder).absolute() / "state", like)
    return state["encoder"], state["head"]


def has_state(folder: str | Path) -> bool:
    """Whether folder/state is there and whole."""
    return from_first(is_first() and (Path(folder) / "state").is_dir())


def is_done(folder: str | Path) -> bool:
    """Whether the stage that owns the folder has ended."""
    return from_first(is_first() and (Path(folder) / "done").is_file())


def mark_done(folder: str | Path) -> None:
    """Marks the stage that owns the folder as ended: all that it has is written."""
    if is_first():
        (Path(folder) / "done").touch()
    from_first()


class Steps:
    """Checkpoints inside a level, one directory each, written in the background; older ones go when a new one is whole.

    A state is any tree of arrays. That there was no space for one is told as DiskFullError by the next call of save,
    wait or clear; the checkpoint before is there then.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).absolute() / "steps"
        self._writing = None

    def latest(self) -> int | None:
        """Batches done in the newest whole checkpoint; None where there is none."""
        return from_first(self._latest() if is_first() else None)

    def _latest(self) -> int | None:
        names = [path.name for path in self.folder.glob("*")] if self.folder.is_dir() else []
        return max((int(name) for name in names if name.isdecimal()), default=None)

    def load(self, state):
        """The newest checkpoint, as a tree like `state` and placed like it; `state` itself where there is none."""
        step = self.latest()
        if step is None:
            return state
        leaves, structure = jax.tree.flatten(state)
        found = ocp.load(self.folder / str(step), {str(i): np.empty(a.shape, a.dtype) for i, a in enumerate(leaves)})
        arrays = (found[str(i)] for i in range(len(leaves)))
        placed = [place_like(array, like) for array, like in zip(arrays, leaves, strict=True)]
        return jax.tree.unflatten(structure, placed)

    def save(self, step: int, state) -> None:
        """Starts to write a checkpoint, once the one before is whole; step: batches done. The state may change then."""
        # A copy: on CPU the arrays are the device's own memory, which the next update writes to.
        leaves = {str(i): np.array(leaf) for i, leaf in enumerate(fetch(jax.tree.leaves(state)))}
        self.wait()
        path = self.folder / str(step)
        with _writing(path):
            self._writing = (path, ocp.save_async(path, leaves, overwrite=True))

    def wait(self) -> None:
        """Returns when what is being written is whole, and leaves only that."""
        if self._writing is None:
            return
        (path, response), self._writing = self._writing, None
        with _writing(path):
            response.result()
        if is_first():
            for path in self.folder.iterdir():
                if path.name.isdecimal() and int(path.name) < self._latest():
                    shutil.rmtree(path)

    def clear(self) -> None:
        """Removes all of them: the level has its state."""
        self.wait()
        if is_first():
            shutil.rmtree(self.folder, ignore_errors=True)


def empty_head(nr_labels: int, hidden_size: int) -> dict[str, np.ndarray]:
    """A head to be overwritten."""
    return {"W": np.zeros((nr_labels, hidden_size), np.float32), "b": np.zeros(nr_labels, np.float32)}
