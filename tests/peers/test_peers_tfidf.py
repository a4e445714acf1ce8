"""PECOS's tfidf vectorizers, read from their files, make the features that PECOS makes."""

import random

import numpy as np
import pytest

from xrt_jax.data.pecos_tfidf import read_pecos_tfidf
from xrt_jax.data.tfidf import tfidf_of_pecos, transform

PIECES = ["fox", "Fox", "red,", "näh", "日本", "😀", "a", "\t", "  ", "\u00a0x", "the-end.", "12", "\x85", "(b)"]


def texts_of(seed: int, n: int, pieces: list[str]) -> list[str]:
    rng = random.Random(seed)
    short = [" ".join(rng.choices(pieces, k=rng.randrange(12))) for _ in range(n)]
    return [*short, "", " ", " ".join(rng.choices(pieces, k=3000))]


@pytest.mark.parametrize(
    "settings",
    [
        {"ngram_range": [1, 3], "sublinear_tf": True},
        {"ngram_range": [1, 2], "truncate_length": 4, "binary": True, "norm": "l1"},
        {"use_idf": False, "min_df_cnt": 2},
        {"analyzer": "char", "ngram_range": [1, 4], "add_one_idf": True, "max_feature": 500},
        {"analyzer": "char", "ngram_range": [2, 3], "truncate_length": 9},
        {"analyzer": "char_wb", "ngram_range": [2, 5], "smooth_idf": False},
        {"base_vect_configs": [{"ngram_range": [1, 2]}, {"analyzer": "char", "ngram_range": [3, 3], "norm": "l1"}]},
        {"norm_p": 1, "base_vect_configs": [{"min_df_ratio": 0.1}, {"analyzer": "char_wb", "ngram_range": [2, 3]}]},
    ],
    ids=str,
)
def test_features(pecos, tmp_path, settings):
    learned, texts = texts_of(0, 200, PIECES), texts_of(1, 100, [*PIECES, "unknown", "红"])
    expected = pecos("vectorize", folder=tmp_path / "v", learned=learned, texts=texts, settings=settings)
    X = transform(tfidf_of_pecos(*read_pecos_tfidf(tmp_path / "v")), texts)
    assert X.shape == expected.shape and expected.nnz > 300
    np.testing.assert_allclose(X.toarray(), expected.toarray(), rtol=0, atol=1e-6)
