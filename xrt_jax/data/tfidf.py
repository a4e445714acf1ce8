"""TF-IDF features of texts: scikit-learn's TfidfVectorizer, kept on disk without pickle."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from xrt_jax.disk import first_line, read_json, replace_file
from xrt_jax.npz import read_arrays

SETTINGS = {"ngram_range", "min_df", "max_features", "sublinear_tf", "lowercase"}  # of scikit-learn's, what is fitted


class Tfidf(NamedTuple):
    """A fitted vectorizer and the settings that it was made with."""

    settings: dict
    vectorizer: object  # TfidfVectorizer


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


def transform(tfidf: Tfidf, texts: list[str]) -> sp.csr_matrix:
    """Features of texts, float32 [n, d], sorted indices; a text without a known n-gram is an empty row."""
    return _sorted(tfidf.vectorizer.transform(texts))


def _sorted(X: sp.csr_matrix) -> sp.csr_matrix:
    X = sp.csr_matrix(X)
    X.sort_indices()
    return X


def save_tfidf(folder: str | Path, tfidf: Tfidf) -> None:
    """Writes tfidf.json (settings, n-grams in column order) and idf.npz (float32 [d]) to folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"settings": tfidf.settings, "vocabulary": tfidf.vectorizer.get_feature_names_out().tolist()}
    text = json.dumps(content, ensure_ascii=False, indent=0)
    with replace_file(folder / "idf.npz") as tmp:
        np.savez(tmp, idf=tfidf.vectorizer.idf_)
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
        _check_settings(settings, vocabulary)
        vectorizer = _make_vectorizer(settings, vocabulary=vocabulary)
        idf = read_arrays(folder / "idf.npz")["idf"]
        if idf.dtype.kind != "f" or not np.isfinite(idf).all():
            raise ValueError("the weights are no finite numbers")
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
    if not isinstance(vocabulary, list) or not all(isinstance(word, str) for word in vocabulary):
        raise ValueError("the vocabulary must be a list of texts")
    if len(set(vocabulary)) < len(vocabulary):
        raise ValueError("the vocabulary holds an n-gram twice")
