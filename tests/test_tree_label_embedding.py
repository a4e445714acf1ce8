import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.sparse import Features, normalize_rows
from xrt_jax.tree import label_embedding as module
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.label_embedding import (
    label_embedding,
    pifa,
    pifa_lf_concat,
    pifa_lf_convex_combine,
    pifa_product,
    pii,
)

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
    product = pifa_product(Y, A, normalized_Y)
    assert (sparse != product.Z.sparse).nnz == 0
    np.testing.assert_allclose((product.A @ product.X.sparse).toarray(), sparse.toarray(), atol=1e-6)


def test_rows_too_short_for_a_product():
    product = pifa_product(sp.eye(2, format="csr"), sp.csr_matrix(np.array([[3e-40, 0], [1, 0]], np.float32)))
    assert product.A is None and product.Z.sparse.toarray().tolist() == [[1, 0], [1, 0]]
    assert hierarchical_kmeans(product, max_leaf_size=1)[-1].shape == (2, 2)


def test_unequal_rows_are_refused():
    with pytest.raises(ValueError, match="3 rows, X has 2"):
        pifa(Y, np.zeros((2, 2)))


@pytest.mark.parametrize("nr_columns", [1, 63, 64, 65, 5000])
def test_product_of_any_width_and_number_of_threads(nr_columns, monkeypatch):
    X = sp.random(60, nr_columns, 0.2, format="lil", dtype=np.float32, random_state=1)
    X[:, nr_columns - 1] = 1  # the last column of the last word
    X = X.tocsr()
    Y = sp.random(60, 200, 0.1, format="csr", dtype=np.float32, random_state=2)
    Z = pifa(Y, X)
    np.testing.assert_allclose(Z.toarray(), slow_pifa(Y, X.toarray()), atol=1e-6)
    assert all((np.diff(Z.indices[a:b]) > 0).all() for a, b in zip(Z.indptr, Z.indptr[1:], strict=False))
    monkeypatch.setattr("xrt_jax.threads.numba.get_num_threads", lambda: 4)
    again = pifa(Y, X)
    assert (again.indices == Z.indices).all() and (again.data == Z.data).all()


def test_entries_that_cancel_are_kept():
    X = sp.csr_matrix(np.array([[1, 1], [-1, 1]], np.float32))
    Z = pifa(sp.csr_matrix(np.ones((2, 1), np.float32)), X)
    assert Z.indices.tolist() == [0, 1] and Z.data.tolist() == [0, 1]


def test_empty_matrices():
    Z = pifa(sp.csr_matrix((3, 4)), sp.csr_matrix((3, 5)))
    assert Z.shape == (4, 5) and Z.nnz == 0


def test_pii():
    expected = [[1, 0, 0], [0.57735027] * 3, [0, 1, 0], [0, 0, 0]]
    Z = pii(Y)
    assert Z.format == "csr" and Z.dtype == np.float32
    np.testing.assert_allclose(Z.toarray(), expected, rtol=1e-6)


def dense(Z):
    """Z as an array, sparse columns first."""
    if isinstance(Z, Features):
        return np.hstack([Z.sparse.toarray(), Z.dense])
    return Z.toarray() if sp.issparse(Z) else Z


X_SPARSE = sp.csr_matrix(np.array([[1, 0, 2], [0, 3, 0], [0, 1, 1]], np.float32))
X_DENSE = np.array([[1.0, 2], [3, -1], [0, 1]], np.float32)
Z_SPARSE = sp.csr_matrix(np.array([[0, 5, 0], [1, 0, 0], [0, 0, 0], [2, 0, 2]], np.float32))
Z_DENSE = np.arange(8, dtype=np.float32).reshape(4, 2)


