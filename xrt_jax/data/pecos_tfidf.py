"""PECOS's own TF-IDF (`tfidf`): what its files hold, and features of texts as PECOS makes them.

    meta.json                           norm_p of the joined features
    0.base/tokenizer/config.json        token_type: 10 words, 20 characters, 30 characters inside of words
    0.base/tokenizer/vocab.txt          a count, then a line "id TAB token" each
    0.base/vectorizer/config.json       settings of counting and weighting
    0.base/vectorizer/tfidf-model.txt   a count, then "column TAB idf TAB length of the n-gram TAB ids of its tokens"
    1.base/ …                           further vectorizers, whose columns follow

Words are what stands between single blanks, case and punctuation included. With characters inside of words PECOS counts
otherwise when it predicts than when it learned (its n-grams then run over the blanks); features here are those of its
predictions, which its models see in use.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from xrt_jax.disk import first_line, read_json
from xrt_jax.sparse import inverse_or_one, scale_rows

WORDS, CHARACTERS, CHARACTERS_IN_WORDS = 10, 20, 30
NORMS = {1: "l1", 2: "l2", "l1": "l1", "l2": "l2"}
# What a part keeps of PECOS's settings, and of which type; the others are of learning alone.
SETTINGS = {
    "is_words": bool,
    "ngram_range": list,
    "max_length": int,
    "binary": bool,
    "sublinear_tf": bool,
    "norm": str,
}


class Part(NamedTuple):
    """One vectorizer of those that PECOS joins: settings (SETTINGS), n-grams by column, and their idf float32."""

    settings: dict
    vocabulary: list[str]
    idf: np.ndarray


def read_pecos_tfidf(folder: str | Path) -> tuple[list[Part], str]:
    """The vectorizers in a folder of PECOS, and the norm of the joined features, "l1" or "l2". Nothing is executed.

    Raises:
        FileNotFoundError, ValueError: one line for a folder that is none, of another kind, or damaged.
    """
    folder = Path(folder)
    if not (folder / "meta.json").is_file():
        kind = read_json(folder / "config.json") if (folder / "config.json").is_file() else None
        kind = kind.get("type") if isinstance(kind, dict) else None
        if kind not in (None, "tfidf") or (folder / "vectorizer.pkl").exists():
            raise ValueError(
                f"{folder} holds a vectorizer of scikit-learn's ({kind}), which is a pickle and is not opened: give "
                "--features to predict"
            )
        raise FileNotFoundError(f"{folder}: no meta.json; is this the folder of a tfidf vectorizer of PECOS?")
    try:
        meta = read_json(folder / "meta.json")["kwargs"]
        parts = [_read_part(folder / f"{number}.base") for number in range(meta["num_base_vect"])]
        if not parts:
            raise ValueError("it has no vectorizer")
        return parts, NORMS[meta["norm_p"]]
    except OSError:
        raise
    except Exception as error:  # values of other kinds than PECOS's fail in all ways
        raise ValueError(f"{folder} cannot be read as a tfidf vectorizer of PECOS: {first_line(error)}") from error


def _read_part(folder: Path) -> Part:
    token_type = read_json(folder / "tokenizer" / "config.json")["token_type"]
    if token_type not in (WORDS, CHARACTERS, CHARACTERS_IN_WORDS):
        raise ValueError(f"token_type is {token_type!r}")
    given = read_json(folder / "vectorizer" / "config.json")["kwargs"]
    shortest, longest = given["ngram_range"]
    settings = {
        "is_words": token_type == WORDS,
        "ngram_range": [shortest, longest],
        "max_length": given["max_length"],
        "binary": given["binary"],
        "sublinear_tf": given["sublinear_tf"],
        "norm": NORMS[given["norm_p"]],
    }
    check_part(settings)
    token_of = {}
    for line in _counted_lines(folder / "tokenizer" / "vocab.txt"):
        number, token = line.split("\t", 1)
        token_of[number] = token
    joint = " " if settings["is_words"] else ""
    rows = [line.split("\t") for line in _counted_lines(folder / "vectorizer" / "tfidf-model.txt")]
    rows.sort(key=lambda row: int(row[0]))
    if [int(row[0]) for row in rows] != list(range(len(rows))):
        raise ValueError(f"{folder.name} lacks a column, or has one twice")
    vocabulary = [joint.join(token_of[number] for number in ids.split(" ")) for _, _, _, ids in rows]
    idf = np.array([float(weight) if given["use_idf"] else 1.0 for _, weight, _, _ in rows], np.float32)
    if len(set(vocabulary)) < len(rows) or not np.isfinite(idf).all():
        raise ValueError(f"{folder.name} has an n-gram twice, or one without a weight")
    return Part(settings, vocabulary, idf)


def check_part(settings: dict) -> None:
    """ValueError for settings of a part that make no vectorizer."""
    if not isinstance(settings, dict) or settings.keys() != SETTINGS.keys():
        raise ValueError(f"the settings must be {', '.join(SETTINGS)}")
    wrong = next((key for key, kind in SETTINGS.items() if type(settings[key]) is not kind), None)
    if wrong:
        raise ValueError(f"{wrong} is {settings[wrong]!r}")
    lengths = settings["ngram_range"]
    if len(lengths) != 2 or any(type(n) is not int for n in lengths) or not 0 < lengths[0] <= lengths[1]:
        raise ValueError(f"ngram_range is {lengths!r}")
    if settings["norm"] not in NORMS.values():
        raise ValueError(f"norm is {settings['norm']!r}")


def _counted_lines(path: Path) -> list[str]:
    """The lines below the first, which is their number; a line ends at LF alone, as tokens may hold anything else."""
    count, *lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    if int(count) != len(lines):
        raise ValueError(f"{path.name} has {len(lines)} lines where it promises {count}")
    return lines


def make_part(settings: dict, vocabulary: list[str], idf: np.ndarray):
    """The vectorizer of scikit-learn that counts and weights as a part of PECOS's."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes most of a second

    grams = {key: settings[key] for key in ("is_words", "ngram_range", "max_length")}
    counting = {key: settings[key] for key in ("binary", "sublinear_tf")}
    analyzer = partial(n_grams, **grams)
    vectorizer = TfidfVectorizer(analyzer=analyzer, vocabulary=vocabulary, dtype=np.float32, norm=None, **counting)
    vectorizer.idf_ = idf
    return vectorizer


