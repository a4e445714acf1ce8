"""The embedded data set: which calls, modules and exceptions does a function use, given its docstring?

Real text that is on every machine: docstrings of the Python standard library and of the packages that this project
depends on, or of a user's own source tree, with the labels of `python_code`. The same installation gives the same data
set.

A document is the description alone: the docstring up to its first section (Parameters, Returns, Examples …).

No label can be read off the text by construction. Taken out of every document, whatever its labels, are

  * doctests (`>>>` up to the next blank line), fenced, `::` and `.. code-block::` blocks;
  * lines that repeat a signature, `name(...)` or `name(...) -> ...`;
  * identifiers that name a label of any document in whole or in part, case ignored: dotted (`os.path.join`, `np.sum`),
    called (`join()`, `join(a, b)`), snake_case, with an inner capital or a digit (`ValueError`, `log1p`), in backticks;
  * plain words that are a label's last part and no ordinary prose: fewer than one document in a thousand has the word,
    or at least a fifth of those that have it carry such a label.

An ordinary word such as "sort" or "read" stays. What goes is the same for all documents because taking away only a
document's own labels would tell: a name left standing would mean "not this label".

Copies of a text (case, digits and identifiers apart) are dropped; texts that share half their three-word shingles
(MinHash, Broder 1997) form a group, and a group lies on one side of the split.

    python -m xrt_jax.data.docstrings --out=DIR [--source=DIR ...]
"""

import argparse
import contextlib
import functools
import gc
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from xrt_jax.data import python_code
from xrt_jax.data.folders import Dataset, Split, save_dataset
from xrt_jax.data.python_code import (
    MIN_WORDS,
    Document,
    Source,
    folder_sources,
    installed_sources,
    read_module,
    with_canonical_labels,
)
from xrt_jax.disk import read_json, write_json

MIN_LABELS = 2
SHARES = {"trn": 0.70, "dev": 0.05, "tst": 0.25}


# ------------------------------------------------------------------------------------------- text without its labels

SECTION = re.compile(
    r"(Parameters|Args|Arguments|Keyword Args|Attributes|Returns?|Yields|Raises|Warns|Examples?|Notes?|References)"
    r"\s*:?|See Also\s*:?|[:@](param|arg|type|returns?|rtype|raises)\b.*",
    re.IGNORECASE,
)
DIRECTIVE = re.compile(r"\.\. (code|code-block|sourcecode|ipython|plot|doctest|testcode|prompt|parsed-literal)::")
SIGNATURE = re.compile(r"`*[\w.]+\(.*\)`*\s*(->.*|:)?")
CODE_SPAN = re.compile(r"(`+[^`]+`+)")
TOKEN = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)(\((?!e?s\)))?")
IDENTIFIER = re.compile(r"[._\d]|[a-z][A-Z]|[A-Z]{2,}[a-z]")


@functools.cache  # few words are most of a text
def _is_identifier(word: str) -> bool:
    return IDENTIFIER.search(word) is not None


def _without_code(text: str) -> str:
    """A docstring up to its first section, on one line, without doctests, code blocks and signature lines."""
    kept, block_indent, in_fence, in_doctest = [], None, False, False
    for line in text.splitlines():
        bare, indent = line.strip(), len(line) - len(line.lstrip())
        if SECTION.fullmatch(bare):
            break
        if bare.startswith(("```", "~~~")):
            in_fence = not in_fence
            continue
        in_doctest = bool(bare) and (in_doctest or bare.startswith(">>>"))
        if block_indent is not None and bare and indent <= block_indent:
            block_indent = None
        if in_fence or in_doctest or block_indent is not None or SIGNATURE.fullmatch(bare):
            continue
        if DIRECTIVE.match(bare) or (bare.endswith("::") and not bare.startswith("..")):
            block_indent = indent
        if re.search(r"\w", bare) and not DIRECTIVE.match(bare):
            kept.append(bare)
    return " ".join(kept)


def _parts_of(label: str) -> list[str]:
    """Lower-case parts of a label's name, the last one last."""
    return [part.strip("_").lower() for part in label.rpartition(" ")[2].split(".") if part]


def _without_identifiers(text: str, is_named: Callable[[str], bool]) -> str:
    """Takes out the identifiers for which is_named holds."""

    def of_prose(match: re.Match) -> str:
        is_identifier = match[2] or _is_identifier(match[1])
        return " " if is_identifier and is_named(match[1]) else match[0]

    def of_code(match: re.Match) -> str:
        return " " if is_named(match[1]) else match[0]

    pieces = CODE_SPAN.split(text)
    return "".join(TOKEN.sub(of_code if n % 2 else of_prose, piece) for n, piece in enumerate(pieces))


