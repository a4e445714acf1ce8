"""Runs the notebooks and writes their outputs back, so that readers see them without running anything.

    make notebooks                                          # all of them
    python notebooks/execute.py notebooks/explore.ipynb     # one

A notebook runs in an empty folder. Outputs are written back without times and versions, and not at all if they tell
where they were made (a path of this machine, its name) or hold what was printed to standard error, such as warnings.
"""

import argparse
import base64
import io
import os
import socket
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

from xrt_jax.disk import replace_file

CELL_SECONDS = 600


def execute(path: Path, folder: Path, env: dict[str, str]) -> nbformat.NotebookNode:
    """The notebook with its outputs, run from top to bottom in `folder`; nbclient's CellExecutionError if a cell fails.

    env: the kernel's environment.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,  # else it depends on the moment how often a cell's text is cut in two
    )
    client.execute(env=env)
    return notebook


def outputs_of(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The outputs of all code cells, in order."""
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def text_of(output: nbformat.NotebookNode) -> str:
    """What an output says in words: a stream's text, or the data that is no picture."""
    if output.output_type == "stream":
        return output.text
    return "\n".join(str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/"))


def complaints(notebook: nbformat.NotebookNode, private: list[str]) -> list[str]:
    """What a reader should not see in the outputs, a line each: standard error, and the strings of `private`."""
    found = []
    for output in outputs_of(notebook):
        text = text_of(output)
        if output.output_type == "stream" and output.name == "stderr":
            found.append(f"printed to standard error: {text.strip()[:300]}")
        found += [f"{name!r} is in the output: {text.strip()[:300]}" for name in private if name in text]
    return found


def private_strings(folder: Path) -> list[str]:
    """Paths and names that tell where a notebook ran."""
    root = Path(__file__).resolve().parent.parent
    return [str(path) for path in (folder, root, Path.home(), sys.prefix)] + [socket.gethostname()]


def small(png: str) -> str:
    """A picture, base64 of a PNG, in 128 colours: for a chart enough, and a third of the bytes."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as picture, io.BytesIO() as file:
        picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        return base64.b64encode(file.getvalue()).decode()


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Takes the kernel's versions out, and what programs note at cells; makes the pictures small."""
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {}
    for output in outputs_of(notebook):
        if "image/png" in output.get("data", {}):
            output.data["image/png"] = small(output.data["image/png"])


def main(arguments: list[str] | None = None) -> int:
    """Status 1, and that notebook as it was, where outputs are not for readers."""
    parser = argparse.ArgumentParser(description="Runs notebooks and writes their outputs back.")
    here = sorted(Path(__file__).parent.glob("*.ipynb"))
    parser.add_argument("notebook", nargs="*", type=Path, default=here, help="default: all of this folder")
    for path in parser.parse_args(arguments).notebook:
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder), dict(os.environ))
            wrong = complaints(notebook, private_strings(Path(folder)))
        if wrong:
            print("\n".join([f"{path} stays as it was:", *wrong]), file=sys.stderr)
            return 1
        normalise(notebook)
        with replace_file(path) as tmp:
            nbformat.write(notebook, tmp)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
