"""TF-IDF: numbers worked out by hand, a plain reference, and the same bits after a trip to disk."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from xrt_jax.data.tfidf import fit_tfidf, load_tfidf, save_tfidf, transform

TEXTS = ["red apple red pear", "red apple", "green pear tree", "Green apple a tree"]


def test_worked_by_hand():
    tfidf, X = fit_tfidf(["red red apple", "red pear"], ngram_range=(1, 1), min_df=1)
    assert tfidf.vectorizer.get_feature_names_out().tolist() == ["apple", "pear", "red"]
    rare, common = 1 + math.log(3 / 2), 1.0  # 1 + ln((1 + n) / (1 + df))
    row = np.array([rare, 0, common * (1 + math.log(2))])
    np.testing.assert_allclose(X.toarray()[0], row / np.linalg.norm(row), rtol=1e-6)
    assert X.dtype == np.float32


def reference(texts, trn, min_df):
    """1-2-grams, 1 + ln tf, smooth idf, L2, term by term."""

    def terms(text):
        words = [word for word in text.lower().split() if len(word) > 1]
        return Counter(words + [" ".join(pair) for pair in pairwise(words)])

    df = Counter(term for text in trn for term in terms(text))
    vocabulary = sorted(term for term, count in df.items() if count >= min_df)
    X = np.zeros((len(texts), len(vocabulary)))
    for row, text in enumerate(texts):
        for term, count in terms(text).items():
            if term in vocabulary:
                idf = 1 + math.log((1 + len(trn)) / (1 + df[term]))
                X[row, vocabulary.index(term)] = (1 + math.log(count)) * idf
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12), vocabulary


def test_against_reference():
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(20)]
    texts = [" ".join(rng.choice(words, size=rng.integers(0, 15))) for _ in range(60)]
    tfidf, X = fit_tfidf(texts[:40])
    expected, vocabulary = reference(texts, texts[:40], min_df=2)
    assert tfidf.vectorizer.get_feature_names_out().tolist() == vocabulary
    np.testing.assert_allclose(X.toarray(), expected[:40], atol=1e-6)
    Z = transform(tfidf, texts[40:])
    np.testing.assert_allclose(Z.toarray(), expected[40:], atol=1e-6)
    assert all((np.diff(row.indices) > 0).all() for row in Z)
    assert transform(tfidf, ["", "unseen"]).nnz == 0


def test_max_features_keeps_the_most_frequent():
    tfidf, X = fit_tfidf(TEXTS, min_df=1, max_features=2, ngram_range=(1, 1))
    assert tfidf.vectorizer.get_feature_names_out().tolist() == ["apple", "red"]
    assert X.shape == (4, 2)


def test_case_and_plain_counts():
    assert "Green" in fit_tfidf(TEXTS, min_df=1, lowercase=False)[0].vectorizer.vocabulary_
    _, X = fit_tfidf(["red red apple"], min_df=1, ngram_range=(1, 1), sublinear_tf=False)
    np.testing.assert_allclose(X.toarray(), [[1 / 5**0.5, 2 / 5**0.5]], rtol=1e-6)


def test_same_bits_after_disk(tmp_path):
    tfidf, X = fit_tfidf([*TEXTS, "größe 中文 größe 中文"], min_df=1)
    save_tfidf(tmp_path, tfidf)
    loaded = load_tfidf(tmp_path)
    assert loaded.settings == tfidf.settings
    for texts in (TEXTS, ["pear tree größe unseen"]):
        a, b = transform(tfidf, texts), transform(loaded, texts)
        assert a.data.tobytes() == b.data.tobytes()
        np.testing.assert_array_equal(a.indices, b.indices)
    assert transform(loaded, TEXTS).toarray().tobytes() == X[:4].toarray().tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["idf.npz", "tfidf.json"]


def test_errors(tmp_path):
    with pytest.raises(ValueError, match=r"TF-IDF on 2 texts .* failed"):
        fit_tfidf(["a", "b"])
    with pytest.raises(FileNotFoundError, match=r"no tfidf\.json"):
        load_tfidf(tmp_path)
    save_tfidf(tmp_path, fit_tfidf(TEXTS, min_df=1)[0])
    np.savez(tmp_path / "idf.npz", idf=np.ones(3, np.float32))
    with pytest.raises(ValueError, match="cannot be used"):
        load_tfidf(tmp_path)
    (tmp_path / "tfidf.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be used"):
        load_tfidf(tmp_path)
