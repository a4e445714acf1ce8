"""Tells the statistics of a data-set folder, how frequent its labels are, and what is wrong with it.

    xrt-jax describe data/wiki10-31k [--plot=labels.png]
    python -m xrt_jax.data.describe data/wiki10-31k

reads any folder that --config.data.dir takes. Each problem is a line with what can be done about it; none of them keeps
a run from training. Documents count as equal if their texts are, or where there are none, their features.
"""

import argparse
import importlib.util
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from xrt_jax.data.folders import Dataset, Split, load_dataset
from xrt_jax.data.label_texts import are_numbers
from xrt_jax.disk import replace_file
from xrt_jax.sparse import row_norms

SPLITS = {"trn": "training", "dev": "validation", "tst": "test"}
BAR = 40  # characters of the longest bar
UNIT = 1e-3  # how far the length of a row may be from 1


class Facts(NamedTuple):
    """What is counted of a split once, for its statistics and its problems."""

    name: str  # trn, dev or tst
    split: Split
    nr_words: np.ndarray | None  # int64 [n], of each text
    nr_labels: np.ndarray  # int64 [n], of each document
    norms: np.ndarray | None  # float64 [n], length of each row of features
    keys: np.ndarray  # int64 [n], equal for equal documents; 0 for empty ones


def count(name: str, split: Split) -> Facts:
    """Counts words, labels and lengths of a split, and computes a key of each document."""
    nr_words = norms = None
    if split.texts is not None:
        nr_words = np.fromiter((len(text.split()) for text in split.texts), np.int64, len(split.texts))
    if split.X is not None:
        norms = row_norms(split.X)
    return Facts(name, split, nr_words, np.diff(split.Y.indptr), norms, _keys(split))


def _keys(split: Split) -> np.ndarray:
    """A key of 64 bits for each document: two million different ones have two equal keys once in ten million times."""
    n = split.Y.shape[0]
    if split.texts is not None:
        parts = (text.strip() for text in split.texts)
    elif sp.issparse(split.X):
        parts = _row_bytes(split.X)
    else:
        parts = (row.tobytes() if row.any() else b"" for row in split.X)
    return np.fromiter((hash(part) if part else 0 for part in parts), np.int64, n)


def _row_bytes(A: sp.csr_matrix) -> Iterator[bytes]:
    """The columns and values of each row; empty for an empty one."""
    for start, end in zip(A.indptr[:-1], A.indptr[1:], strict=True):
        yield A.indices[start:end].tobytes() + A.data[start:end].tobytes()


# ---------------------------------------------------------------------------- statistics


def statistics_table(facts: list[Facts], nr_labels: int) -> str:
    """Sizes of the splits, a column each."""
    rows = {"": [SPLITS[of.name] for of in facts], "documents": [f"{of.split.Y.shape[0]:,}" for of in facts]}
    rows["labels"] = [f"{nr_labels:,}"]
    rows["labels in use"] = [f"{np.count_nonzero(_frequency(of.split.Y)):,}" for of in facts]
    rows["values of Y"] = [f"{of.split.Y.nnz:,}" for of in facts]
    rows["labels a document"] = [_mean_and_max(of.nr_labels) for of in facts]
    if facts[0].nr_words is not None:
        rows["words a document"] = [_mean_and_max(of.nr_words) for of in facts]
    if facts[0].split.X is not None:
        X = [of.split.X for of in facts]
        rows["features"] = [f"{X[0].shape[1]:,}"]
        rows["values of X"] = [f"{A.nnz if sp.issparse(A) else A.size:,}" for A in X]
        rows["values a document"] = [f"{(A.nnz if sp.issparse(A) else A.size) / A.shape[0]:,.2f}" for A in X]
    width = max(len(cell) for cells in rows.values() for cell in cells)
    lines = ("  ".join([f"{name:<18}", *(f"{cell:>{width}}" for cell in cells)]) for name, cells in rows.items())
    return "\n".join(line.rstrip() for line in lines)


def _mean_and_max(counts: np.ndarray) -> str:
    return f"{counts.mean():,.2f}, most {counts.max():,}"


def _frequency(Y: sp.csr_matrix) -> np.ndarray:
    """Documents of each label: int64 [L]."""
    return np.bincount(Y.indices, minlength=Y.shape[1])


