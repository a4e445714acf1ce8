"""TF-IDF: numbers worked out by hand, a plain reference, and the same bits after a trip to disk."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from xrt_jax.data.tfidf import fit_tfidf, load_tfidf, ngrams, nr_columns, save_tfidf, transform

TEXTS = ["red apple red pear", "red apple", "green pear tree", "Green apple a tree"]


def test_worked_by_hand():
    tfidf, X = fit_tfidf(["red red apple", "red pear"], ngram_range=(1, 1), min_df=1)
    assert ngrams(tfidf) == ["apple", "pear", "red"]
    rare, common = 1 + math.log(3 / 2), 1.0  # 1 + ln((1 + n) / (1 + df))
    row = np.array([rare, 0, common * (1 + math.log(2))])
    np.testing.assert_allclose(X.toarray()[0], row / np.linalg.norm(row), rtol=1e-6)
    assert X.dtype == np.float32


def reference(texts, trn, min_df, terms):
    """1 + ln tf, smooth idf, L2, term by term; terms: Counter of a text's n-grams."""
    df = Counter(term for text in trn for term in terms(text))
    vocabulary = sorted(term for term, count in df.items() if count >= min_df)
    X = np.zeros((len(texts), len(vocabulary)))
    for row, text in enumerate(texts):
        for term, count in terms(text).items():
            if term in vocabulary:
                idf = 1 + math.log((1 + len(trn)) / (1 + df[term]))
                X[row, vocabulary.index(term)] = (1 + math.log(count)) * idf
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12), vocabulary


def words_and_pairs(text):
    words = [word for word in text.lower().split() if len(word) > 1]
    return Counter(words + [" ".join(pair) for pair in pairwise(words)])


def two_to_four_characters(text):
    """Of words with a blank before and behind each."""
    found = Counter()
    for word in text.lower().split():
        padded = f" {word} "
        for n in (2, 3, 4):
            found.update(padded[start : start + n] for start in range(max(len(padded) - n, 0) + 1))
            if len(padded) <= n:  # a short word counts once, whole
                break
    return found


def test_against_reference():
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(20)]
    texts = [" ".join(rng.choice(words, size=rng.integers(0, 15))) for _ in range(60)]
    tfidf, X = fit_tfidf(texts[:40])
    expected, vocabulary = reference(texts, texts[:40], 2, words_and_pairs)
    assert ngrams(tfidf) == vocabulary
    np.testing.assert_allclose(X.toarray(), expected[:40], atol=1e-6)
    Z = transform(tfidf, texts[40:])
    np.testing.assert_allclose(Z.toarray(), expected[40:], atol=1e-6)
    assert all((np.diff(row.indices) > 0).all() for row in Z)
    assert transform(tfidf, ["", "unseen"]).nnz == 0


def test_characters_beside_words_against_reference():
    rng = np.random.default_rng(1)
    words = ["".join(rng.choice(list("abcd"), size=rng.integers(1, 7))) for _ in range(20)]
    texts = [" ".join(rng.choice(words, size=rng.integers(0, 9))) for _ in range(60)] + ["", "zz ab"]
    trn = texts[:40]
    tfidf, X = fit_tfidf(trn, char_ngram_range=(2, 4))
    of_words, word_names = reference(texts, trn, 2, words_and_pairs)
    of_characters, character_names = reference(texts, trn, 2, two_to_four_characters)
    assert ngrams(tfidf) == word_names + character_names
    assert nr_columns(tfidf) == X.shape[1] == len(word_names) + len(character_names)
    expected = np.hstack([of_words, of_characters])
    expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
    np.testing.assert_allclose(X.toarray(), expected[:40], atol=1e-6)
    Z = transform(tfidf, texts)
    np.testing.assert_allclose(Z.toarray(), expected, atol=1e-6)
    assert Z.dtype == np.float32 and all((np.diff(row.indices) > 0).all() for row in Z)
    unknown_word = transform(tfidf, ["ab" * 4])  # of known characters
    assert unknown_word[:, : len(word_names)].nnz == 0 < unknown_word.nnz
    np.testing.assert_allclose(np.linalg.norm(unknown_word.toarray()), 1, rtol=1e-6)


def test_max_features_keeps_the_most_frequent():
    tfidf, X = fit_tfidf(TEXTS, min_df=1, max_features=2, ngram_range=(1, 1))
    assert ngrams(tfidf) == ["apple", "red"]
    assert X.shape == (4, 2)


def test_max_features_counts_for_each_kind():
    tfidf, _ = fit_tfidf(TEXTS, min_df=1, max_features=2, ngram_range=(1, 1), char_ngram_range=(4, 4))
    assert ngrams(tfidf)[:2] == ["apple", "red"] and len(ngrams(tfidf)) == 4


def test_case_and_plain_counts():
    assert "Green" in ngrams(fit_tfidf(TEXTS, min_df=1, lowercase=False)[0])
    _, X = fit_tfidf(["red red apple"], min_df=1, ngram_range=(1, 1), sublinear_tf=False)
    np.testing.assert_allclose(X.toarray(), [[1 / 5**0.5, 2 / 5**0.5]], rtol=1e-6)


@pytest.mark.parametrize("characters", [(0, 0), (2, 3)])
def test_same_bits_after_disk(tmp_path, characters):
    tfidf, X = fit_tfidf([*TEXTS, "größe 中文 größe 中文"], min_df=1, char_ngram_range=characters)
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
    for lengths in ((3, 2), (3,), (0, 2), (-1, 2)):
        with pytest.raises(ValueError, match=r"failed: char_ngram_range is \[.*\], where it takes the shortest and"):
            fit_tfidf(TEXTS, char_ngram_range=lengths)
    with pytest.raises(ValueError, match=r"failed: ngram_range is \[2, 1\]"):
        fit_tfidf(TEXTS, ngram_range=(2, 1))
    with pytest.raises(FileNotFoundError, match=r"no tfidf\.json"):
        load_tfidf(tmp_path)
    save_tfidf(tmp_path, fit_tfidf(TEXTS, min_df=1)[0])
    np.savez(tmp_path / "idf.npz", idf=np.ones(3, np.float32))
    with pytest.raises(ValueError, match="cannot be used"):
        load_tfidf(tmp_path)
    (tmp_path / "tfidf.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be used"):
        load_tfidf(tmp_path)