def _naming(labels: set[str]) -> Callable[[str], bool]:
    """Whether an identifier has a part of a label's name, case ignored."""
    parts = {part for label in labels for part in _parts_of(label)}
    return functools.cache(lambda word: any(part.strip("_").lower() in parts for part in word.split(".")))


def _last_parts(labels: Iterable[str]) -> set[str]:
    return {_parts_of(label)[-1] for label in labels}


def _plain_words(text: str) -> set[str]:
    return {word.lower() for word in set(re.findall(r"[A-Za-z]+", text))}


def _code_words(documents: list[Document]) -> set[str]:
    """Plain words that are a label's last part and, as the module's docstring defines it, no ordinary prose."""
    last_parts = _last_parts({label for document in documents for label in document.labels})
    standing, telling = Counter(), Counter()
    for document in documents:
        words = _plain_words(document.text) & last_parts
        standing.update(words)
        telling.update(words & _last_parts(document.labels))
    return {word for word, count in standing.items() if 1000 * count < len(documents) or 5 * telling[word] >= count}


def _without_leaks(documents: list[Document]) -> list[Document]:
    """The documents with prose for text, and no label's name in it."""
    is_named = _naming({label for document in documents for label in document.labels})
    texts = [_without_identifiers(_without_code(document.text), is_named) for document in documents]
    documents = [document._replace(text=text) for document, text in zip(documents, texts, strict=True)]
    code_words = _code_words(documents)

    def without_code_words(text: str) -> str:
        if not code_words.isdisjoint(_plain_words(text)):  # which is cheaper to find out
            text = re.sub(r"[A-Za-z]+", lambda match: "" if match[0].lower() in code_words else match[0], text)
        return " ".join(text.split())

    return [document._replace(text=without_code_words(document.text)) for document in documents]


# ------------------------------------------------------------------------------------- choosing, grouping, splitting


@functools.cache
def _folded(word: str) -> str:
    return "_" if _is_identifier(word) else word.lower()


def _words(text: str) -> list[str]:
    """Lower-case words of a text; all identifiers, in which near-duplicates differ, are the same word."""
    return [_folded(word) for word in re.findall(r"[A-Za-z_]\w*(?:\.\w+)*", text)]