def frequency_plot(frequency: np.ndarray) -> str:
    """Bars for how many labels have 0, 1, 2–3, 4–7, … documents, and for what share of all values in Y they stand.

    frequency: documents of each label, int64 [L].
    """
    group_of = np.frexp(frequency)[1]  # 0 for none, then 1 + the whole part of log2
    nr_labels = np.bincount(group_of)
    share = np.bincount(group_of, weights=frequency) / max(1, frequency.sum())
    lines = [f"{'documents':>17}  {'labels':>10}  {'of Y':>6}"]
    for group, number in enumerate(nr_labels):
        first, last = (1 << group) >> 1, (1 << group) - 1
        span = f"{first:,}" if last <= first else f"{first:,}–{last:,}"
        bar = "█" * int(np.ceil(BAR * number / nr_labels.max()))
        lines.append(f"{span:>17}  {number:>10,}  {share[group]:>6.1%}  {bar}".rstrip())
    return "\n".join(lines)


def save_plot(path: str | Path, frequency: np.ndarray) -> None:
    """An image of the labels' frequencies, the most frequent first, both axes logarithmic; needs matplotlib.

    Args:
        path: the image, in the format that its name ends with.
        frequency: documents of each label, int64 [L].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="label, by frequency", ylabel="training documents", xscale="log", yscale="log")
    seen = np.sort(frequency[frequency > 0])[::-1]
    axes.plot(np.arange(1, len(seen) + 1), seen, ".", markersize=3)
    axes.set_title(f"{len(seen):,} labels, {len(frequency) - len(seen):,} without training documents")
    axes.grid(alpha=0.3)
    with replace_file(path) as tmp:
        figure.savefig(tmp, dpi=150)


# ---------------------------------------------------------------------------- problems


def problems(facts: list[Facts], label_names: list[str]) -> list[str]:
    """What is wrong with a data set, a line each with the remedy.

    Args:
        facts: of trn, and of dev and tst if there are any.
        label_names: L names.
    """
    of_splits = [line for of in facts for line in (*_of_documents(of), *_of_values(of))]
    return [*of_splits, *_of_copies(facts), *_of_labels(facts, label_names), *_of_names(label_names)]


def _rows(mask: np.ndarray) -> str:
    """How many rows, and the first."""
    return f"{np.count_nonzero(mask):,} of {len(mask):,}, the first in row {int(np.argmax(mask)):,}"


def _of_documents(of: Facts) -> Iterator[str]:
    split = SPLITS[of.name]
    if of.nr_words is not None and not of.nr_words.all():
        yield f"empty {split} texts: {_rows(of.nr_words == 0)}: nothing can be learned or told of them; drop the rows"
    if not of.nr_labels.all():
        remedy = (
            "they count as failures in all metrics" if of.name != "trn" else "they teach only which labels do not fit"
        )
        yield f"{split} documents without labels: {_rows(of.nr_labels == 0)}: {remedy}; label them or drop the rows"


def _of_values(of: Facts) -> Iterator[str]:
    split, Y = SPLITS[of.name], of.split.Y
    other = np.count_nonzero(Y.data != 1)
    if other:
        yield (
            f"values of Y that are not 1: {other:,} of {Y.nnz:,} of the {split} split, from {Y.data.min():g} to "
            f"{Y.data.max():g}: metrics count each as a label, the label tree weighs them; set them to 1 unless that "
            "is meant"
        )
    if of.norms is not None and not of.norms.all():
        yield (
            f"{split} documents without features: {_rows(of.norms == 0)}: all of them are ranked alike; drop the rows "
            "or give them features"
        )
    if of.norms is not None and of.norms.any():
        norms = of.norms[of.norms > 0]
        uneven = np.count_nonzero(np.abs(norms - 1) > UNIT)
        if uneven:
            yield (
                f"rows of {split} features that are not of length 1: {uneven:,} of {len(norms):,}, lengths "
                f"{norms.min():.3g} to {norms.max():.3g}: set --config.data.normalize=True"
            )


def _of_copies(facts: list[Facts]) -> Iterator[str]:
    trn = facts[0]
    _, copy_of, copies = np.unique(trn.keys, return_inverse=True, return_counts=True)
    rows = np.flatnonzero((copies[copy_of] > 1) & (trn.keys != 0))
    if len(rows):
        labels = np.fromiter(map(hash, _row_bytes(trn.split.Y[rows])), np.int64, len(rows))
        pairs = np.unique(np.stack([copy_of[rows], labels], axis=1), axis=0)
        nr_torn = np.count_nonzero(np.bincount(pairs[:, 0]) > 1)
        nr_documents = len(np.unique(copy_of[rows]))
        yield (
            f"training documents that are there more than once: {len(rows):,} rows of {nr_documents:,} documents, "
            f"{nr_torn:,} of which have different labels: keep one row of each, with the labels of all"
        )
    for number, of in enumerate(facts):
        for other in facts[:number]:
            shared = np.isin(of.keys, other.keys) & (of.keys != 0)
            if shared.any():
                yield (
                    f"{SPLITS[of.name]} documents that are {SPLITS[other.name]} documents too: {_rows(shared)}: what "
                    f"is measured on them is too good; drop them from the {SPLITS[other.name]} split"
                )


def _of_labels(facts: list[Facts], label_names: list[str]) -> Iterator[str]:
    trn = facts[0].split.Y
    of_texts_alone = facts[0].split.texts is not None and facts[0].split.X is None
    can_be_taught = of_texts_alone and not are_numbers(label_names)
    or_names = ", train on their names (data.label_texts=names)" if can_be_taught else ""
    frequency = _frequency(trn)
    unseen = frequency == 0
    if unseen.any():
        yield (
            f"labels without a training document: {np.count_nonzero(unseen):,} of {len(unseen):,}: they are never "
            f"learned; add documents{or_names}, or drop their columns and names"
        )
    for of in facts[1:]:
        lost = int(_frequency(of.split.Y)[unseen].sum())
        if lost:
            yield (
                f"values of Y in the {SPLITS[of.name]} split of labels without a training document: {lost:,} of "
                f"{of.split.Y.nnz:,}: nothing finds them, which bounds the recall; move documents to the training split"
                f"{or_names}"
            )
    everywhere = np.count_nonzero(frequency == trn.shape[0])
    if everywhere and trn.shape[0] > 1:
        yield f"labels of all training documents: {everywhere:,}: they tell nothing; drop their columns and names"


def _of_names(names: list[str]) -> Iterator[str]:
    repeated = [name for name, number in Counter(names).items() if number > 1 and name.strip()]
    if repeated:
        yield (
            f"names of several labels: {len(repeated):,}, the first {repeated[0]!r}: results do not tell which is "
            "meant; make them different, or merge the columns"
        )
    unnamed = np.array([not name.strip() for name in names])
    if unnamed.any():
        yield f"labels with an empty name: {_rows(unnamed)}: name them"


def filter_hint(folder: Path) -> list[str]:
    """A line on pairs that the Extreme Classification Repository leaves out of its figures, if it lists any."""
    path = next((path for path in sorted(folder.glob("filter_labels_test.*"))), None)
    if path is None:
        return []
    return [
        f"{path.name} lists labels that published figures leave out of the rankings, because they are the document "
        f"itself: xrt-jax evaluate --filter={path}"
    ]


def describe(dataset: Dataset) -> str:
    """Statistics, frequencies and problems of a data set, as text."""
    facts = [count(name, split) for name, split in zip(SPLITS, dataset[:3], strict=True) if split]
    found = problems(facts, dataset.label_names)
    return "\n".join(
        [
            statistics_table(facts, len(dataset.label_names)),
            "",
            "labels by their number of training documents",
            frequency_plot(_frequency(dataset.trn.Y)),
            "",
            f"problems: {len(found) or 'none found'}",
            *(f"- {line}" for line in found),
        ]
    )


def _load_quietly(folder: str) -> Dataset:
    """The data set without the loader's warnings, which are among the problems."""
    log = logging.getLogger("xrt_jax.data.folders")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        return load_dataset(folder)
    finally:
        log.setLevel(level)


def main(arguments: list[str] | None = None) -> None:
    """The command; a folder that does not load is one line on standard error and exit status 2."""
    parser = argparse.ArgumentParser(
        "xrt-jax describe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", metavar="DIR", help="the data-set folder")
    parser.add_argument("--plot", help="an image of the labels' frequencies to write, such as labels.png")
    given = parser.parse_args(arguments)
    try:
        if given.plot and not importlib.util.find_spec("matplotlib"):
            raise ValueError("--plot needs matplotlib, which is not installed: pip install matplotlib")
        dataset = _load_quietly(given.dir)
        print("\n".join([describe(dataset), *filter_hint(Path(given.dir))]))
        if given.plot:
            save_plot(given.plot, _frequency(dataset.trn.Y))
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
