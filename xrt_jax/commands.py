"""What the commands on a trained model share: flags and --help, texts in, results out, one line for a mistake."""

import contextlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from absl import flags

from xrt_jax.data.tables import FORMATS, read_texts
from xrt_jax.disk import replace_file
from xrt_jax.ensemble import METHODS
from xrt_jax.npz import load_npz
from xrt_jax.report import keep_compiled, set_up_logging
from xrt_jax.xlinear.postprocess import parse

HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")


def run_command(main: Callable) -> int:
    """Parses the flags and runs main(flags); exit status 2 and one line on standard error for bad input."""
    set_up_logging()
    keep_compiled()
    if any(argument in HELP for argument in sys.argv[1:]):
        print(help_text(sys.modules[main.__module__].__doc__))
        return 0
    try:
        rest = flags.FLAGS(sys.argv)[1:]
        if rest:
            raise ValueError(f"unexpected argument {rest[0]!r}: see --help")
        main(flags.FLAGS)
    except (flags.Error, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def help_text(description: str) -> str:
    """A command's description and all of its flags."""
    of_modules = flags.FLAGS.flags_by_module_dict().items()
    own = [flag for module, defined in of_modules if not module.startswith("absl.") for flag in defined]
    return "\n".join([description.strip(), "", "Flags:", *map(_describe, own)])


def _describe(flag: flags.Flag) -> str:
    about = flag.help.partition(";\n")[0]  # absl's word on repeated flags follows; ours say it
    if flag.default not in (None, "", False):
        about += f" Default: {flag.default}."
    return textwrap.fill(about, 100, initial_indent=f"  --{flag.name:<18} ", subsequent_indent=" " * 23)


# ---------------------------------------------------------------------------- models


def define_model_flags(*, required: bool = True) -> None:
    """The flags of the commands that rank labels: a model folder, or several and how they are joined."""
    flags.DEFINE_multi_string("model", None, "Model folder; given several times, their rankings are joined.")
    flags.DEFINE_enum("ensemble", "rank_average", list(METHODS), "How several rankings are joined.")
    if required:
        flags.mark_flag_as_required("model")


def define_search_flags() -> None:
    """The flags of the beam search."""
    flags.DEFINE_integer("beam", None, "Beam size; default: the model's own.", lower_bound=1)
    flags.DEFINE_string(
        "post_processor",
        None,
        "How margins become scores: noop, sigmoid, log-sigmoid, l3-hinge, log-l3-hinge and other exponents; "
        "default: the model's own.",
    )


def check_search_flags(args) -> None:
    """ValueError for a post-processor that there is not, before a model is opened."""
    if args.post_processor is not None:
        parse(args.post_processor)


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


# ---------------------------------------------------------------------------- input


def define_text_flags(more: str = "") -> None:
    """The flags that tell where texts come from."""
    flags.DEFINE_string(
        "text",
        "-",
        "Texts: plain lines, .csv, .tsv, .jsonl (each .gz or .xz too) or .parquet; - for standard input." + more,
    )
    flags.DEFINE_alias("input", "text")
    flags.DEFINE_string("text_column", "text", "Column of the texts, where the file has columns.")
    flags.DEFINE_enum("text_format", None, FORMATS, "Format of the texts; default: as the file's name ends.")


def check_input(args) -> None:
    """FileNotFoundError for texts that are not there, before a model is opened."""
    if args.text != "-" and not Path(args.text).is_file():
        raise FileNotFoundError(f"--text={args.text}: there is no such file")


def read_input(args) -> list[str]:
    """The texts that the flags of define_text_flags name."""
    return read_texts(args.text, args.text_column, kind=args.text_format)


def given_features(path: str):
    """Features from .npz (sparse) or .npy (dense), None for an empty path."""
    if not path:
        return None
    if not Path(path).is_file():
        raise FileNotFoundError(f"--features={path}: there is no such file")
    return np.load(path, allow_pickle=False) if path.endswith(".npy") else load_npz(path)


# ---------------------------------------------------------------------------- output


@contextlib.contextmanager
def open_output(path: str) -> Iterator[IO[str]]:
    """A text file to write, whole or not at all; - is standard output."""
    if path == "-":
        yield sys.stdout
        return
    with replace_file(path) as tmp, open(tmp, "w", encoding="utf-8", newline="\n") as out:
        yield out
