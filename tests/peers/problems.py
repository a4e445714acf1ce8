"""A small problem with a tree of three levels, and how results of both sides are compared."""

from functools import cache

import numpy as np
import scipy.sparse as sp

from xrt_jax.sparse import normalize_rows
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.label_embedding import pifa

N, D, L = 240, 90, 50


@cache
def data():
    """X csr [N, D] of unit rows, Y csr [N, L]: a label is told by three features; each has some positives."""
    rng = np.random.default_rng(0)
    words = np.array([rng.choice(D, 3, replace=False) for _ in range(L)])
    X, Y = np.zeros((N, D)), np.zeros((N, L))
    for i in range(N):
        labels = np.unique(np.append(rng.choice(L, rng.integers(0, 3)), i % L))
        Y[i, labels] = 1
        for label in labels:
            X[i, rng.choice(words[label], 2, replace=False)] += rng.uniform(0.5, 2, 2)
        X[i, rng.choice(D, 8, replace=False)] += rng.uniform(0.1, 1, 8)
    return normalize_rows(sp.csr_matrix(X.astype(np.float32))), sp.csr_matrix(Y.astype(np.float32))


@cache
def tree():
    """Chain with 4, 16 and L nodes."""
    X, Y = data()
    return hierarchical_kmeans(pifa(Y, X), nr_splits=4, max_leaf_size=5)


@cache
def relevance():
    """csr [N, L], a positive number for each label of a row."""
    R = data()[1].copy()
    R.data = np.random.default_rng(1).uniform(0.3, 3, R.nnz).astype(np.float32)
    return R


@cache
def queries():
    """csr [60, D], rows that no side was trained on."""
    X = sp.random(60, D, 0.15, format="csr", dtype=np.float32, random_state=2)
    X.data += np.float32(0.2)
    return normalize_rows(X)


def assert_same_scores(P, Q, tol=1e-6):
    """The same labels in every row, with scores that differ by at most tol (1 + |score|)."""
    assert P.shape == Q.shape
    np.testing.assert_array_equal(np.diff(P.indptr), np.diff(Q.indptr))
    np.testing.assert_allclose(P.toarray(), Q.toarray(), rtol=tol, atol=tol)
