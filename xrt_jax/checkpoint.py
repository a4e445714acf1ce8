"""Checkpoints with Orbax, one directory a resolution level.

    level_0/state/            encoder and head after the level's fine-tuning (Orbax)
    level_0/beam.trn.npz      what the level's model predicts on the training texts, and on the validation texts
    level_0/beam.dev.npz
    level_0/embeddings.trn.npy
    level_0/done              written last: the level is whole

Orbax itself writes to a temporary directory and renames it, so that `state` is whole where it exists.
"""

from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp


def save_state(folder: str | Path, encoder, head: dict[str, np.ndarray]) -> None:
    """Writes the parameters of encoder and head to folder/state."""
    ocp.save(Path(folder).absolute() / "state", jax.device_get({"encoder": encoder, "head": head}), overwrite=True)


def load_state(folder: str | Path, encoder, nr_labels: int, hidden_size: int) -> tuple[dict, dict[str, np.ndarray]]:
    """(encoder, head) from folder/state as numpy arrays; `encoder` is a tree of the shapes and dtypes to expect."""
    head = {"W": np.empty((nr_labels, hidden_size), np.float32), "b": np.empty(nr_labels, np.float32)}
    like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), {"encoder": encoder, "head": head})
    state = ocp.load(Path(folder).absolute() / "state", like)
    return state["encoder"], state["head"]


def has_state(folder: str | Path) -> bool:
    """Whether folder/state is there and whole."""
    return (Path(folder) / "state").is_dir()


def is_done(folder: str | Path) -> bool:
    """Whether the stage that owns the folder has ended."""
    return (Path(folder) / "done").is_file()


def mark_done(folder: str | Path) -> None:
    """Marks the stage that owns the folder as ended."""
    (Path(folder) / "done").touch()
