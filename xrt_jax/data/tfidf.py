"""TF-IDF features of texts: scikit-learn's TfidfVectorizer, kept on disk without pickle."""

import json
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from xrt_jax.disk import replace_file

# What zip, zlib, numpy and JSON raise for a file that is not what its name says.
UNREADABLE = (AttributeError, EOFError, KeyError, NotImplementedError, OSError, TypeError, ValueError)
UNREADABLE += (zipfile.BadZipFile, zlib.error)


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
    try:
        content = json.loads((folder / "tfidf.json").read_text(encoding="utf-8"))
        settings, vocabulary = content["settings"], content["vocabulary"]
        vectorizer = _make_vectorizer(settings, vocabulary=vocabulary)
        with np.load(folder / "idf.npz", allow_pickle=False) as arrays:
            vectorizer.idf_ = arrays["idf"]
    except UNREADABLE as error:
        raise ValueError(f"{folder}: tfidf.json and idf.npz cannot be used ({error}); save the model again") from None
    return Tfidf(settings, vectorizer)
