import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.sparse import Features
from xrt_jax.tree.label_embedding import pifa

Y = sp.csr_matrix(np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0]], np.float32))


def slow_pifa(Y, X, normalized_Y=True):
    Y = Y.toarray().astype(float)
    if normalized_Y:
        Y = Y / np.maximum(np.linalg.norm(Y, axis=1, keepdims=True), 1e-12)
    Z = Y.T @ X
    return Z / np.maximum(np.linalg.norm(Z, axis=1, keepdims=True), 1e-12)


def test_closed_form():
    eye = sp.identity(3, format="csr", dtype=np.float32)
    # label 1: (1/√2, 1/√2, 1), scaled to length 1; label 3 has no positives
    expected = [[1, 0, 0], [0.5, 0.5, 0.70710678], [0, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose(pifa(Y, eye).toarray(), expected, rtol=1e-6)
    np.testing.assert_allclose(pifa(Y, eye, normalized_Y=False).toarray()[1], [0.57735027] * 3, rtol=1e-6)


@pytest.mark.parametrize("normalized_Y", [True, False])
def test_every_kind_of_features(normalized_Y):
    rng = np.random.default_rng(0)
    A = sp.random(40, 9, 0.3, format="csr", dtype=np.float32, random_state=1)
    E = rng.normal(size=(40, 4)).astype(np.float32)
    Y = sp.random(40, 12, 0.1, format="csr", dtype=np.float32, random_state=2)
    sparse, dense, both = (pifa(Y, X, normalized_Y) for X in (A, E, Features(A, E)))
    assert sp.issparse(sparse) and isinstance(dense, np.ndarray) and isinstance(both, Features)
    np.testing.assert_allclose(sparse.toarray(), slow_pifa(Y, A.toarray(), normalized_Y), atol=1e-6)
    np.testing.assert_allclose(dense, slow_pifa(Y, E, normalized_Y), atol=1e-6)
    joined = np.hstack([both.sparse.toarray(), both.dense])
    np.testing.assert_allclose(joined, slow_pifa(Y, np.hstack([A.toarray(), E]), normalized_Y), atol=1e-6)
    assert both.dense.dtype == np.float32 and both.sparse.dtype == np.float32


def test_unequal_rows_are_refused():
    with pytest.raises(ValueError, match="3 rows, X has 2"):
        pifa(Y, np.zeros((2, 2)))
