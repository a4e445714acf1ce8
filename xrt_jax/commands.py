"""What the commands on a trained model share: flags, texts in, results out, one line for a mistake."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from absl import app, flags

from xrt_jax.data.folders import read_lines
from xrt_jax.disk import replace_file
from xrt_jax.ensemble import METHODS
from xrt_jax.report import keep_compiled, set_up_logging
from xrt_jax.sparse import load_npz


def run_command(main: Callable) -> int:
    """Parses the flags and runs main(flags); exit status 2 and one line on standard error for bad input."""
    app.define_help_flags()
    set_up_logging()
    keep_compiled()
    try:
        rest = flags.FLAGS(sys.argv)[1:]
        if rest:
            raise ValueError(f"unexpected argument {rest[0]!r}: see --help")
        main(flags.FLAGS)
    except (flags.Error, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def define_model_flags() -> None:
    """The flags of the commands that rank labels: a model folder, or several and how they are joined."""
    flags.DEFINE_multi_string("model", None, "Model folder; given several times, their rankings are joined.")
    flags.DEFINE_enum("ensemble", "rank_average", list(METHODS), "How the rankings of several models are joined.")
    flags.mark_flag_as_required("model")


def load_models(folders: list[str]) -> list:
    """The models of these folders; ValueError if they have not the same labels."""
    from xrt_jax.model import load_model

    models = [load_model(folder) for folder in folders]
    for folder, model in zip(folders, models, strict=True):
        if model.labels != models[0].labels:
            raise ValueError(
                f"{folder} names other labels than {folders[0]}: only models of the same labels are joined"
            )
    return models


def read_input(path: str) -> list[str]:
    """Texts, one a line, from a file (.gz and .xz too) or from standard input."""
    if path == "-":
        return [line.rstrip("\n") for line in sys.stdin]
    if not Path(path).is_file():
        raise FileNotFoundError(f"--input={path}: there is no such file")
    texts = read_lines(Path(path))
    if not texts:
        raise ValueError(f"--input={path} holds no texts")
    return texts


def given_features(path: str):
    """Features from .npz (sparse) or .npy (dense), None for an empty path."""
    if not path:
        return None
    if not Path(path).is_file():
        raise FileNotFoundError(f"--features={path}: there is no such file")
    return np.load(path, allow_pickle=False) if path.endswith(".npy") else load_npz(path)


@contextlib.contextmanager
def open_output(path: str) -> Iterator[IO[str]]:
    """A text file to write, whole or not at all; - is standard output."""
    if path == "-":
        yield sys.stdout
        return
    with replace_file(path) as tmp, open(tmp, "w", encoding="utf-8") as out:
        yield out
