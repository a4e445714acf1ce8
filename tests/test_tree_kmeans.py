from itertools import pairwise

import numba
import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.sparse import Features, normalize_rows
from xrt_jax.tree import kmeans
from xrt_jax.tree.chain import tree_sizes
from xrt_jax.tree.kmeans import hierarchical_kmeans


def assert_same_chain(a, b):
    assert len(a) == len(b)
    for C, D in zip(a, b, strict=True):
        assert C.shape == D.shape and (C != D).nnz == 0


def random_embeddings(n=150, d=40, seed=0):
    return normalize_rows(sp.random(n, d, 0.2, format="csr", dtype=np.float32, random_state=seed))


def slow_split(Z, left, right, spherical, max_iter):
    """Projection on the centres' difference, lower half by (score, index) left."""
    direction, side = Z[right] - Z[left], None
    for _ in range(max_iter):
        order = np.lexsort((np.arange(len(Z)), Z @ direction))
        new = np.ones(len(Z), int)
        new[order[: len(Z) // 2]] = 0
        if side is not None and (new == side).all():
            break
        side = new
        left, right = Z[side == 0], Z[side == 1]
        if spherical:
            left, right = left / np.linalg.norm(left.sum(axis=0)), right / np.linalg.norm(right.sum(axis=0))
            direction = right.sum(axis=0) - left.sum(axis=0)
        else:
            direction = right.mean(axis=0) - left.mean(axis=0)
    return side


@pytest.mark.parametrize("nr_splits", [2, 4])
def test_four_rows(nr_splits):
    Z = normalize_rows(np.array([[1, 0], [0.95, 0.05], [0.9, 0.1], [0, 1]]))
    chain = hierarchical_kmeans(Z, nr_splits=nr_splits, max_leaf_size=3)
    groups = sorted(
        chain[-1].indices[a:b].tolist() for a, b in zip(chain[-1].indptr, chain[-1].indptr[1:], strict=False)
    )
    assert groups == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    "nr_splits, min_codes, max_leaf_size", [(16, None, 100), (2, None, 10), (3, None, 5), (16, 4, 10)]
)
def test_sizes_and_balance(nr_splits, min_codes, max_leaf_size):
    shape = {"nr_splits": nr_splits, "min_codes": min_codes, "max_leaf_size": max_leaf_size}
    chain = hierarchical_kmeans(random_embeddings(137), **shape)
    assert [C.shape[0] for C in chain] == tree_sizes(137, **shape)
    assert chain[0].shape[1] == 1
    for above, C in pairwise(chain):
        assert C.shape[1] == above.shape[0]
    for C in chain:
        assert (np.asarray(C.sum(axis=1)) == 1).all()
    assert np.ptp(np.diff(chain[-1].indptr)) <= 1


def test_few_labels_make_no_tree():
    chain = hierarchical_kmeans(np.ones((5, 2)), max_leaf_size=5)
    assert len(chain) == 1 and chain[0].toarray().tolist() == [[1]] * 5


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("max_iter", [1, 2, 20])
def test_one_split_against_a_slow_one(spherical, max_iter):
    rng = np.random.default_rng(3)
    # integers, so that float32 and float64 order the scores alike where centres are not scaled
    Z = rng.integers(-4, 5, (61, 6)).astype(np.float32)
    Z[:, 0] += np.linspace(0, 20, 61).astype(int) ** 2  # centres of very different lengths
    chain = hierarchical_kmeans(Z, max_leaf_size=40, spherical=spherical, kmeans_max_iter=max_iter, seed=5)
    left, right = kmeans._first_pair(5, 1, 61)
    assert left != right
    side = slow_split(Z.astype(float), left, right, spherical, max_iter)
    assert chain[-1][:, [1]].toarray().ravel().tolist() == side.tolist()


def test_sparse_dense_and_mixed_embeddings_agree():
    Z = random_embeddings(150, 40)
    dense = Z.toarray()
    expected = hierarchical_kmeans(Z, nr_splits=2, max_leaf_size=10)
    assert_same_chain(hierarchical_kmeans(dense, nr_splits=2, max_leaf_size=10), expected)
    mixed = Features(Z[:, :25], dense[:, 25:])
    assert_same_chain(hierarchical_kmeans(mixed, nr_splits=2, max_leaf_size=10), expected)


@pytest.mark.parametrize("large_node", [10**6, 30])
def test_same_tree_for_any_number_of_threads(large_node, monkeypatch):
    monkeypatch.setattr(kmeans, "LARGE_NODE", large_node)
    Z = random_embeddings(300, 60)
    Z = Features(Z, np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32))
    threads = numba.get_num_threads()
    try:
        chains = []
        for n in (1, threads):
            numba.set_num_threads(n)
            chains.append(hierarchical_kmeans(Z, nr_splits=2, max_leaf_size=5))
    finally:
        numba.set_num_threads(threads)
    assert_same_chain(*chains)


def test_large_nodes_are_split_like_small_ones(monkeypatch):
    # integers: sums in blocks are exact, so that both ways must agree
    Z = np.random.default_rng(0).integers(-3, 4, (200, 5)).astype(np.float32)
    expected = hierarchical_kmeans(Z, nr_splits=2, max_leaf_size=30, spherical=True)
    monkeypatch.setattr(kmeans, "LARGE_NODE", 20)
    assert_same_chain(hierarchical_kmeans(Z, nr_splits=2, max_leaf_size=30, spherical=True), expected)


def test_the_seed_matters_and_zero_rows_are_placed():
    Z = random_embeddings(100)
    Z = sp.vstack([Z, sp.csr_matrix((40, Z.shape[1]), dtype=np.float32)], format="csr")
    a, b = (hierarchical_kmeans(Z, max_leaf_size=10, seed=seed)[-1] for seed in (0, 1))
    assert (a != b).nnz > 0 and a.nnz == b.nnz == 140


def test_identical_rows_are_halved_by_index():
    chain = hierarchical_kmeans(np.ones((8, 3)), max_leaf_size=4)
    assert chain[-1].indices.tolist() == list(range(8))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="seed=-1"):
        hierarchical_kmeans(np.ones((8, 3)), max_leaf_size=4, seed=-1)
    with pytest.raises(ValueError, match="max_leaf_size=1"):
        hierarchical_kmeans(np.ones((9, 3)), max_leaf_size=1)
