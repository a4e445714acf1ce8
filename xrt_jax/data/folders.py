"""Data-set folders in PECOS's layout and in those of published data sets, checked before anything long is started.

    X.{trn,dev,tst}.txt    one document a line, UTF-8
    X.{trn,dev,tst}.npz    features, a scipy sparse matrix [n, d] (or .npy, dense); texts, features or both
    Y.{trn,dev,tst}.npz    labels, a scipy sparse matrix [n, L], relevance > 0
    output-items.txt       label names, line l names column l of Y

In place of a file that is not there stands the first one of its line that is:

    texts       {train,dev,test}_raw_texts.txt, {train,dev,test}_texts.txt (AttentionXML), {trn,dev,tst}.json
    features    {trn,dev,tst}_X_Xf.txt, tfidf-attnxml/X.{trn,dev,tst}.npz (PECOS's archives)
    labels      {trn,dev,tst}_X_Y.txt, {trn,dev,tst}.json (the Extreme Classification Repository),
                {train,dev,test}_labels.txt (AttentionXML; names, of which the columns are sorted)
    names       label_map.txt, lbl.json

A split of which there is none of these may be one text file of the Extreme Classification Repository (svmlight.py):
trn.txt, train.txt or *_train.txt; dev.txt or *_dev.txt; tst.txt, test.txt or *_test.txt. Labels of its text files
need no names: they are named by their numbers. All .txt and .json may be .gz or .xz; public_formats.py and svmlight.py
tell what is in them.

PECOS drops the text after a line's first TAB; here a document is the whole line.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from xrt_jax.data.public_formats import read_document_texts, read_documents, read_label_names, read_labels, read_titles
from xrt_jax.data.svmlight import parse_header, parse_matrix, parse_svmlight
from xrt_jax.data.text_files import PACKERS, read_bytes, read_lines, unpacked, without_packing
from xrt_jax.disk import first_line, replace_file
from xrt_jax.npz import MOST_EMPTY, load_canonical, read_array
from xrt_jax.sparse import dense_float32, find_entries, normalize_rows, row_ids, row_norms

log = logging.getLogger(__name__)

NAMES_FILES = ("output-items.txt", "label_map.txt", "lbl.json")
# What AttentionXML calls the splits
LONG_NAMES = {"trn": "train", "dev": "dev", "tst": "test"}
# Names of a split in one text file, before .txt
WHOLE_SPLITS = {"trn": ["trn", "train", "*_train"], "dev": ["dev", "*_dev"], "tst": ["tst", "test", "*_test"]}
# Rows of given features should be of one length; this many rows tell, and so much longer may the long ones be.
ROWS_FOR_NORMS = 10_000
LARGEST_NORM_RATIO = 1.5


class Split(NamedTuple):
    """One side of a data set: n documents with their labels."""

    texts: list[str] | None
    Y: sp.csr_matrix  # [n, L] float32, sorted indices, every stored value > 0
    X: sp.csr_matrix | np.ndarray | None  # [n, d] float32
    relevance: sp.csr_matrix | None = None  # [n, L] float32, cost of labels in training
    matches: sp.csr_matrix | None = None  # [n, L or clusters], what a document is trained on besides its own labels
    nr_label_texts: int = 0  # the last so many documents are texts of labels, see label_texts.py


class Dataset(NamedTuple):
    """A data set. dev and tst are None where there are none; label_names has L entries."""

    trn: Split
    dev: Split | None
    tst: Split | None
    label_names: list[str]


def _find(folder: Path, names: list[str]) -> Path | None:
    """The first of these files that is in the folder; texts and JSON may be packed."""
    files = (folder / f"{name}{packed}" for name in names for packed in _packings(name))
    return next((file for file in files if file.is_file()), None)


def _packings(name: str) -> list[str]:
    return list(PACKERS) if name.endswith((".txt", ".json")) else [""]


def _load_dense(path: Path) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            array = read_array(file, path.stat().st_size)
    except Exception as error:  # numpy raises all kinds on a damaged file
        raise ValueError(f"{path}: not a 2-D array of numbers, written by numpy.save ({first_line(error)})") from None
    return dense_float32(array, path)


def _as_labels(Y: sp.csr_matrix, path: Path) -> sp.csr_matrix:
    """Y without stored zeros; ValueError where it cannot be a label matrix."""
    if Y.shape[1] == 0:
        raise ValueError(f"{path}: no label columns; a data set needs a label")
    if Y.shape[1] > MOST_EMPTY + 64 * Y.nnz:
        raise ValueError(f"{path}: {Y.shape[1]} labels, of which {Y.nnz} are given to documents: drop the empty ones")
    negative = np.flatnonzero(Y.data < 0)
    if len(negative):
        row = np.searchsorted(Y.indptr, negative[0], side="right") - 1
        raise ValueError(f"{path}: row {row} holds a negative value; labels must be relevances > 0")
    Y.eliminate_zeros()
    return Y


def load_features(path: Path) -> sp.csr_matrix | np.ndarray:
    """Features, csr or ndarray float32 [n, d], of an .npz or .npy file; ValueError names the file."""
    return load_canonical(path, "csr") if path.suffix == ".npz" else _load_dense(path)


def _warn_of_unequal_norms(path: Path, X: sp.csr_matrix | np.ndarray) -> None:
    norms = row_norms(X[:: -(-X.shape[0] // ROWS_FOR_NORMS)])
    if not norms.any():
        return
    short, long = np.percentile(norms[norms > 0], [5, 95])
    if long > LARGEST_NORM_RATIO * short:
        log.warning(
            "%s: the rows are of unequal length (L2 norms from %.3g to %.3g), which can cost much of the precision: "
            "try --config.data.normalize=True",
            path,
            short,
            long,
        )


def _warn_of_empty(path: Path, texts: list[str]) -> None:
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if empty:
        log.warning("%s: %d of %d texts are empty, the first in row %d", path, len(empty), len(texts), empty[0])


def _split_names(name: str) -> tuple[list[str], list[str], list[str]]:
    """Names that the files of a split can have, unpacked: labels, texts, features."""
    long = LONG_NAMES[name]
    return (
        [f"Y.{name}.npz", f"{name}_X_Y.txt", f"{name}.json", f"{long}_labels.txt"],
        [f"X.{name}.txt", f"{long}_raw_texts.txt", f"{long}_texts.txt", f"{name}.json"],
        [f"X.{name}.npz", f"X.{name}.npy", f"{name}_X_Xf.txt", f"tfidf-attnxml/X.{name}.npz"],
    )


def _has_header(path: Path) -> bool:
    with unpacked(path) as file:
        return parse_header(file.readline(200)) is not None


def _find_whole_split(folder: Path, name: str, is_text_folder: bool) -> Path | None:
    """The text file that holds a split; in a folder of such files its first line may be wrong (parsing tells)."""
    patterns = [f"{stem}.txt{packed}" for stem in WHOLE_SPLITS[name] for packed in PACKERS]
    named = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    named = [path for path in named if not path.name.startswith(".")]
    found = [path for path in named if _has_header(path)] or named[: int(is_text_folder)]
    if len(found) > 1:
        files = ", ".join(path.name for path in found)
        raise ValueError(f"{folder}: {files} could all be the split {name}; leave one of them")
    return found[0] if found else None


def _split_paths(folder: Path, name: str) -> tuple[Path, Path | None, Path | None] | None:
    """Paths of (Y, texts, features) of a split, or None where the folder has no such split (trn must be there).

    Labels and features are one file where that is a text file with both.
    """
    names = _split_names(name)
    Y_path, text_path, feature_path = (_find(folder, of_part) for of_part in names)
    if not (Y_path or text_path or feature_path):
        is_text_folder = not any(_find(folder, of_part) for of_part in _split_names("trn"))
        whole = _find_whole_split(folder, name, is_text_folder)
        if whole or name != "trn":
            return whole and (whole, None, whole)
    if not Y_path:
        whole = " or ".join(f"{stem}.txt" for stem in WHOLE_SPLITS[name])
        looked_for = f"{', '.join(names[0])}, or a file {whole} for all"
        raise FileNotFoundError(f"{folder}: no labels for the split {name}: looked for {looked_for}")
    if not (text_path or feature_path):
        looked_for = f"{', '.join(names[1] + names[2])} (.txt and .json also .gz or .xz)"
        raise FileNotFoundError(f"{folder}: no documents for the split {name}: looked for {looked_for}")
    return Y_path, text_path, feature_path


def _is_json(path: Path) -> bool:
    return without_packing(path.name).endswith(".json")


def _has_label_names(path: Path) -> bool:
    return without_packing(path.name).endswith("_labels.txt")


def _load_matrix(path: Path) -> sp.csr_matrix | np.ndarray:
    """Features or labels of a file that is nothing but a matrix."""
    return parse_matrix(read_bytes(path), path) if without_packing(path.name).endswith(".txt") else load_features(path)


def _load_parts(Y_path: Path, text_path: Path | None, feature_path: Path | None, label_names: list[str] | None):
    """(texts, Y, X) of the files of a split, as _split_paths finds them; what is in one file is read once."""
    if feature_path == Y_path:
        X, Y = parse_svmlight(read_bytes(Y_path), Y_path)
        return None, Y, X
    texts = None
    if _is_json(Y_path):
        if label_names is None:
            looked_for = f"{', '.join(NAMES_FILES)} (.gz, .xz)"
            raise FileNotFoundError(f"{Y_path}: no label names beside it, looked for {looked_for}: add a name a line")
        texts, Y = read_documents(Y_path, len(label_names))
    elif _has_label_names(Y_path):
        Y = read_labels(Y_path, label_names)
    else:
        Y = _load_matrix(Y_path)
    if text_path and text_path != Y_path:
        texts = read_document_texts(text_path) if _is_json(text_path) else read_lines(text_path)
    return texts, Y, feature_path and _load_matrix(feature_path)


def _load_split(Y_path: Path, text_path: Path | None, feature_path: Path | None, label_names) -> Split:
    texts, Y, X = _load_parts(Y_path, text_path, feature_path, label_names)
    Y = _as_labels(Y, Y_path)
    if texts is not None:
        _warn_of_empty(text_path, texts)
    for path, rows in ((feature_path, X is not None and X.shape[0]), (text_path, texts is not None and len(texts))):
        if path and rows != Y.shape[0]:
            raise ValueError(
                f"{path}: {rows} documents, but {Y_path.name} has {Y.shape[0]} rows; line n must belong to row n"
            )
    if Y.shape[0] == 0:
        raise ValueError(f"{Y_path}: no rows; a split needs a document (delete the split's files to go without it)")
    return Split(texts, Y, X)


def _load_beside(path: Path, Y: sp.csr_matrix) -> sp.csr_matrix:
    """A matrix with a row for each of Y."""
    A = load_canonical(path, "csr")
    if A.shape[0] != Y.shape[0]:
        raise ValueError(f"{path}: {A.shape[0]} rows, but {Y.shape[0]} training documents; it needs one row a document")
    return A


def _load_relevance(path: Path, Y: sp.csr_matrix) -> sp.csr_matrix:
    R = _load_beside(path, Y)
    if R.shape != Y.shape or (R.nnz and R.data.min() < 0):
        raise ValueError(f"{path}: relevances must have the shape of Y, {Y.shape}, and no negative value")
    outside = np.flatnonzero(find_entries(Y, row_ids(R), R.indices) < 0)
    if len(outside):
        row = row_ids(R)[outside[0]]
        raise ValueError(f"{path}: row {row} has a relevance for a label that the document does not have; drop it")
    return R


def take_rows(split: Split, rows: np.ndarray) -> Split:
    """These rows of a split."""
    texts = None if split.texts is None else [split.texts[row] for row in rows]
    matrices = (split.Y, split.X, split.relevance, split.matches)
    return Split(texts, *(None if part is None else part[rows] for part in matrices))


def _is_row(word: str, nr_rows: int) -> bool:
    return word.isdecimal() and len(word) < 20 and int(word) < nr_rows


def _read_rows(path: Path, nr_rows: int) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of row numbers (paths count from the data folder)")
    lines = read_lines(path)
    bad = next((n for n, line in enumerate(lines) if not _is_row(line.strip(), nr_rows)), None)
    if bad is not None:
        raise ValueError(f"{path}: line {bad + 1} is {lines[bad]!r}, not a row number from 0 to {nr_rows - 1}")
    rows = np.array([int(line) for line in lines], dtype=np.int64)
    if len(rows) == 0 or len(np.unique(rows)) < len(rows):
        raise ValueError(f"{path}: it needs at least one row number, and each one once")
    return rows


def _read_names(folder: Path, label_files: list[Path]) -> list[str] | None:
    """Label names of the folder; None where no file tells any. label_files: those of all splits."""
    of_names = [path for path in label_files if _has_label_names(path)]
    if of_names:
        return read_label_names(of_names)
    path = _find(folder, NAMES_FILES)
    return path and (read_titles(path) if _is_json(path) else read_lines(path))


def _check_names(folder: Path, names: list[str] | None, Y_path: Path, nr_labels: int) -> list[str]:
    """The names, if there is one for each label; numbers where the labels are those of a text file without names."""
    if names is None and Y_path.suffix != ".npz":
        return [str(label) for label in range(nr_labels)]
    if names is None:
        raise FileNotFoundError(
            f"{folder}: no label names, looked for {', '.join(NAMES_FILES)} (.gz, .xz): write a name a line; for "
            f"numbers, seq 0 {nr_labels - 1} > {folder / NAMES_FILES[0]}"
        )
    if len(names) != nr_labels:
        raise ValueError(
            f"{_find(folder, NAMES_FILES)}: {len(names)} label names, but {Y_path.name} has {nr_labels} columns; "
            "line l must name column l"
        )
    return names


def _check_same_width(folder: Path, trn: Split, name: str, other: Split) -> None:
    if other.Y.shape[1] != trn.Y.shape[1]:
        raise ValueError(
            f"{folder}: the split {name} has {other.Y.shape[1]} labels, trn {trn.Y.shape[1]}; they must agree"
        )
    for what in ("texts", "X"):
        if (getattr(trn, what) is None) != (getattr(other, what) is None):
            kind = "texts" if what == "texts" else "features"
            raise ValueError(f"{folder}: only one of the splits trn and {name} has {kind}; give them to both or none")
    if trn.X is not None and (other.X.shape[1] != trn.X.shape[1] or sp.issparse(other.X) != sp.issparse(trn.X)):
        raise ValueError(
            f"{folder}: X of {name} is a {type(other.X).__name__} of {other.X.shape[1]} columns, of trn a "
            f"{type(trn.X).__name__} of {trn.X.shape[1]}; build the features of all splits with one vectorizer"
        )


def _hold_out(trn: Split, size: int, seed: int) -> tuple[Split, Split]:
    nr_rows = trn.Y.shape[0]
    if size >= nr_rows:
        raise ValueError(f"dev_size={size} leaves nothing of the {nr_rows} training rows; make it smaller")
    order = np.random.default_rng(seed).permutation(nr_rows)
    return take_rows(trn, np.sort(order[size:])), take_rows(trn, np.sort(order[:size]))


def load_dataset(
    folder: str | Path,
    *,
    trn_rows: str | None = None,
    tst_rows: str | None = None,
    dev_size: int | None = None,
    normalize: bool = False,
    relevance: str | None = None,
    matches: str | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads and checks a data-set folder; the module's docstring shows the layout.

    Args:
        folder: the data-set folder.
        trn_rows: text file of row numbers from 0, a line each: train on these only. A path counts from the folder.
        tst_rows: likewise for the test split.
        dev_size: None takes the dev files if they are there. 0 means no dev split. Otherwise at most so many first rows
            of the dev files, or, where there are none, exactly so many rows held out of trn at random.
        normalize: bring the rows of features to unit length.
        relevance: .npz file of costs of the training documents' labels, inside the pattern of Y. Paths count from the
            folder; rows are those of the training split before trn_rows and dev_size.
        matches: .npz file of labels or clusters that each training document is trained on besides its own.
        seed: seed of the held-out rows.

    Raises:
        FileNotFoundError, ValueError: one line that names the file, the row or count, and the remedy.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such data folder")
    if dev_size is not None and dev_size < 0:
        raise ValueError(f"dev_size={dev_size} is negative; give 0 for no dev split")
    paths = {name: _split_paths(folder, name) for name in ("trn", "dev", "tst")}
    if tst_rows and not paths["tst"]:
        raise ValueError(f"tst_rows={tst_rows}, but {folder} has no test split (X.tst.*, Y.tst.npz, or test.txt)")
    names = _read_names(folder, [found[0] for found in paths.values() if found])
    if dev_size == 0:
        paths["dev"] = None

    splits = {name: _load_split(*found, names) for name, found in paths.items() if found}
    if relevance:
        splits["trn"] = splits["trn"]._replace(relevance=_load_relevance(folder / relevance, splits["trn"].Y))
    if matches:
        splits["trn"] = splits["trn"]._replace(matches=_load_beside(folder / matches, splits["trn"].Y))
    trn = splits["trn"]
    for name, split in splits.items():
        _check_same_width(folder, trn, name, split)
    label_names = _check_names(folder, names, paths["trn"][0], trn.Y.shape[1])
    if trn.X is not None and normalize:
        splits = {name: split._replace(X=normalize_rows(split.X)) for name, split in splits.items()}
    elif trn.X is not None:
        _warn_of_unequal_norms(paths["trn"][2], trn.X)

    for name, rows in (("trn", trn_rows), ("tst", tst_rows)):
        if rows:
            splits[name] = take_rows(splits[name], _read_rows(folder / rows, splits[name].Y.shape[0]))
    if dev_size and "dev" in splits:
        splits["dev"] = take_rows(splits["dev"], np.arange(min(dev_size, splits["dev"].Y.shape[0])))
    elif dev_size:
        splits["trn"], splits["dev"] = _hold_out(splits["trn"], dev_size, seed)
    if splits["trn"].Y.nnz == 0:
        raise ValueError(f"{paths['trn'][0]}: no training document has a label; there is nothing to learn")
    return Dataset(splits["trn"], splits.get("dev"), splits.get("tst"), label_names)


def _write_lines(path: Path, lines: list[str]) -> None:
    row = next((row for row, line in enumerate(lines) if "\n" in line or "\r" in line), None)
    if row is not None:
        raise ValueError(f"{path}: entry {row} contains a line break; replace it by a blank")
    with replace_file(path) as tmp:
        tmp.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))


def _file_names(name: str, split: Split) -> dict[str, str]:
    """What of a split -> the name of its file."""
    names = {"Y": f"Y.{name}.npz"}
    if split.texts is not None:
        names["texts"] = f"X.{name}.txt"
    if split.X is not None:
        names["X"] = f"X.{name}.npz" if sp.issparse(split.X) else f"X.{name}.npy"
    return names


def _write_part(path: Path, part: list[str] | sp.csr_matrix | np.ndarray) -> None:
    if isinstance(part, list):
        _write_lines(path, part)
        return
    with replace_file(path) as tmp:
        if sp.issparse(part):
            sp.save_npz(tmp, sp.csr_matrix(part), compressed=True)
        else:
            np.save(tmp, part, allow_pickle=False)


def save_dataset(folder: str | Path, dataset: Dataset) -> None:
    """Writes a data-set folder, each file at once or not at all; load_dataset gives the same data set back.

    Raises:
        ValueError: a text or a label name contains a line break, or the folder holds files of another data set.
    """
    folder = Path(folder)
    splits = {name: getattr(dataset, name) for name in ("trn", "dev", "tst") if getattr(dataset, name) is not None}
    files = {name: _file_names(name, split) for name, split in splits.items()}
    written = {file for of_split in files.values() for file in of_split.values()}
    others = sorted({path.name for path in folder.glob("[XY].*")} - written)
    if others:
        raise ValueError(f"{folder}: holds {others[0]}, which is of another data set; choose an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    _write_lines(folder / "output-items.txt", dataset.label_names)
    for name, split in splits.items():
        for what, file in files[name].items():
            _write_part(folder / file, getattr(split, what))
