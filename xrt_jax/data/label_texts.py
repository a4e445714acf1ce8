"""Texts of labels, names or descriptions, that are trained on as documents of these labels."""

from pathlib import Path

import numpy as np
import scipy.sparse as sp

from xrt_jax.data.folders import NAMES_FILES, Dataset, Split, take_rows
from xrt_jax.data.text_files import read_lines


def read_label_texts(folder: str | Path, source: str, dataset: Dataset) -> list[str]:
    """A text a label for add_label_texts, of a data-set folder.

    Args:
        folder: the data-set folder.
        source: "names", or a text file with a line for each label, whose path counts from the folder.
        dataset: what was read of the folder.

    Raises:
        FileNotFoundError, ValueError: no texts, or documents that have more than texts.
    """
    for part, trouble in ((dataset.trn.texts is None, "has no texts"), (dataset.trn.X is not None, "has features")):
        if part:
            raise ValueError(
                f"label_texts={source}: {folder} {trouble}, and labels have their texts alone: go without label_texts, "
                "or give texts and no features"
            )
    if source == "names":
        if are_numbers(dataset.label_names):
            raise ValueError(
                f"label_texts=names: labels of {folder} have no names but numbers: write names to {NAMES_FILES[0]}, or "
                "go without label_texts"
            )
        return dataset.label_names
    path = Path(folder) / source
    if not path.is_file():
        raise FileNotFoundError(
            f"label_texts: there is no file {path} (paths count from the data folder), or say names"
        )
    texts = read_lines(path)
    if len(texts) != len(dataset.label_names):
        raise ValueError(f"{path}: {len(texts)} lines for {len(dataset.label_names)} labels; line l is label l's text")
    return texts


def add_label_texts(dataset: Dataset, texts: list[str], *, copies: int = 1) -> Dataset:
    """The data set with a text of each label, a name or description, as one more training document of that label.

    Documents of few words often have the label's own, and of many labels there are few documents. Empty texts are left
    out; others have the relevance 1 and no matches. With several copies such documents weigh more. As Jain et al. do,
    "Renee: End-to-end training of extreme classification models" (2023).
    """
    if copies < 1:
        raise ValueError(f"label_text_copies is {copies}: it must be 1 or more")
    trn, labels = dataset.trn, np.flatnonzero([bool(text.strip()) for text in texts])
    if len(labels) == 0:
        raise ValueError("label_texts: the text of each label is empty: give some, or go without label_texts")
    labels = np.tile(labels, copies)
    ones = np.ones(len(labels), np.float32)
    Y = sp.csr_matrix((ones, labels, np.arange(len(labels) + 1)), (len(labels), len(texts)))

    def below(part: sp.csr_matrix | None, new: sp.csr_matrix) -> sp.csr_matrix | None:
        return None if part is None else sp.vstack([part, new], format="csr", dtype=np.float32)

    no_matches = sp.csr_matrix((len(labels), 0 if trn.matches is None else trn.matches.shape[1]), dtype=np.float32)
    joined = Split(
        [*trn.texts, *(texts[label] for label in labels)],
        below(trn.Y, Y),
        None,
        below(trn.relevance, Y),
        below(trn.matches, no_matches),
        trn.nr_label_texts + len(labels),
    )
    return dataset._replace(trn=joined)


def are_numbers(label_names: list[str]) -> bool:
    """Whether labels have numbers for names, which are no texts to learn from."""
    return all(name.isdecimal() for name in label_names)


def documents(dataset: Dataset) -> Split:
    """The training documents, without the texts of labels."""
    trn = dataset.trn
    return take_rows(trn, np.arange(trn.Y.shape[0] - trn.nr_label_texts)) if trn.nr_label_texts else trn