def _uniform(seed: int, text: str) -> float:
    """A number in [0, 1) that depends on the seed and the text only."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {text}".encode(), digest_size=8).digest(), "big") / 2**64


def _with_frequent_labels(documents: list[Document], min_count: int, max_count: float) -> list[Document]:
    """Keeps labels by their counts, then the documents that still have enough labels."""
    counts = Counter(label for document in documents for label in document.labels)
    kept = {label for label, count in counts.items() if min_count <= count <= max_count}
    pruned = [document._replace(labels=document.labels & kept) for document in documents]
    return [document for document in pruned if len(document.labels) >= MIN_LABELS]


def _choose(documents: list[Document], nr_documents: int, package_cap: int, seed: int) -> list[Document]:
    """At most nr_documents in pseudo-random order, no text twice, no package more than package_cap times."""
    words = {document.name: " ".join(_words(document.text)) for document in documents}
    chosen, per_package = {}, Counter()
    for document in sorted(documents, key=lambda document: (_uniform(seed, words[document.name]), document.name)):
        text = words[document.name]
        if text in chosen or text.count(" ") + 1 < MIN_WORDS or per_package[document.package] == package_cap:
            continue
        chosen[text] = document
        per_package[document.package] += 1
        if len(chosen) == nr_documents:
            break
    return list(chosen.values())


def near_duplicate_groups(texts: list[str], *, nr_hashes: int = 128, band: int = 4) -> np.ndarray:
    """Group number of each text, int32 [n]; texts of about the same three-word shingles share a group.

    MinHash (Broder 1997) with banding: pairs that agree in a whole band of hashes are compared, and joined where at
    least half of all hashes agree, which estimates a Jaccard similarity of one half.
    """
    ids = {"": 0}
    rows = [_words(text) for text in texts]
    rows = [[ids.setdefault(word, len(ids)) for word in row + [""] * (3 - len(row))] for row in rows]
    words = np.array([word for row in rows for word in row] + [0], dtype=np.uint64)
    ends = np.cumsum([len(row) for row in rows])
    starts = np.concatenate([[0], ends[:-1]])
    # reduceat takes the minimum from each even bound to the next odd one: a text's last shingle begins two words early.
    bounds = np.stack([starts, ends - 2], axis=1).ravel()
    factors = np.random.default_rng(0).integers(2**63, size=3 + nr_hashes, dtype=np.uint64) * 2 + 1
    shingles = words[:-2] * factors[0] ^ words[1:-1] * factors[1] ^ words[2:] * factors[2]
    shingles ^= shingles >> 31
    hashes_hn = np.stack([np.minimum.reduceat(shingles * factor >> 32, bounds)[::2] for factor in factors[3:]])
    return _components(hashes_hn, band)


def _components(hashes_hn: np.ndarray, band: int) -> np.ndarray:
    nr_texts = hashes_hn.shape[1]
    rows, columns = [], []
    for of_band in hashes_hn.reshape(-1, band, nr_texts):
        order = np.lexsort(of_band)
        same = (of_band[:, order[1:]] == of_band[:, order[:-1]]).all(axis=0)
        left, right = order[:-1][same], order[1:][same]
        alike = (hashes_hn[:, left] == hashes_hn[:, right]).mean(axis=0) >= 0.5
        rows.append(left[alike])
        columns.append(right[alike])
    rows, columns = np.concatenate(rows), np.concatenate(columns)
    graph = sp.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(nr_texts, nr_texts))
    return connected_components(graph, directed=False)[1]


def _side_of_groups(groups: np.ndarray, texts: list[str], seed: int) -> np.ndarray:
    """Number of the split (0 trn, 1 dev, 2 tst) of each text, int64 [n]; the same for all of a group."""
    first = {}
    for group, text in zip(groups.tolist(), texts, strict=True):
        first[group] = min(first.get(group, text), text)
    position = np.array([_uniform(seed + 1, first[group]) for group in groups.tolist()])
    return np.searchsorted(np.cumsum(list(SHARES.values()))[:-1], position, side="right")


# --------------------------------------------------------------------------------------------------------- the build


def _read_sources(sources: list[Source], enough: int, enough_of_one: int) -> tuple[list[Document], dict[str, str]]:
    """Usable documents and the re-exports of as many files as are enough, over all and of one package."""
    documents, imports, read = [], {}, Counter()
    # __init__ files first: they hold the re-exports.
    for source in sorted(sources, key=lambda source: (source.path.name != "__init__.py", _uniform(0, source.module))):
        if len(documents) >= enough or read[source.package] >= enough_of_one:
            continue
        found, names = read_module(source)
        usable = [document for document in found if len(document.labels) >= MIN_LABELS]
        read[source.package] += len(usable)
        documents += usable
        imports |= names
    return sorted(documents), imports


def _fingerprint(sources: list[Source], parameters: dict) -> str:
    """Hash of the parameters, the code that reads them and the contents of all source files."""
    digest = hashlib.blake2b(json.dumps([parameters, sys.version_info[:2]]).encode(), digest_size=16)
    for code in (__file__, python_code.__file__):
        digest.update(Path(code).read_bytes())
    for source in sources:
        digest.update(f"{source.module} {source.path.stat().st_size}\n".encode())
        digest.update(source.path.read_bytes())
    return digest.hexdigest()


def _found_fingerprint(folder: Path) -> str | None:
    """Fingerprint of the data set in a folder, None of an empty folder or an unfinished data set."""
    if not folder.exists() or not any(folder.iterdir()):
        return None
    try:
        return read_json(folder / "meta.json")["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{folder}: not empty and no docstring data set; choose another folder or empty it") from None


def _split(documents: list[Document], label_ids: dict[str, int]) -> Split:
    indices = [label_ids[label] for document in documents for label in sorted(document.labels)]
    indptr = np.cumsum([0] + [len(document.labels) for document in documents])
    Y = sp.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=(len(documents), len(label_ids)))
    return Split([document.text for document in documents], Y, None)


@contextlib.contextmanager
def _without_cycle_search() -> Iterator[None]:
    """Syntax trees and documents form no reference cycles; to look for them takes a fifth of the build's time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_without_cycle_search()
