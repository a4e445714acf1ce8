"""Trains XR-Transformer or XR-Linear, evaluates it, and writes a model folder.

    xrt-jax train --config=configs/xlinear.py --config.data.dir=data/books --workdir=runs/books
    python -m xrt_jax.main --config=configs/demo.py --workdir=runs/demo [--config.section.field=value …]

xrt_jax/default_config.py explains all fields. The same command goes on with a run that was broken off.
"""

import importlib
import os
import sys
import traceback

from absl import app, flags
from ml_collections import config_flags

from xrt_jax.config import format_config, parse_flags
from xrt_jax.disk import naming_full_disk
from xrt_jax.huge_pages import restart_with_huge_pages
from xrt_jax.processes import StoppedError, are_several, first_fails_too, leave
from xrt_jax.report import keep_compiled, set_up_logging, tell_error
from xrt_jax.xlinear.mpi import watch_over_rank

METHODS = {"xr_transformer": "xrt_jax.train", "xr_linear": "xrt_jax.train_linear"}

config_flags.DEFINE_config_file("config", None, "Configuration file, see configs/.", lock_config=True)
flags.DEFINE_string("workdir", None, "Work directory of the run; started again with the same config, a run goes on.")
flags.DEFINE_bool("print_config", False, "Print the configuration, as configs/json.py reads it, and do nothing else.")
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    """Runs what the configuration asks for."""
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: fields are set by --config.section.field=value")
    if flags.FLAGS.print_config:
        print(format_config(flags.FLAGS.config))
        return
    if not flags.FLAGS.workdir:
        raise ValueError("Flag --workdir must have a value: the work directory of the run")
    set_up_logging()
    keep_compiled()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    config = flags.FLAGS.config
    if config.method not in METHODS:
        raise ValueError(f"config.method is {config.method!r}: choose one of {', '.join(METHODS)}")
    # Imported only now, so that a mistake in the flags is told without waiting for jax, and XR-Linear goes without it.
    with naming_full_disk(flags.FLAGS.workdir):
        importlib.import_module(METHODS[config.method]).train_and_evaluate(config, flags.FLAGS.workdir)


def run(argv: list[str]) -> int:
    """Exit status of the command: 0, or 2 after one line on standard error that says what is wrong.

    A process that fails takes the other processes of the run with it; what all of them find wrong, the first one tells.
    """
    try:
        main(parse_flags(argv))
        return 0
    except StoppedError as stopped:
        status = stopped.status
    except (ValueError, OSError) as error:
        if not first_fails_too():
            tell_error(error, flags.FLAGS["workdir"].value)
        status = 2
    except Exception:
        if not are_several():
            raise
        traceback.print_exc()
        status = 1
    leave(status)
    return status


if __name__ == "__main__":
    restart_with_huge_pages()
    watch_over_rank()
    app.define_help_flags()
    sys.exit(run(sys.argv))
