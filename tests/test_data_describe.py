"""Statistics and frequencies by hand, and a data set made for each problem that is told."""

import importlib.util
import logging

import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.data import describe as describing
from xrt_jax.data.describe import describe, frequency_plot, main, save_plot
from xrt_jax.data.folders import Dataset, Split, save_dataset

CLEAN_Y = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]])


def split(Y, texts=None, X=None) -> Split:
    return Split(texts, sp.csr_matrix(Y, dtype=np.float32), X)


def dataset(
    Y=CLEAN_Y, texts=("a b", "c d e", "f"), X=None, names=("one", "two", "three"), dev=None, tst=None
) -> Dataset:
    return Dataset(split(Y, texts and list(texts), X), dev, tst, list(names))


def lines_of(data: Dataset) -> list[str]:
    """The problems that are told of it."""
    count, *lines = describe(data).partition("\nproblems: ")[2].splitlines()
    assert count == (str(len(lines)) if lines else "none found")
    return [line.removeprefix("- ") for line in lines]


def test_statistics():
    X = sp.csr_matrix(np.eye(3, 4, dtype=np.float32))
    tst = split([[0, 0, 1]], ["new words"], sp.csr_matrix(np.float32([[0.6, 0.8, 0, 0]])))
    assert describe(dataset(X=X, tst=tst)).splitlines() == [
        "                        training          test",
        "documents                      3             1",
        "labels                         3",
        "labels in use                  3             1",
        "values of Y                    5             1",
        "labels a document   1.67, most 2  1.00, most 1",
        "words a document    2.00, most 3  2.00, most 2",
        "features                       4",
        "values of X                    3             2",
        "values a document           1.00          2.00",
        "",
        "labels by their number of training documents",
        "        documents      labels    of Y",
        "                0           0    0.0%",
        "                1           1   20.0%  ████████████████████",
        "              2–3           2   80.0%  ████████████████████████████████████████",
        "",
        "problems: none found",
    ]


def test_frequencies():
    rows = frequency_plot(np.array([0, 0, 0, 0, 1, 2, 3, 4, 7, 8, 1024])).splitlines()[1:]
    words = [row.split()[:2] for row in rows]
    assert words[:5] == [["0", "4"], ["1", "1"], ["2–3", "2"], ["4–7", "2"], ["8–15", "1"]]
    assert words[-1] == ["1,024–2,047", "1"] and len(words) == 12
    assert [row.count("█") for row in rows[:3]] == [40, 10, 20]


def problem_sets():
    eye = sp.csr_matrix(np.eye(3, dtype=np.float32))
    other = split([[0, 1, 0]], ["new"])
    return {
        "clean": (dataset(tst=other, dev=split([[1, 0, 0]], ["x"])), []),
        "clean features": (dataset(texts=None, X=np.eye(3, dtype=np.float32)), []),
        "empty text": (dataset(texts=("a", " ", "")), ["empty training texts: 2 of 3, the first in row 1: "]),
        "empty texts of two splits are no copies": (
            dataset(texts=("a", " ", ""), tst=split([[1, 0, 0]], [""])),
            ["empty training texts: 2 of 3, the first in row 1: ", "empty test texts: 1 of 1, the first in row 0: "],
        ),
        "no labels": (
            dataset(Y=[[1, 0, 1], [0, 1, 0], [0, 0, 0]], tst=split([[0, 0, 0]], ["new"])),
            [
                "training documents without labels: 1 of 3, the first in row 2: ",
                "test documents without labels: 1 of 1",
            ],
        ),
        "values": (
            dataset(Y=[[2, 0, 1], [0, 0.5, 0], [1, 1, 0]]),
            ["values of Y that are not 1: 2 of 5 of the training split, from 0.5 to 2: "],
        ),
        "no features": (
            dataset(texts=None, X=sp.csr_matrix(np.diag(np.float32([1, 0, 1])))),
            ["training documents without features: 1 of 3, the first in row 1: "],
        ),
        "long rows": (
            dataset(X=eye, tst=split([[1, 0, 0]], ["n"], sp.csr_matrix(np.float32([[3, 4, 0]])))),
            ["rows of test features that are not of length 1: 1 of 1, lengths 5 to 5: set "],
        ),
        "copies": (
            dataset(Y=CLEAN_Y[[0, 0, 1, 2, 1]], texts=("a", " a ", "b", "b", "c")),
            ["training documents that are there more than once: 4 rows of 2 documents, 1 of which have "],
        ),
        "copies of features": (
            dataset(Y=CLEAN_Y[[0, 0, 1, 2]], texts=None, X=eye[[0, 0, 1, 2]]),
            ["training documents that are there more than once: 2 rows of 1 documents, 0 of which"],
        ),
        "copies of dense features": (
            dataset(Y=CLEAN_Y[[0, 0, 1, 2]], texts=None, X=eye[[0, 0, 1, 2]].toarray()),
            ["training documents that are there more than once: 2 rows of 1 documents, 0 of which"],
        ),
        "shared": (
            dataset(dev=split([[1, 0, 0]] * 2, ["x", "f"]), tst=split([[1, 0, 0]] * 3, ["x", "new", "f"])),
            [
                "validation documents that are training documents too: 1 of 2, the first in row 1: ",
                "test documents that are training documents too: 1 of 3, the first in row 2: ",
                "test documents that are validation documents too: 2 of 3, the first in row 0: ",
            ],
        ),
        "unseen": (
            dataset(Y=[[1, 0, 0], [0, 1, 0], [1, 1, 0]], tst=split([[0, 1, 1], [0, 0, 1]], ["x", "y"])),
            [
                "labels without a training document: 1 of 3: ",
                "values of Y in the test split of labels without a training document: 2 of 3: ",
            ],
        ),
        "everywhere": (dataset(Y=[[1, 0, 1], [0, 1, 1], [1, 1, 1]]), ["labels of all training documents: 1: "]),
        "names": (
            dataset(names=("one", "", "one")),
            [
                "names of several labels: 1, the first 'one': ",
                "labels with an empty name: 1 of 3, the first in row 1: ",
            ],
        ),
    }


@pytest.mark.parametrize("what", problem_sets())
def test_each_problem_is_one_line(what):
    data, expected = problem_sets()[what]
    lines = lines_of(data)
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)


def test_command(tmp_path, capsys, caplog):
    save_dataset(tmp_path / "data", dataset(texts=("a", "", "b"), tst=split([[1, 0, 0]], ["new"])))
    (tmp_path / "data" / "filter_labels_test.txt").write_text("0 0\n")
    with caplog.at_level(logging.WARNING):
        main([str(tmp_path / "data")])
    out = capsys.readouterr().out
    assert "- empty training texts: 1 of 3" in out
    assert out.endswith(f"xrt-jax evaluate --filter={tmp_path}/data/filter_labels_test.txt\n")
    assert not caplog.records  # the loader's warnings are among the problems
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "nowhere")])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/nowhere: no such data folder\n"


def test_an_image_needs_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(describing.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "nowhere"), f"--plot={tmp_path / 'a.png'}"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: --plot needs matplotlib, which is not installed: pip install matplotlib\n"


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="matplotlib is not installed")
def test_an_image(tmp_path):
    save_plot(tmp_path / "a.png", np.array([0, 5, 1, 100]))
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
