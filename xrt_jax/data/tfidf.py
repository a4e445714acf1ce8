"""TF-IDF features of texts, kept on disk without pickle: scikit-learn's TfidfVectorizer, or what PECOS has learned.

tfidf.json holds settings and n-grams in the order of columns, idf.npz their weights. For PECOS's (pecos_tfidf.py) the
settings are {"pecos": a list of those of its parts, "norm": of all}, and the n-grams are a list a part.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from xrt_jax.data.pecos_tfidf import Part, check_part, join_parts, make_part
from xrt_jax.disk import first_line, read_json, replace_file
from xrt_jax.npz import read_arrays

SETTINGS = {"ngram_range", "min_df", "max_features", "sublinear_tf", "lowercase"}  # of scikit-learn's, what is fitted


class Tfidf(NamedTuple):
    """A fitted vectorizer and the settings that it was made with."""

    settings: dict
    vectorizer: object  # TfidfVectorizer; for PECOS's, a list of (TfidfVectorizer, norm)


def _make_vectorizer(settings: dict, **more):
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes most of a second, which features alone spare

    ngram_range = tuple(settings["ngram_range"])  # JSON has no tuples
    return TfidfVectorizer(**settings | {"ngram_range": ngram_range}, dtype=np.float32, **more)


def fit_tfidf(
    texts: list[str],
    *,
    ngram_range: tuple[int, int] = (1, 2),
    min_df: int = 2,
    max_features: int | None = None,
    sublinear_tf: bool = True,
    lowercase: bool = True,
) -> tuple[Tfidf, sp.csr_matrix]:
    """Fits TF-IDF on the training texts: words of two letters or more, n-grams of them, rows of L2 norm 1.

    Args:
        texts: n training texts.
        ngram_range: shortest and longest n-gram, in words.
        min_df: an n-gram must stand in so many training texts.
        max_features: keep the so many most frequent n-grams, None all.
        sublinear_tf: 1 + ln(count) in place of the count.
        lowercase: fold case.

    Returns:
        (tfidf, X), X of float32 [n, d] being the training texts' features.

    Raises:
        ValueError: no n-gram is left.
    """
    settings = {
        "ngram_range": [int(n) for n in ngram_range],
        "min_df": int(min_df),
        "max_features": max_features,
        "sublinear_tf": sublinear_tf,
        "lowercase": lowercase,
    }
    vectorizer = _make_vectorizer(settings)
    try:
        X = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise ValueError(f"TF-IDF on {len(texts)} texts with {settings} failed: {error}") from None
    return Tfidf(settings, vectorizer), _sorted(X)


def tfidf_of_pecos(parts: list[Part], norm: str) -> Tfidf:
    """The vectorizer that read_pecos_tfidf found."""
    vectorizers = [(make_part(*part), part.settings["norm"]) for part in parts]
    return Tfidf({"pecos": [part.settings for part in parts], "norm": norm}, vectorizers)


def nr_columns(tfidf: Tfidf) -> int:
    """Number of features."""
    return len(_weights(tfidf))


def _weights(tfidf: Tfidf) -> np.ndarray:
    if "pecos" in tfidf.settings:
        return np.concatenate([vectorizer.idf_ for vectorizer, _ in tfidf.vectorizer])
    return tfidf.vectorizer.idf_


def transform(tfidf: Tfidf, texts: list[str]) -> sp.csr_matrix:
    """Features of texts, float32 [n, d], sorted indices; a text without a known n-gram is an empty row."""
    if "pecos" in tfidf.settings:
        return join_parts(tfidf.vectorizer, tfidf.settings["norm"], texts)
    return _sorted(tfidf.vectorizer.transform(texts))


def _sorted(X: sp.csr_matrix) -> sp.csr_matrix:
    X = sp.csr_matrix(X)
    X.sort_indices()
    return X


def save_tfidf(folder: str | Path, tfidf: Tfidf) -> None:
    """Writes tfidf.json and idf.npz (float32 [d]) to folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if "pecos" in tfidf.settings:
        vocabulary = [list(vectorizer.vocabulary) for vectorizer, _ in tfidf.vectorizer]
    else:
        vocabulary = tfidf.vectorizer.get_feature_names_out().tolist()
    content = {"settings": tfidf.settings, "vocabulary": vocabulary}
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
        _check_settings(settings, vocabulary)
        vectorizer = _make_vectorizer(settings, vocabulary=vocabulary)
        vectorizer.idf_ = idf
    except Exception as error:  # zip, zlib, numpy and scikit-learn raise all kinds for a file that is not what it seems
        reason = first_line(error)
        raise ValueError(f"{folder}: tfidf.json and idf.npz cannot be used ({reason}); save the model again") from error
    return Tfidf(settings, vectorizer)


def _check_settings(settings: dict, vocabulary: list[str]) -> None:
    """ValueError for what fit_tfidf does not set: scikit-learn's vectorizer would open files by some settings."""
    if not isinstance(settings, dict) or settings.keys() != SETTINGS:
        raise ValueError(f"the settings must be {', '.join(sorted(SETTINGS))}")
    shortest, longest = settings["ngram_range"]
    if not (isinstance(shortest, int) and isinstance(longest, int) and 0 < shortest <= longest):
        raise ValueError(f"ngram_range is {settings['ngram_range']!r}")
    if not all(isinstance(settings[key], bool) for key in ("sublinear_tf", "lowercase")):
        raise ValueError("sublinear_tf and lowercase must be true or false")
    _check_vocabulary(vocabulary)


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
    for of_part, words in zip(of_parts, vocabulary, strict=True):
        check_part(of_part)
        _check_vocabulary(words)
    ends = np.cumsum([len(words) for words in vocabulary])
    if ends[-1] != len(idf):
        raise ValueError(f"{ends[-1]} n-grams, but {len(idf)} weights")
    return list(map(Part, of_parts, vocabulary, np.split(idf.astype(np.float32), ends[:-1])))
