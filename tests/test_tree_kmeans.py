from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.sparse import Features, normalize_rows
from xrt_jax.tree import kmeans, passes, two_means
from xrt_jax.tree.chain import tree_sizes
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.passes import Product, embeddings_of, new_memory, parts_if_they_pay


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
    left, right = two_means._first_pair(5, 1, 61)
    assert left != right
    side = slow_split(Z.astype(float), left, right, spherical, max_iter)
    assert chain[-1][:, [1]].toarray().ravel().tolist() == side.tolist()


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_rows_that_are_not_scored_again_could_not_have_moved(spherical, seed, monkeypatch):
    # rows of very different lengths in many columns, so that most are skipped in late rounds
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 60)) + rng.normal(size=(400, 60))
    Z = (Z * rng.gamma(1.0, size=(400, 1))).astype(np.float32)
    skipped = []
    bounded = two_means._bounded_scores.py_func

    def counting(*args):
        scores, undecided = bounded(*args)
        skipped.append(1 - undecided.mean())
        return scores, undecided

    monkeypatch.setattr(two_means, "_bounded_scores", counting)
    monkeypatch.setattr(kmeans, "LARGE_NODE", 300)
    in_blocks = hierarchical_kmeans(Z, max_leaf_size=200, spherical=spherical, seed=seed)[-1]
    monkeypatch.setattr(kmeans, "LARGE_NODE", 400)
    alone = hierarchical_kmeans(Z, max_leaf_size=200, spherical=spherical, seed=seed)[-1]
    side = slow_split(Z.astype(float), *two_means._first_pair(seed, 1, 400), spherical, 20)
    assert in_blocks[:, [1]].toarray().ravel().tolist() == side.tolist()
    assert alone[:, [1]].toarray().ravel().tolist() == side.tolist()
    assert max(skipped) > 0.3


def test_buffers_come_back_clean():
    Z = random_embeddings(200, 50)
    E = embeddings_of(Features(Z, np.ones((200, 2), np.float32)))
    memory = new_memory(E)
    for ids in (np.arange(200), np.array([3, 5, 9])):
        for max_iter in (1, 20):
            two_means.split_node(E, ids, 0.7, 1, two_means.Settings(0, True, max_iter), memory)
            assert not any(array.any() for array in memory[:3])


