"""Values on their way between this process and PECOS's: JSON, with matrices and arrays in files of their own.

Both sides import this file, the peer's with an older numpy and scipy.
"""

import itertools
from pathlib import Path

import numpy as np
import scipy.sparse as sp

_numbers = itertools.count()


def encode(value, folder: Path):
    """The value as JSON can hold it; matrices and arrays go to new files in the folder."""
    if sp.issparse(value):
        path = folder / f"{next(_numbers)}.npz"
        sp.save_npz(path, value, compressed=False)
        return {"file": str(path)}
    if isinstance(value, np.ndarray):
        path = folder / f"{next(_numbers)}.npy"
        np.save(path, value)
        return {"file": str(path)}
    if isinstance(value, dict):
        return {"pairs": [[key, encode(of_key, folder)] for key, of_key in value.items()]}
    if isinstance(value, (list, tuple)):
        return [encode(part, folder) for part in value]
    return str(value) if isinstance(value, Path) else value


def decode(value):
    """What encode was given; tuples come back as lists, paths as strings."""
    if isinstance(value, list):
        return [decode(part) for part in value]
    if not isinstance(value, dict):
        return value
    if "pairs" in value:
        return {key: decode(of_key) for key, of_key in value["pairs"]}
    return sp.load_npz(value["file"]) if value["file"].endswith(".npz") else np.load(value["file"])