def n_grams(text: str, *, is_words: bool, ngram_range: list[int], max_length: int) -> list[str]:
    """The n-grams of a text, of words that blanks part or of characters; max_length: tokens looked at, below 0 all."""
    tokens = [word for word in text.split(" ") if word] if is_words else list(text)
    tokens = tokens if max_length < 0 else tokens[:max_length]
    joint, (shortest, longest) = " " if is_words else "", ngram_range
    return [
        joint.join(tokens[start : start + n])
        for n in range(shortest, min(longest, len(tokens)) + 1)
        for start in range(len(tokens) - n + 1)
    ]


def join_parts(parts: list[tuple[object, str]], norm: str, texts: list[str]) -> sp.csr_matrix:
    """Features of the texts, csr float32: those of (vectorizer, norm) side by side, each and then all to length 1."""
    blocks = [_normalized(vectorizer.transform(texts), of_part) for vectorizer, of_part in parts]
    return blocks[0] if len(blocks) == 1 else _normalized(sp.hstack(blocks, format="csr", dtype=np.float32), norm)


def _normalized(X: sp.csr_matrix, norm: str) -> sp.csr_matrix:
    """Rows of norm 1; sums are float32 and in the order of columns, which is how PECOS rounds on long texts."""
    X = sp.csr_matrix(X)
    X.sort_indices()
    ones = np.ones(X.shape[1], np.float32)
    lengths = np.sqrt(X.multiply(X).tocsr() @ ones) if norm == "l2" else abs(X) @ ones
    return scale_rows(X, inverse_or_one(lengths.astype(np.float64)))
