"""The notebooks run from top to bottom, and what is committed of them is fit to be read."""

import sys
from pathlib import Path

import nbformat
import pytest
from commands import ROOT, environment
from nbclient.exceptions import CellExecutionError

NOTEBOOKS = ROOT / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))  # a script, no package

from execute import complaints, execute, main, outputs_of, private_strings  # noqa: E402

NAMES = ["distributed_xr_linear", "explore", "xr_transformer"]
# The kernel starts in another folder. Its programs run for longer than they compile: optimised, they take less in all.
ENV = {key: value for key, value in environment().items() if key != "JAX_DISABLE_MOST_OPTIMIZATIONS"}
ENV["PYTHONPATH"] = str(ROOT)
every_notebook = pytest.mark.parametrize("name", NAMES)


def write_notebook(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def pictures(notebook) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs_of(notebook))


def test_all_notebooks_are_here():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES


@every_notebook
def test_runs_from_top_to_bottom(name, tmp_path):
    path = NOTEBOOKS / f"{name}.ipynb"
    notebook = execute(path, tmp_path, ENV)
    assert complaints(notebook, private_strings(tmp_path)) == []
    assert pictures(notebook) == pictures(nbformat.read(path, as_version=4)) > 0
    assert [child.name for child in tmp_path.iterdir()] == ["runs"]  # which .gitignore has


@every_notebook
def test_committed_outputs_are_whole_and_small(name):
    path = NOTEBOOKS / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert complaints(notebook, ["/tmp/", "/home/", "/root/"]) == []
    assert all(output.output_type != "error" for output in outputs_of(notebook))
    assert path.stat().st_size < 300_000


def test_an_error_in_a_cell_is_an_error(tmp_path):
    path = write_notebook(tmp_path / "broken.ipynb", "1 + 1", "raise ValueError('broken here')")
    with pytest.raises(CellExecutionError, match="broken here"):
        execute(path, tmp_path, ENV)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import warnings; warnings.warn('old')", "printed to standard error"),
        ("import os; print(os.getcwd())", "is in the output"),
        ("import sys; sys.prefix", "is in the output"),
    ],
)
def test_what_is_not_for_readers_is_not_written(tmp_path, capsys, source, told):
    path = write_notebook(tmp_path / "a.ipynb", source)
    before = path.read_bytes()
    assert main([str(path)]) == 1
    assert told in capsys.readouterr().err and path.read_bytes() == before


def test_outputs_are_written_back_without_versions(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb", "print('one')", "6 * 7")
    assert main([str(path)]) == 0
    notebook = nbformat.read(path, as_version=4)
    assert [output.get("text") or output.data["text/plain"] for output in outputs_of(notebook)] == ["one\n", "42"]
    assert dict(notebook.metadata.language_info) == {"name": "python"}
    assert [dict(cell.metadata) for cell in notebook.cells] == [{}, {}]