def build_docstring_dataset(
    out_folder: str | Path,
    *,
    sources: list[str | Path] | None = None,
    nr_documents: int = 14000,
    min_label_count: int = 4,
    max_label_share: float = 0.1,
    max_package_share: float | None = None,
    seed: int = 0,
) -> Path:
    """Builds the data set that this module's docstring describes, or reuses what an equal call has left.

    Args:
        out_folder: a new or empty folder, or one that this function made. It becomes a PECOS data folder with 80 % of
            the documents in trn, 5 % in dev, 15 % in tst, and meta.json: counts, and a fingerprint of all that went in.
        sources: folders of Python files; None takes the standard library and this project's installed dependencies.
        nr_documents: at most so many documents, all splits together.
        min_label_count: keep labels that at least so many documents have.
        max_label_share: drop labels that more than this share of the documents have (isinstance, len).
        max_package_share: one top-level package gives at most this share of nr_documents; None is 0.15 for the
            installed packages and 1 for folders.
        seed: of the choice of documents and of the split.

    Returns:
        out_folder.

    Raises:
        FileNotFoundError, ValueError: a source folder is missing, too little to learn from, or out_folder is in use.
    """
    out_folder = Path(out_folder)
    if max_package_share is None:
        max_package_share = 0.15 if sources is None else 1.0
    parameters = {
        "nr_documents": nr_documents,
        "min_label_count": min_label_count,
        "max_label_share": max_label_share,
        "max_package_share": max_package_share,
        "seed": seed,
    }
    found = installed_sources() if sources is None else folder_sources(sources)
    fingerprint = _fingerprint(found, parameters)
    if _found_fingerprint(out_folder) == fingerprint:
        return out_folder

    package_cap = max(1, int(max_package_share * nr_documents))
    documents, imports = _read_sources(found, nr_documents * 5 // 4, package_cap * 5 // 4)
    documents = with_canonical_labels(documents, imports)
    documents = _with_frequent_labels(documents, min_label_count, max_label_share * len(documents))
    documents = _choose(_without_leaks(documents), nr_documents, package_cap, seed)
    documents = _with_frequent_labels(documents, min_label_count, len(documents))
    if len(documents) < 20:
        raise ValueError(
            f"{len(found)} Python files give {len(documents)} usable documents: add sources or lower min_label_count"
        )
    texts = [document.text for document in documents]
    groups = near_duplicate_groups(texts)
    sides = _side_of_groups(groups, texts, seed)
    missing = [name for side, name in enumerate(SHARES) if side not in sides]
    if missing:
        raise ValueError(f"{len(documents)} documents leave the split {missing[0]} empty; give more sources")

    label_names = sorted({label for document in documents for label in document.labels})
    label_ids = {label: column for column, label in enumerate(label_names)}
    rows = [np.flatnonzero(sides == side) for side in range(len(SHARES))]
    splits = [_split([documents[row] for row in of_side], label_ids) for of_side in rows]
    write_json(out_folder / "meta.json", {"fingerprint": None})  # until all files are there
    save_dataset(out_folder, Dataset(*splits, label_names))
    sizes = np.bincount(groups)
    meta = {
        "fingerprint": fingerprint,
        "parameters": parameters,
        "documents": {name: split.Y.shape[0] for name, split in zip(SHARES, splits, strict=True)},
        "labels": len(label_names),
        "labels_per_document": round(sum(len(document.labels) for document in documents) / len(documents), 2),
        "near_duplicate_groups": {"groups": int((sizes > 1).sum()), "documents": int(sizes[sizes > 1].sum())},
        "packages": dict(Counter(document.package for document in documents).most_common()),
    }
    write_json(out_folder / "meta.json", meta)
    return out_folder


def main(arguments: list[str] | None = None) -> None:
    """python -m xrt_jax.data.docstrings: builds the data set from the command line."""
    parser = argparse.ArgumentParser(description="Builds a data set: docstrings, and what the code below them calls.")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument(
        "--source", action="append", help="folder of Python files, repeatable; default: installed packages"
    )
    parser.add_argument("--nr_documents", type=int, default=14000, help="at most so many documents")
    parser.add_argument("--min_label_count", type=int, default=4, help="documents that a label must have")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        folder = build_docstring_dataset(
            given.out,
            sources=given.source,
            nr_documents=given.nr_documents,
            min_label_count=given.min_label_count,
            seed=given.seed,
        )
    except (ValueError, OSError) as error:
        parser.exit(2, f"{error}\n")
    sys.stdout.write((folder / "meta.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
