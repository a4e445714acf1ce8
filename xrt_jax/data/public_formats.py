"""Documents and labels as published data sets have them besides matrices: the repository's JSON, lines of label names.

The Extreme Classification Repository's data sets with label texts are lines of JSON, .gz as a rule:

    {"uid": "0007", "title": "A title", "content": "A text", "target_ind": [3, 17], "target_rel": [1.0, 1.0]}

is a document of trn.json or tst.json, with the numbers of its labels from 0 and their relevances, and line l of
lbl.json, {"uid": …, "title": …}, tells the title of label l.

AttentionXML's train_labels.txt has the names of a document's labels on its line, with blanks between them.
"""

import json
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from xrt_jax.data.tables import as_text
from xrt_jax.data.text_files import iter_lines
from xrt_jax.sparse import canonical

TEXT_KEYS = ("title", "content")
LARGEST = float(np.finfo(np.float32).max)


def _read_objects(path: Path) -> Iterator[tuple[int, dict]]:
    """(line, object) of each line of JSON; blank lines are none."""
    for number, line in enumerate(iter_lines(path), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):  # also for numbers of thousands of digits
            value = None
        if not isinstance(value, dict):
            raise ValueError(f"{path}: line {number} is no JSON object; write or download the file again")
        yield number, value


def _text_of(path: Path, number: int, document: dict, keys: Iterable[str]) -> str:
    """The texts under these keys, those that there are, with a blank between."""
    parts = []
    for key in keys:
        try:
            parts.append(as_text(document.get(key)).strip())
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {key} {error}") from None
    return " ".join(part for part in parts if part)


def _is_label(value, nr_labels: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < nr_labels


def _is_relevance(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _check_targets(path: Path, number: int, labels, relevances, nr_labels: int) -> None:
    if not isinstance(labels, list) or not all(_is_label(label, nr_labels) for label in labels):
        raise ValueError(
            f"{path}: line {number}: target_ind must be a list of label numbers from 0 to {nr_labels - 1}, one for "
            "each line of the label names"
        )
    is_list = isinstance(relevances, list) and all(_is_relevance(value) for value in relevances)
    if not is_list or len(relevances) != len(labels):
        raise ValueError(f"{path}: line {number}: target_rel must be a list of numbers, one for each of target_ind")


def read_documents(path: Path, nr_labels: int) -> tuple[list[str], sp.csr_matrix]:
    """Documents of the repository's JSON, read line by line.

    Args:
        path: trn.json or tst.json, also .gz or .xz.
        nr_labels: L, the number of lines of lbl.json.

    Returns:
        (a text a document: title, blank, content; Y csr float32 [n, L] of target_rel, ones where there is none).

    Raises:
        ValueError: one line that names the file and its line.
    """
    texts, labels, values, ends = [], array("i"), array("f"), array("q", [0])
    for number, document in _read_objects(path):
        of_document = document.get("target_ind")
        relevances = document.get("target_rel")
        if relevances is None and isinstance(of_document, list):
            relevances = [1] * len(of_document)
        _check_targets(path, number, of_document, relevances, nr_labels)
        texts.append(_text_of(path, number, document, TEXT_KEYS))
        labels.extend(of_document)
        values.extend(relevances)
        ends.append(len(labels))
    return texts, _matrix(path, values, labels, ends, nr_labels)


def read_document_texts(path: Path) -> list[str]:
    """The texts of read_documents alone, where the labels are in another file."""
    return [_text_of(path, number, document, TEXT_KEYS) for number, document in _read_objects(path)]


def read_titles(path: Path) -> list[str]:
    """Names of the labels of lbl.json: their titles, or the uid where one has none."""
    return [
        _text_of(path, number, label, ["title"]) or _text_of(path, number, label, ["uid"])
        for number, label in _read_objects(path)
    ]


def read_label_names(paths: Iterable[Path]) -> list[str]:
    """The label names in files of AttentionXML's labels, each once, sorted; so are the columns of Y."""
    return sorted({name for path in paths for line in iter_lines(path) for name in line.split()})


def read_labels(path: Path, names: list[str]) -> sp.csr_matrix:
    """Y csr float32 [n, L] of a file of AttentionXML's labels; names: L names, which all in the file are among."""
    column_of = {name: column for column, name in enumerate(names)}
    labels, ends = array("i"), array("q", [0])
    for line in iter_lines(path):
        labels.extend({column_of[name] for name in line.split()})
        ends.append(len(labels))
    return _matrix(path, np.ones(len(labels), np.float32), labels, ends, len(names))


def _matrix(path: Path, values, labels, ends, nr_labels: int) -> sp.csr_matrix:
    parts = np.asarray(values, np.float32), np.asarray(labels, np.int32), np.asarray(ends, np.int64)
    return canonical(sp.csr_matrix(parts, shape=(len(ends) - 1, nr_labels)), "csr", path)
