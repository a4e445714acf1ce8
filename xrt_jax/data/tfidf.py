"""TF-IDF features of texts, kept on disk without pickle: scikit-learn's TfidfVectorizer, or what PECOS has learned.

tfidf.json holds settings and n-grams in the order of columns, idf.npz their weights. With n-grams of characters beside
those of words the n-grams are two lists. For PECOS's (pecos_tfidf.py) the settings are {"pecos": a list of those of its
parts, "norm": of all}, and the n-grams are a list a part.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from xrt_jax.data.pecos_tfidf import Part, check_part, join_parts, make_part
from xrt_jax.disk import first_line, read_json, replace_file
from xrt_jax.npz import read_arrays
from xrt_jax.sparse import normalize_rows

COMMON = {"min_df", "max_features", "sublinear_tf", "lowercase"}  # of scikit-learn's, what is fitted
RANGES = {"ngram_range": "word", "char_ngram_range": "char_wb"}  # and the n-grams that they are of


class Tfidf(NamedTuple):
    """A fitted vectorizer and the settings that it was made with."""

    settings: dict
    vectorizers: list  # TfidfVectorizer, whose columns stand side by side; for PECOS's, (TfidfVectorizer, norm)


def _make_vectorizers(settings: dict, vocabularies: list[list[str]] | None = None) -> list:
    """One of words, and one of characters where the settings have such; none is fitted."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes most of a second, which features alone spare

    common = {key: settings[key] for key in COMMON}
    ranges = [(analyzer, tuple(settings[key])) for key, analyzer in RANGES.items() if key in settings]
    return [
        TfidfVectorizer(analyzer=analyzer, ngram_range=lengths, vocabulary=vocabulary, dtype=np.float32, **common)
        for (analyzer, lengths), vocabulary in zip(ranges, vocabularies or [None] * len(ranges), strict=True)
    ]


def fit_tfidf(
    texts: list[str],
    *,
    ngram_range: tuple[int, int] = (1, 2),
    char_ngram_range: tuple[int, int] = (0, 0),
    min_df: int = 2,
    max_features: int | None = None,
    sublinear_tf: bool = True,
    lowercase: bool = True,
) -> tuple[Tfidf, sp.csr_matrix]:
    """Fits TF-IDF on the training texts: n-grams of words of two letters or more, rows of L2 norm 1.

    Args:
        texts: n training texts.
        ngram_range: shortest and longest n-gram, in words.
        char_ngram_range: as well n-grams of so many characters inside of words, of which a blank at either end is
            one; (0, 0): none. Words and characters count the same: each are brought to length 1, then both.
        min_df: an n-gram must stand in so many training texts.
        max_features: keep the so many most frequent n-grams (of words, and of characters), None all.
        sublinear_tf: 1 + ln(count) in place of the count.
        lowercase: fold case.

    Returns:
        (tfidf, X), X of float32 [n, d] being the training texts' features, words first.

    Raises:
        ValueError: no n-gram is left, or settings make no n-grams.
    """
    settings = {
        "ngram_range": [int(n) for n in ngram_range],
        "char_ngram_range": [int(n) for n in char_ngram_range],
        "min_df": int(min_df),
        "max_features": max_features,
        "sublinear_tf": sublinear_tf,
        "lowercase": lowercase,
    }
    if settings["char_ngram_range"] == [0, 0]:
        del settings["char_ngram_range"]  # the files stay those of words alone
    try:
        _check_ranges(settings)
        vectorizers = _make_vectorizers(settings)
        blocks = [vectorizer.fit_transform(texts) for vectorizer in vectorizers]
    except ValueError as error:
        raise ValueError(f"TF-IDF on {len(texts)} texts with {settings} failed: {error}") from None
    return Tfidf(settings, vectorizers), _join(blocks)


def tfidf_of_pecos(parts: list[Part], norm: str) -> Tfidf:
    """The vectorizer that read_pecos_tfidf found."""
    vectorizers = [(make_part(*part), part.settings["norm"]) for part in parts]
    return Tfidf({"pecos": [part.settings for part in parts], "norm": norm}, vectorizers)


def nr_columns(tfidf: Tfidf) -> int:
    """Number of features."""
    return len(_weights(tfidf))


def ngrams(tfidf: Tfidf) -> list[str]:
    """The n-gram of each column."""
    return [ngram for vocabulary in _vocabularies(tfidf) for ngram in vocabulary]


def _vocabularies(tfidf: Tfidf) -> list[list[str]]:
    """The n-grams of each vectorizer."""
    if "pecos" in tfidf.settings:
        return [list(vectorizer.vocabulary) for vectorizer, _ in tfidf.vectorizers]
    return [vectorizer.get_feature_names_out().tolist() for vectorizer in tfidf.vectorizers]


def _weights(tfidf: Tfidf) -> np.ndarray:
    of_pecos = "pecos" in tfidf.settings
    return np.concatenate([(vectorizer[0] if of_pecos else vectorizer).idf_ for vectorizer in tfidf.vectorizers])


def transform(tfidf: Tfidf, texts: list[str]) -> sp.csr_matrix:
    """Features of texts, float32 [n, d], sorted indices; a text without a known n-gram is an empty row."""
    if "pecos" in tfidf.settings:
        return join_parts(tfidf.vectorizers, tfidf.settings["norm"], texts)
    return _join([vectorizer.transform(texts) for vectorizer in tfidf.vectorizers])