def slow_sampled_split(Z, sample, left, right, max_iter):
    """2-means of the sample, then all rows by its last direction."""
    X, direction, side = Z[sample], Z[sample[right]] - Z[sample[left]], None
    for iteration in range(max_iter):
        if iteration:
            means = [X[side == half].mean(axis=0) for half in range(2)]
            direction = means[1] - means[0]
        last, side = side, np.ones(len(X), int)
        side[np.lexsort((np.arange(len(X)), X @ direction))[: len(X) // 2]] = 0
        if last is not None and (side == last).all():
            break
    whole = np.ones(len(Z), int)
    whole[np.lexsort((np.arange(len(Z)), Z @ direction))[: len(Z) // 2]] = 0
    return whole


@pytest.mark.parametrize("max_iter", [1, 2, 20])
def test_one_sampled_split_against_a_slow_one(max_iter):
    Z = np.random.default_rng(3).normal(size=(101, 6)).astype(np.float32)
    sample = two_means._sample(np.arange(101), 0.3, 5, 1)
    assert len(sample) == 30 and (np.diff(sample) > 0).all()
    chain = hierarchical_kmeans(
        Z,
        max_leaf_size=60,
        spherical=False,
        kmeans_max_iter=max_iter,
        seed=5,
        do_sample=True,
        max_sample_rate=0.3,
        min_sample_rate=0.3,
    )
    side = slow_sampled_split(Z.astype(float), sample, *two_means._first_pair(5, 1, 30), max_iter)
    assert chain[-1][:, [1]].toarray().ravel().tolist() == side.tolist()


def test_samples():
    rows = np.arange(100, 200)
    assert two_means._sample(rows, 1.0, 0, 1).tolist() == rows.tolist()
    assert len(two_means._sample(rows, 0.001, 0, 1)) == 2
    counts = np.zeros(100)
    for node in range(3000):
        counts[two_means._sample(rows, 0.25, 0, node) - 100] += 1
    assert counts.sum() == 3000 * 25 and counts.min() > 600 and counts.max() < 900


def test_sample_rates_as_pecos():
    np.testing.assert_allclose(kmeans._sample_rates(5, 1.0, 0.1, 0.4), [0.1, 0.1, 0.4, 0.7, 1.0])
    np.testing.assert_allclose(kmeans._sample_rates(4, 0.9, 0.1, 0.0), [0.3, 0.5, 0.7, 0.9])
    np.testing.assert_allclose(kmeans._sample_rates(3, 1.0, 0.2, 1.0), [0.2, 0.2, 0.2])
    for bad in ((1.0, 0.0, 0.4), (0.1, 0.5, 0.4), (1.5, 0.1, 0.4)):
        with pytest.raises(ValueError, match="min_sample_rate"):
            kmeans._sample_rates(5, *bad)
    with pytest.raises(ValueError, match="warmup_ratio=2"):
        hierarchical_kmeans(np.ones((8, 3)), max_leaf_size=4, warmup_ratio=2)


def test_sampling_needs_a_sample_of_everything_to_agree():
    Z = random_embeddings(150, 40)
    everything = {"do_sample": True, "min_sample_rate": 1.0}
    plain = hierarchical_kmeans(Z, max_leaf_size=10)
    assert_same_chain(hierarchical_kmeans(Z, max_leaf_size=10, **everything), plain)
    sampled = hierarchical_kmeans(Z, max_leaf_size=10, do_sample=True)
    assert (sampled[-1] != plain[-1]).nnz > 0


def test_sparse_dense_and_mixed_embeddings_agree():
    Z = random_embeddings(150, 40)
    dense = Z.toarray()
    expected = hierarchical_kmeans(Z, nr_splits=2, max_leaf_size=10)
    assert_same_chain(hierarchical_kmeans(dense, nr_splits=2, max_leaf_size=10), expected)
    mixed = Features(Z[:, :25], dense[:, 25:])
    assert_same_chain(hierarchical_kmeans(mixed, nr_splits=2, max_leaf_size=10), expected)


def few_parts(seed, nr_dense):
    """A Product of small integers, so that sums are exact in any order: 600 labels share 40 instances."""
    rng = np.random.default_rng(seed)
    A = sp.csr_matrix(rng.integers(-2, 3, (600, 40)) * (rng.random((600, 40)) < 0.2), dtype=np.float32)
    X = rng.integers(-3, 4, (40, 300)).astype(np.float32) * (rng.random((40, 300)) < 0.6)
    wrap = lambda M: Features(sp.csr_matrix(M[:, nr_dense:]), M[:, :nr_dense].copy())  # noqa: E731
    return Product(wrap(A @ X), A, wrap(X))


@pytest.mark.parametrize("large_node", [10**6, 30])
@pytest.mark.parametrize("nr_dense", [0, 300, 90])
@pytest.mark.parametrize("settings", [{}, {"do_sample": True}, {"kmeans_max_iter": 1}, {"spherical": False}])
def test_passes_through_the_parts_make_the_same_tree(large_node, nr_dense, settings, monkeypatch):
    monkeypatch.setattr(kmeans, "LARGE_NODE", large_node)
    product = few_parts(1, nr_dense)
    E = embeddings_of(product)
    memory = new_memory(E)
    assert len(parts_if_they_pay(E, np.arange(600), memory)) == 40
    assert len(parts_if_they_pay(E, np.arange(3), memory)) == 0
    shape = {"nr_splits": 2, "max_leaf_size": 5}
    assert_same_chain(
        hierarchical_kmeans(product, **shape, **settings), hierarchical_kmeans(product.Z, **shape, **settings)
    )


def test_parts_are_ascending_where_they_are_many():
    A = sp.random(300, 5000, 0.002, format="csr", dtype=np.float32, random_state=0)
    dense = lambda n: Features(None, np.ones((n, 2), np.float32))  # noqa: E731
    E = embeddings_of(Product(dense(300), A, dense(5000)))
    memory = new_memory(E)
    for rows in (np.arange(300), np.array([7, 3, 3])):
        found = passes._parts_of(E, rows, memory).tolist()
        assert sorted(found) == np.unique(A[rows].indices).tolist()
        assert not memory.known.any() and (len(rows) == 3 or found == sorted(found))


@pytest.mark.parametrize("large_node", [10**6, 30])
@pytest.mark.parametrize("do_sample", [False, True])
def test_same_tree_for_any_number_of_threads(large_node, do_sample, monkeypatch):
    monkeypatch.setattr(kmeans, "LARGE_NODE", large_node)
    Z = random_embeddings(300, 60)
    Z = Features(Z, np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32))
    for embedding in (Z, few_parts(2, 40)):
        chains = []
        for threads in (1, 4):
            monkeypatch.setattr("xrt_jax.threads.numba.get_num_threads", lambda threads=threads: threads)
            chains.append(hierarchical_kmeans(embedding, nr_splits=2, max_leaf_size=5, do_sample=do_sample))
        assert_same_chain(*chains)


@pytest.mark.parametrize("settings", [{}, {"do_sample": True}, {"kmeans_max_iter": 1}, {"spherical": False}])
def test_large_nodes_are_split_like_small_ones(settings, monkeypatch):
    # integers: sums in blocks are exact, so that both ways must agree
    Z = np.random.default_rng(0).integers(-3, 4, (3000, 5)).astype(np.float32)
    expected = hierarchical_kmeans(Z, nr_splits=2, max_leaf_size=200, **settings)
    monkeypatch.setattr(kmeans, "LARGE_NODE", 20)
    assert_same_chain(hierarchical_kmeans(Z, nr_splits=2, max_leaf_size=200, **settings), expected)


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