def test_label_features_beside_pifa():
    both, more = Features(X_SPARSE, X_DENSE), Features(Z_SPARSE, Z_DENSE)
    sparse, unit = pifa(Y, X_SPARSE).toarray(), pifa(Y, X_DENSE)
    whole = pifa(Y, both)
    for X, Z, kind, expected in [
        (X_SPARSE, Z_SPARSE, sp.csr_matrix, [sparse, Z_SPARSE.toarray()]),
        (X_DENSE, Z_DENSE, np.ndarray, [unit, Z_DENSE]),
        (X_SPARSE, Z_DENSE, Features, [sparse, Z_DENSE]),
        (X_DENSE, Z_SPARSE, Features, [Z_SPARSE.toarray(), unit]),
        (both, Z_DENSE, Features, [whole.sparse.toarray(), whole.dense, Z_DENSE]),
        (both, more, Features, [whole.sparse.toarray(), Z_SPARSE.toarray(), whole.dense, Z_DENSE]),
    ]:
        result = pifa_lf_concat(Y, X, Z)
        assert isinstance(result, kind)
        np.testing.assert_array_equal(dense(result), np.hstack(expected))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1, np.array([0, 0.25, 0.5, 1])])
def test_label_features_mixed_with_pifa(alpha):
    share = np.broadcast_to(alpha, 4)[:, None]
    both, more = Features(X_SPARSE, X_DENSE), Features(Z_SPARSE, Z_DENSE)
    for X, Z, kind in [
        (X_SPARSE, Z_SPARSE, sp.csr_matrix),
        (X_DENSE, Z_DENSE, np.ndarray),
        (X_DENSE, sp.csr_matrix(Z_DENSE), np.ndarray),
        (X_SPARSE, Z_SPARSE.toarray(), np.ndarray),
        (both, more, Features),
    ]:
        result = pifa_lf_convex_combine(Y, X, Z, alpha)
        assert isinstance(result, kind)
        np.testing.assert_allclose(dense(result), share * dense(pifa(Y, X)) + (1 - share) * dense(Z), atol=1e-6)


def test_methods_by_name():
    for method in module.METHODS:
        expected = {"pifa": pifa(Y, X_DENSE), "pii": pii(Y), "pifa_lf_concat": pifa_lf_concat(Y, X_DENSE, Z_DENSE)}
        expected["pifa_lf_convex_combine"] = pifa_lf_convex_combine(Y, X_DENSE, Z_DENSE, 0.2)
        result = label_embedding(method, Y, X_DENSE, Z=Z_DENSE, alpha=0.2)
        np.testing.assert_array_equal(dense(result), dense(expected[method]))
    assert np.linalg.norm(dense(label_embedding("pifa", Y, normalize_rows(X_SPARSE)))[0]) == pytest.approx(1)


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="'pcfa'"):
        label_embedding("pcfa", Y, X_DENSE)
    with pytest.raises(ValueError, match="missing"):
        label_embedding("pifa_lf_concat", Y, X_DENSE)
    with pytest.raises(ValueError, match="3 rows, Y has 4 labels"):
        label_embedding("pifa_lf_concat", Y, X_DENSE, Z=Z_DENSE[:3])
    for alpha in (1.5, -0.1, np.nan, [0, 0, 0, 2]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            label_embedding("pifa_lf_convex_combine", Y, X_DENSE, Z=Z_DENSE, alpha=alpha)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        pifa_lf_convex_combine(Y, X_DENSE, Z_DENSE, [0, 0, 0])
    with pytest.raises(ValueError, match="X has 3 columns, Z has 2"):
        pifa_lf_convex_combine(Y, X_SPARSE, Z_DENSE)
    both = Features(X_SPARSE, X_DENSE)
    with pytest.raises(ValueError, match="or neither"):
        pifa_lf_convex_combine(Y, both, np.ones((4, 5)))
    with pytest.raises(ValueError, match=r"\[3, 2\] and \[2, 3\]"):
        pifa_lf_convex_combine(Y, both, Features(sp.csr_matrix(Z_DENSE), Z_SPARSE.toarray()))


def test_work_of_the_rows_above(monkeypatch):
    rng = np.random.default_rng(0)
    Yt, X = sp.random(50, 30, 0.2, format="csr", rng=rng), sp.random(30, 40, 0.3, format="csr", rng=rng)
    expected = [0, *np.cumsum([sum(1 + X[i].nnz for i in Yt[row].indices) for row in range(50)])]
    for block in (7, 1 << 16):
        monkeypatch.setattr(module, "ROWS_AT_A_TIME", block)
        assert module._work_above(Yt, Features(X, None)).tolist() == expected
        assert module._work_above(Yt, Features(None, X.toarray())).tolist() == Yt.indptr.tolist()
