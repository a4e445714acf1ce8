"""Makes a data-set folder from a table of texts and labels, split into training, validation and test texts.

    xrt-jax data --from=books.csv --text_column=title --label_column=subjects --out=data/books
    python -m xrt_jax.make_data --from=train.jsonl --test_from=test.jsonl --out=data/books

The table is a .csv or .tsv with a line of column names, a .jsonl with an object a line (each may be .gz or .xz), or a
.parquet. Labels are names: several in one text, parted by --separator, or a list. Rows without a text or a label are
left out, and told. The split is drawn by --seed, and equal texts fall on the same side of it; with --test_from and
--dev_from, those texts come from tables of their own.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags
from scipy.sparse import csr_matrix

from xrt_jax.commands import run_command
from xrt_jax.data.folders import Dataset, Split, save_dataset
from xrt_jax.data.tables import FORMATS, as_labels, as_text, cells, read_table
from xrt_jax.disk import replace_folder
from xrt_jax.report import logger

SPLITS = ("trn", "dev", "tst")
RARE = 5  # labels with fewer training texts are told to be rare
MOST_TOLD = 5  # left-out rows that a line names


class Documents(NamedTuple):
    """Texts with the names of their labels."""

    texts: list[str]
    labels: list[list[str]]


def define_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string("from", None, "The table.", required=True)
    flags.DEFINE_string("out", None, "The folder to write; it must not be there yet, or be empty.", required=True)
    flags.DEFINE_string("text_column", "text", "Column of the texts.")
    flags.DEFINE_string("label_column", "labels", "Column of the label names.")
    flags.DEFINE_string("separator", "|", "What parts the label names in a text.")
    flags.DEFINE_enum("format", None, FORMATS[1:], "Format of the tables; default: as their names end.")
    flags.DEFINE_string("test_from", None, "A table of test texts, in place of --test_share.")
    flags.DEFINE_string("dev_from", None, "A table of validation texts, in place of --dev_share.")
    flags.DEFINE_float("test_share", 0.1, "Share of the texts that are kept for the test.", 0, 1)
    flags.DEFINE_float("dev_share", 0.1, "Share of the texts for validation and calibration; 0: none.", 0, 1)
    flags.DEFINE_integer("min_label_count", 1, "Drop labels that fewer texts have.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the split.")


def main(args) -> None:
    """Reads, splits, writes, tells."""
    out = Path(args.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out={out} is there already and not empty: choose another folder")
    given = {name: path for name, path in (("dev", args.dev_from), ("tst", args.test_from)) if path}
    documents = {name: _read(args, path) for name, path in (("trn", getattr(args, "from")), *given.items())}
    shares = {"dev": args.dev_share, "tst": args.test_share}
    shares = {name: 0.0 if name in given else share for name, share in shares.items()}
    documents |= split(documents["trn"], shares, args.seed)
    dataset = make_dataset(documents, args.min_label_count)
    with replace_folder(out) as tmp:
        save_dataset(tmp, dataset)
    print(summary(dataset))
    print(f"data folder   {out}")
    print(f"next          xrt-jax train --config=configs/xlinear.py --config.data.dir={out} --workdir=runs/{out.name}")


def _read(args, path: str) -> Documents:
    """The rows of a table that have a text and a label; the others are told."""
    table = read_table(path, [args.text_column, args.label_column], kind=args.format)
    if args.text_column == args.label_column:
        raise ValueError("--text_column and --label_column are the same column")
    texts = cells(table, args.text_column, as_text)
    labels = cells(table, args.label_column, as_labels, args.separator)
    without_text = [bool(not text.strip()) for text in texts]
    without_label = [bool(text.strip() and not names) for text, names in zip(texts, labels, strict=True)]
    for what, mask in (("text", without_text), ("label", without_label)):
        places = [place for place, left_out in zip(table.places, mask, strict=True) if left_out]
        if places:
            more = " …" if len(places) > MOST_TOLD else ""
            listed = ", ".join(places[:MOST_TOLD])
            logger.warning("%s: %d without a %s, left out: %s%s", path, len(places), what, listed, more)
    kept = [n for n, (a, b) in enumerate(zip(without_text, without_label, strict=True)) if not (a or b)]
    if not kept:
        raise ValueError(f"{path}: no row has a text and a label: look at --text_column, --label_column, --separator")
    return Documents([texts[n] for n in kept], [labels[n] for n in kept])


def split(documents: Documents, shares: dict[str, float], seed: int) -> dict[str, Documents]:
    """The documents shared out: what `shares` does not take is trn. Equal texts stay together.

    Args:
        documents: all of them.
        shares: of the distinct texts, for the splits dev and tst; 0: no such split.
        seed: of the draw.

    Returns:
        trn, and each split with a share above 0, their documents in the order that they had.

    ValueError if a split would be empty.
    """
    distinct, text_of = np.unique(np.array(documents.texts, dtype=object), return_inverse=True)
    sizes = {name: max(1, round(share * len(distinct))) for name, share in shares.items() if share}
    if sum(sizes.values()) >= len(distinct):
        raise ValueError(
            f"{len(distinct)} different texts leave none for training after {sizes}: give more texts or lower "
            "--test_share and --dev_share"
        )
    order = np.random.default_rng(seed).permutation(len(distinct))
    side = np.zeros(len(distinct), np.int64)
    first = 0
    for name, size in sizes.items():
        side[order[first : first + size]] = SPLITS.index(name)
        first += size
    return {name: _take(documents, np.flatnonzero(side[text_of] == SPLITS.index(name))) for name in ("trn", *sizes)}


def _take(documents: Documents, rows) -> Documents:
    return Documents([documents.texts[row] for row in rows], [documents.labels[row] for row in rows])


def make_dataset(documents: dict[str, Documents], min_label_count: int) -> Dataset:
    """Texts and label matrices of the splits; labels sorted by name, those of fewer texts in all dropped.

    Texts that have no other label go too. ValueError if a split has none left.
    """
    count = Counter(name for part in documents.values() for names in part.labels for name in names)
    label_names = sorted(name for name, number in count.items() if number >= min_label_count)
    column = {name: number for number, name in enumerate(label_names)}
    splits = {}
    for name, part in documents.items():
        columns = [[column[label] for label in names if label in column] for names in part.labels]
        rows = [row for row, of_row in enumerate(columns) if of_row]
        if not rows:
            raise ValueError(f"no text of the split {name} has a label that {min_label_count} texts have")
        columns = [sorted(columns[row]) for row in rows]
        indptr = np.concatenate([[0], np.cumsum([len(of_row) for of_row in columns])])
        indices = np.concatenate(columns).astype(np.int32)
        shape = (len(rows), len(label_names))
        Y = csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=shape)
        splits[name] = Split([part.texts[row] for row in rows], Y, None)
    return Dataset(*(splits.get(name) for name in SPLITS), label_names)


def summary(dataset: Dataset) -> str:
    """What a data set holds, and how many of its labels are rare."""
    splits = dataset[:3]
    nr_texts = " / ".join(f"{part.Y.shape[0]:,}" if part else "–" for part in splits)
    count = np.bincount(dataset.trn.Y.indices, minlength=len(dataset.label_names))
    nr_labels = sum(part.Y.nnz for part in splits if part) / sum(part.Y.shape[0] for part in splits if part)
    lines = [
        f"texts         {nr_texts} (training / validation / test)",
        f"labels        {len(count):,}, {nr_labels:.2f} a text",
        f"rare labels   {np.count_nonzero((count > 0) & (count < RARE)):,} with fewer than {RARE} training texts, "
        f"{np.count_nonzero(count == 1):,} of them with one",
    ]
    if (count == 0).any():
        lines.append(f"unseen labels {np.count_nonzero(count == 0):,} in no training text: they cannot be learned")
    return "\n".join(lines)


if __name__ == "__main__":
    define_flags()
    sys.exit(run_command(main))