def _join(blocks: list[sp.csr_matrix]) -> sp.csr_matrix:
    """Rows of norm 1 with sorted indices out of the vectorizers' rows of norm 1."""
    X = sp.csr_matrix(blocks[0]) if len(blocks) == 1 else normalize_rows(sp.hstack(blocks, format="csr"))
    X.sort_indices()
    return X


def save_tfidf(folder: str | Path, tfidf: Tfidf) -> None:
    """Writes tfidf.json and idf.npz (float32 [d]) to folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabularies = _vocabularies(tfidf)
    is_flat = "pecos" not in tfidf.settings and len(vocabularies) == 1
    content = {"settings": tfidf.settings, "vocabulary": vocabularies[0] if is_flat else vocabularies}
    text = json.dumps(content, ensure_ascii=False, indent=0)
    with replace_file(folder / "idf.npz") as tmp:
        np.savez(tmp, idf=_weights(tfidf))
    with replace_file(folder / "tfidf.json") as tmp:
        tmp.write_text(text, encoding="utf-8")


def load_tfidf(folder: str | Path) -> Tfidf:
    """Reads what save_tfidf wrote; transform then gives the same bits.

    Raises:
        FileNotFoundError, ValueError: a file is missing or broken, or the two do not belong together.
    """
    folder = Path(folder)
    for name in ("tfidf.json", "idf.npz"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: no {name}; is this the tfidf folder of a model?")
    content = read_json(folder / "tfidf.json")
    try:
        settings, vocabulary = content["settings"], content["vocabulary"]
        idf = read_arrays(folder / "idf.npz")["idf"]
        if idf.dtype.kind != "f" or idf.ndim != 1 or not np.isfinite(idf).all():
            raise ValueError("the weights are no finite numbers")
        if isinstance(settings, dict) and "pecos" in settings:
            return tfidf_of_pecos(_checked_parts(settings, vocabulary, idf), settings["norm"])
        _check_settings(settings)
        vocabularies = vocabulary if "char_ngram_range" in settings else [vocabulary]
        vectorizers = _make_vectorizers(settings, _checked_vocabularies(vocabularies, idf))
        for vectorizer, weights in zip(vectorizers, _split(idf, vocabularies), strict=True):
            vectorizer.idf_ = weights
    except Exception as error:  # zip, zlib, numpy and scikit-learn raise all kinds for a file that is not what it seems
        reason = first_line(error)
        raise ValueError(f"{folder}: tfidf.json and idf.npz cannot be used ({reason}); save the model again") from error
    return Tfidf(settings, vectorizers)


def _check_settings(settings: dict) -> None:
    """ValueError for what fit_tfidf does not set: scikit-learn's vectorizer would open files by some settings."""
    known = COMMON | {"ngram_range"}
    if not isinstance(settings, dict) or settings.keys() - {"char_ngram_range"} != known:
        raise ValueError(f"the settings must be {', '.join(sorted(known))}")
    _check_ranges(settings)
    if not all(isinstance(settings[key], bool) for key in ("sublinear_tf", "lowercase")):
        raise ValueError("sublinear_tf and lowercase must be true or false")


def _check_ranges(settings: dict) -> None:
    for key in RANGES.keys() & settings.keys():
        lengths = settings[key]
        are_whole = isinstance(lengths, list) and [type(n) for n in lengths] == [int, int]
        if not are_whole or not 0 < lengths[0] <= lengths[1]:
            raise ValueError(f"{key} is {lengths!r}, where it takes the shortest and the longest length")


def _checked_vocabularies(vocabularies: list[list[str]], idf: np.ndarray) -> list[list[str]]:
    """Lists of n-grams that fit the weights, or ValueError."""
    if not isinstance(vocabularies, list):
        raise ValueError("the vocabulary must be lists of texts")
    for vocabulary in vocabularies:
        _check_vocabulary(vocabulary)
    nr_ngrams = sum(map(len, vocabularies))
    if nr_ngrams != len(idf):
        raise ValueError(f"{nr_ngrams} n-grams, but {len(idf)} weights")
    return vocabularies


def _split(idf: np.ndarray, vocabularies: list[list[str]]) -> list[np.ndarray]:
    """The weights of each vocabulary."""
    return np.split(idf.astype(np.float32), np.cumsum([len(words) for words in vocabularies])[:-1])


def _check_vocabulary(vocabulary: list[str]) -> None:
    if not isinstance(vocabulary, list) or not all(isinstance(word, str) for word in vocabulary):
        raise ValueError("the vocabulary must be a list of texts")
    if len(set(vocabulary)) < len(vocabulary):
        raise ValueError("the vocabulary holds an n-gram twice")


def _checked_parts(settings: dict, vocabulary: list[list[str]], idf: np.ndarray) -> list[Part]:
    """The parts of a vectorizer of PECOS's; ValueError where settings, n-grams and weights make none."""
    of_parts = settings["pecos"]
    if settings.keys() != {"pecos", "norm"} or settings["norm"] not in ("l1", "l2") or not isinstance(of_parts, list):
        raise ValueError("the settings must be pecos, a list, and norm, l1 or l2")
    if not of_parts or not isinstance(vocabulary, list) or len(vocabulary) != len(of_parts):
        raise ValueError("there must be a list of n-grams for each part")
    for of_part in of_parts:
        check_part(of_part)
    return list(map(Part, of_parts, _checked_vocabularies(vocabulary, idf), _split(idf, vocabulary)))
