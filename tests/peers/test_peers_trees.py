"""Label embeddings, trees and their files: the same on both sides."""

import numpy as np
import pytest
import scipy.sparse as sp
from problems import D, L, data, tree

from xrt_jax.tree.chain import complete_chain, load_chain, save_chain, tree_sizes
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.label_embedding import label_embedding, pifa

# ---------------------------------------------------------------------------- label embeddings


def dense(A):
    return A.toarray() if sp.issparse(A) else A


def valued_labels():
    """Labels with values, which count, a label and a row without any."""
    Y = data()[1].copy()
    Y.data = np.random.default_rng(3).uniform(0.2, 3, Y.nnz).astype(np.float32)
    Y = Y.tolil()
    Y[:, 7], Y[11] = 0, 0
    return Y.tocsr()


def of_kind(A, kind: str):
    return A if kind == "sparse" else A.toarray()


def label_features(width: int):
    Z = sp.random(L, width, 0.3, format="csr", dtype=np.float32, random_state=5)
    Z.data -= np.float32(0.5)
    return Z


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_pifa(pecos, kind):
    X, Y = of_kind(data()[0], kind), valued_labels()
    found, expected = pifa(Y, X), pecos("label_embedding", Y=Y, X=X, method="pifa")
    assert sp.issparse(found) == sp.issparse(expected) == (kind == "sparse")
    np.testing.assert_allclose(dense(found), dense(expected), rtol=0, atol=1e-6)
    expected = pecos("label_embedding", Y=Y, X=X, method="pifa", normalized_Y=False)
    np.testing.assert_allclose(dense(pifa(Y, X, normalized_Y=False)), dense(expected), rtol=0, atol=1e-6)
    assert np.abs(dense(found) - dense(expected)).max() > 0.01


def test_pii(pecos):
    Y = valued_labels()
    found, expected = label_embedding("pii", Y, None), pecos("label_embedding", Y=Y, X=None, method="pii")
    np.testing.assert_allclose(found.toarray(), expected.toarray(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_pifa_beside_label_features(pecos, kind):
    X, Y, Z = of_kind(data()[0], kind), valued_labels(), of_kind(label_features(17), kind)
    found = label_embedding("pifa_lf_concat", Y, X, Z=Z)
    expected = pecos("label_embedding", Y=Y, X=X, method="pifa_lf_concat", Z=Z)
    np.testing.assert_allclose(dense(found), dense(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kinds", [("sparse", "sparse"), ("dense", "dense"), ("sparse", "dense"), ("dense", "sparse")])
@pytest.mark.parametrize("alpha", [0.5, 0.2, 0, 1, "one a label"])
def test_pifa_mixed_with_label_features(pecos, kinds, alpha):
    X, Y, Z = of_kind(data()[0], kinds[0]), valued_labels(), of_kind(label_features(D), kinds[1])
    alpha = np.random.default_rng(6).uniform(size=L) if alpha == "one a label" else alpha
    found = label_embedding("pifa_lf_convex_combine", Y, X, Z=Z, alpha=alpha)
    expected = pecos("label_embedding", Y=Y, X=X, method="pifa_lf_convex_combine", Z=Z, alpha=alpha)
    assert sp.issparse(found) == sp.issparse(expected)
    np.testing.assert_allclose(dense(found), dense(expected), rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------- trees


def assert_same_chain(chain, expected):
    assert [C.shape for C in chain] == [C.shape for C in expected]
    for C, E in zip(chain, expected, strict=True):
        assert abs(C - E).max() == 0


@pytest.mark.parametrize("nr_splits, min_codes", [(2, None), (3, None), (16, None), (2, 5), (4, 8), (16, 4), (3, 2)])
@pytest.mark.parametrize("nr_leaves", [2, 8, 13, 32])
def test_completed_chains(pecos, nr_splits, min_codes, nr_leaves):
    labels = np.arange(L)
    C = sp.csc_matrix((np.ones(L, np.float32), (labels, labels * 7 % nr_leaves)), shape=(L, nr_leaves))
    expected = pecos("complete", C=C, nr_splits=nr_splits, min_codes=min_codes)
    assert_same_chain(complete_chain(C, nr_splits=nr_splits, min_codes=min_codes), expected)


def test_chain_folders(pecos, tmp_path):
    pecos("save_chain", folder=tmp_path / "theirs", chain=tree())
    assert_same_chain(load_chain(tmp_path / "theirs"), tree())
    save_chain(tmp_path / "ours", tree())
    assert_same_chain(pecos("load_chain", folder=tmp_path / "ours"), tree())


def test_a_file_with_the_leaves(pecos, tmp_path):
    sp.save_npz(tmp_path / "leaves.npz", tree()[-1], compressed=False)
    assert_same_chain(load_chain(tmp_path / "leaves.npz"), pecos("load_chain", folder=tmp_path / "leaves.npz"))


@pytest.mark.parametrize(
    "nr_labels, nr_splits, min_codes, max_leaf_size",
    [(137, 16, None, 100), (137, 16, None, 10), (137, 2, None, 10), (137, 3, None, 5), (137, 16, 4, 10)]
    + [(137, 4, 16, 3), (137, 8, 2, 2), (128, 2, None, 1), (100, 16, None, 100), (101, 16, None, 100), (50, 5, 3, 7)],
)
def test_sizes_of_clustered_trees(pecos, nr_labels, nr_splits, min_codes, max_leaf_size):
    Z = sp.random(nr_labels, 40, 0.3, format="csr", dtype=np.float32, random_state=7)
    settings = {"nr_splits": nr_splits, "min_codes": min_codes, "max_leaf_size": max_leaf_size}
    ours, theirs = hierarchical_kmeans(Z, **settings), pecos("cluster", Z=Z, **settings)
    assert [C.shape for C in ours] == [C.shape for C in theirs]
    assert [C.shape[0] for C in ours] == tree_sizes(nr_labels, **settings)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(np.sort(np.diff(a.indptr)), np.sort(np.diff(b.indptr)))


@pytest.mark.parametrize("spherical", [True, False])
def test_clusters_that_nobody_can_miss(pecos, spherical):
    """8 bundles of 6 labels: whatever the random start, both sides find the bundles."""
    rng = np.random.default_rng(8)
    Z = np.repeat(np.eye(8), 6, axis=0) + 0.02 * rng.standard_normal((48, 8))
    Z = (Z / np.linalg.norm(Z, axis=1, keepdims=True)).astype(np.float32)
    settings = {"nr_splits": 2, "max_leaf_size": 6, "spherical": spherical}
    bundles = {frozenset(range(6 * b, 6 * b + 6)) for b in range(8)}
    for chain in (hierarchical_kmeans(Z, **settings), pecos("cluster", Z=Z, **settings)):
        leaves = np.split(chain[-1].indices, chain[-1].indptr[1:-1])
        assert {frozenset(leaf.tolist()) for leaf in leaves} == bundles
