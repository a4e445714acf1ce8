"""Writes the fine-tuned encoder's embeddings of new texts.

    xrt-jax encode --model=runs/demo/model --text=texts.txt --output=embeddings.npy
    python -m xrt_jax.encode --model=runs/demo/model --text=books.csv --text_column=title --output=embeddings.npy

float32 [texts, hidden], rows not normalised.
"""

import sys
import tempfile

import numpy as np
from absl import flags

from xrt_jax.commands import check_input, define_text_flags, read_input, run_command
from xrt_jax.disk import replace_file


def define_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string("model", None, "Model folder.", required=True)
    define_text_flags()
    flags.DEFINE_string("output", None, "The .npy file to write.", required=True)


def main(args) -> None:
    """Embeds and writes."""
    if not args.output.endswith(".npy"):
        raise ValueError(f"--output={args.output}: the name must end in .npy")
    check_input(args)
    from xrt_jax.model import encode_texts, load_model
    from xrt_jax.report import progress

    model = load_model(args.model)
    with tempfile.TemporaryDirectory() as tmp:
        emb_nd = encode_texts(model, read_input(args), f"{tmp}/tokens", progress=progress)
    with replace_file(args.output) as tmp:
        np.save(tmp, emb_nd)


if __name__ == "__main__":
    define_flags()
    sys.exit(run_command(main))
