"""The command xrt-jax: a name for each of this package's commands."""

import os
import runpy
import sys

# name: module, what it is for, arguments that stand before the given ones
COMMANDS = {
    "fetch": ("xrt_jax.data.fetch", "a public data set, downloaded and checked"),
    "describe": ("xrt_jax.data.describe", "statistics of a data set, and what is wrong with it"),
    "data": ("xrt_jax.make_data", "a data-set folder from a table of texts and labels"),
    "train": ("xrt_jax.main", "XR-Transformer or XR-Linear on a data-set folder"),
    "predict": ("xrt_jax.predict", "the best labels of new texts"),
    "encode": ("xrt_jax.encode", "embeddings of new texts"),
    "evaluate": ("xrt_jax.evaluate", "metrics of a model, or of predictions"),
    "calibrate": ("xrt_jax.calibrate", "makes probabilities of a model's scores"),
    "import-pecos": ("xrt_jax.pecos.models", "a model folder from one of PECOS", "import"),
    "export-pecos": ("xrt_jax.pecos.models", "a model folder as one of PECOS", "export"),
}


def main() -> int:
    """Runs the command that is named first, as python -m does; status 2 and one line where there is no such command."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(help_text())
        return 0
    if name not in COMMANDS:
        print(f"error: there is no command {name!r}: choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module, _, *given = COMMANDS[name]
    sys.argv = [f"xrt-jax {name}", *given, *rest]
    sys.path.insert(0, os.getcwd())  # as python -m: configurations import each other from here
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0  # the module has left by sys.exit


def help_text() -> str:
    """The commands, a line each."""
    lines = [f"  {name:<13} {about}" for name, (_, about, *_) in COMMANDS.items()]
    return "\n".join(
        [
            "xrt-jax COMMAND [flags]: extreme multi-label ranking of texts",
            "",
            *lines,
            "",
            "xrt-jax COMMAND --help explains a command's flags.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
