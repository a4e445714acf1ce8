import numba
import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.sparse import Features
from xrt_jax.tree.chain import complete_chain
from xrt_jax.xlinear import predict as predict_module
from xrt_jax.xlinear.predict import POST_PROCESSORS, predict, prepare
from xrt_jax.xlinear.train import Level, train_ranker

D, L = 30, 40


def random_ranker(bias=1.0, post_processor="l3-hinge", seed=0):
    """Three levels with random weights; labels scattered over the leaves."""
    rng = np.random.default_rng(seed)
    leaf = sp.csc_matrix((np.ones(L, np.float32), (np.arange(L), rng.permutation(L) % 9)))
    ranker = []
    weights = lambda n: 0.4 * rng.standard_normal(n)  # noqa: E731  (small: l4-hinge must not underflow)
    for C in complete_chain(leaf, nr_splits=3, min_codes=None):
        W = sp.random(D + (bias > 0), C.shape[0], 0.3, format="csc", random_state=rng, data_rvs=weights)
        ranker.append(Level(W.astype(np.float32), C, bias, 4, post_processor))
    return ranker


def queries(n=25, seed=1):
    return sp.random(n, D, 0.3, format="csr", dtype=np.float32, random_state=seed)


def slow_scores(name, v, parent):
    if name == "noop":
        return v
    if name == "sigmoid":
        return parent / (1 + np.exp(-v))
    if name == "log-sigmoid":
        return parent - np.log(1 + np.exp(-v))
    p = int(name[-len("1-hinge")])
    loss = max(0, 1 - v) ** p
    return parent - loss if name.startswith("log") else parent * np.exp(-loss)


def slow_predict(ranker, x, topk):
    """Beam search of one dense query, label by label; [(label, score)] best first, of equals the earlier."""
    beam = [(0, None)]
    for level, k in zip(ranker, topk, strict=True):
        W, found = level.W.toarray().astype(float), []
        for parent, score in beam:
            for child in np.flatnonzero(level.C[:, [parent]].toarray().ravel()):
                v = x @ W[:D, child] + (level.bias * W[D, child] if level.bias > 0 else 0)
                start = 0.0 if level.post_processor.startswith("log") else 1.0
                found.append((child, slow_scores(level.post_processor, v, start if score is None else score)))
        beam = sorted(found, key=lambda pair: -pair[1])[:k]
    return beam


@pytest.mark.parametrize("name", POST_PROCESSORS)
@pytest.mark.parametrize("bias", [1.0, 0.0])
def test_beam_search_against_a_slow_one(name, bias):
    ranker, X = random_ranker(bias, name), queries()
    P = predict(ranker, X, beam_size=2, only_topk=5)
    assert P.shape == (25, L) and P.dtype == np.float32
    for i, x in enumerate(X.toarray().astype(float)):
        expected = slow_predict(ranker, x, [2] * (len(ranker) - 1) + [5])
        row = slice(P.indptr[i], P.indptr[i + 1])
        assert P.indices[row].tolist() == [label for label, _ in expected]
        np.testing.assert_allclose(P.data[row], [score for _, score in expected], rtol=1e-4, atol=1e-6)


def test_post_processor_table_has_the_ten_of_pecos():
    hinges = [f"{log}l{p}-hinge" for log in ("", "log-") for p in (1, 2, 3, 4)]
    assert sorted(POST_PROCESSORS) == sorted(["noop", "sigmoid", "log-sigmoid", *hinges])


def test_a_full_beam_ranks_every_label_exactly():
    ranker, X = random_ranker(post_processor="noop"), queries()
    P = predict(ranker, X, beam_size=L, only_topk=L)
    W = ranker[-1].W.toarray()
    np.testing.assert_allclose(P.toarray(), X.toarray() @ W[:D] + W[D], atol=1e-5)
    assert (np.diff(P.data.reshape(25, L), axis=1) <= 0).all()


def test_equal_scores_keep_the_order_of_the_tree():
    C = sp.csc_matrix(np.ones((6, 1), np.float32))
    W = sp.csc_matrix(np.array([[1, 2, 1, 2, 2, 1]], np.float32))
    P = predict([Level(W, C, 0.0, 4, "noop")], np.ones((1, 1)))
    assert P.indices.tolist() == [1, 3, 4, 0] and P.data.tolist() == [2, 2, 2, 1]


def test_sparse_dense_and_mixed_queries_agree():
    ranker, X = random_ranker(), queries()
    expected = predict(ranker, X)
    for same in (X.toarray(), Features(X[:, :18], X.toarray()[:, 18:])):
        P = predict(ranker, same)
        np.testing.assert_array_equal(P.indices, expected.indices)
        np.testing.assert_allclose(P.data, expected.data, rtol=1e-5)


def test_blocks_threads_single_rows_and_layout_do_not_matter(monkeypatch):
    ranker, X = random_ranker(), queries()
    expected = predict(ranker, X)
    prepared = prepare(ranker)
    single = sp.vstack([predict(prepared, X[i]) for i in range(25)])
    monkeypatch.setattr(predict_module, "ROWS_PER_BLOCK", 4)
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        alone = predict(prepared, X)
    finally:
        numba.set_num_threads(threads)
    for P in (single, alone, predict(prepared, X)):
        np.testing.assert_array_equal(P.indices, expected.indices)
        np.testing.assert_array_equal(P.data, expected.data)


def test_own_settings_and_overrides():
    ranker, X = random_ranker(), queries()
    ranker = [level._replace(only_topk=k) for level, k in zip(ranker, (1, 2, 3, 2), strict=False)]
    depth = len(ranker)
    assert np.diff(predict(ranker, X).indptr).max() == ranker[-1].only_topk
    assert np.diff(predict(ranker, X, only_topk=6).indptr).max() == 6
    own = predict([level._replace(only_topk=2) for level in ranker[:-1]] + ranker[-1:], X)
    assert (predict(ranker, X, beam_size=2) != own).nnz == 0
    sigmoid = predict([level._replace(post_processor="sigmoid") for level in ranker], X)
    assert (predict(ranker, X, post_processor="sigmoid") != sigmoid).nnz == 0
    assert depth == 3


def test_nodes_without_children_or_weights():
    C = sp.csc_matrix(np.array([[0, 1], [0, 1], [0, 0]], np.float32))
    top = Level(
        sp.csc_matrix(np.array([[3, 1]], np.float32)), sp.csc_matrix(np.ones((2, 1), np.float32)), 0.0, 2, "noop"
    )
    leaf = Level(sp.csc_matrix((1, 3), dtype=np.float32), C, 0.0, 5, "noop")
    P = predict([top, leaf], np.ones((2, 1)))
    assert P.indptr.tolist() == [0, 2, 4] and P.indices.tolist() == [0, 1, 0, 1] and not P.data.any()
    assert predict([top, leaf], np.ones((0, 1))).shape == (0, 3)


def test_toy_case_of_pecos():
    """Two documents without a common feature, 20 labels in two clusters; scores that PECOS 1.2.8 gives.

    PECOS stops at eps 0.1, where the order of the descent still shows: hence the tolerance and our smaller eps.
    """
    x = np.zeros((2, 16), np.float32)
    x[0, :8] = x[1, 8:] = 8**-0.5
    Y = sp.csr_matrix((np.ones(2, np.float32), ([0, 1], [1, 4])), shape=(2, 20))
    leaf = sp.csc_matrix((np.ones(20, np.float32), (np.arange(20), np.arange(20) // 10)))
    chain = complete_chain(leaf, nr_splits=16, min_codes=None)
    scores = predict(train_ranker(x, Y, chain, eps=(1e-3,)), x, beam_size=10).toarray()[0]
    np.testing.assert_allclose(scores[[1, 4, 0, 10]], [0.95887, 0.0103, 0.00157, 0.00058], rtol=0.08, atol=5e-4)
    assert scores[1] == pytest.approx(0.95887, abs=4e-3)
    ranker = train_ranker(
        x, Y, chain, eps=(1e-3,), negative_sampling=("tfn+man",), only_topk=(2, 20), post_processor=("noop",)
    )
    scores = predict(ranker, x, beam_size=4, post_processor="sigmoid").toarray()[0]
    np.testing.assert_allclose(scores[[1, 4, 0, 10]], [0.46346, 0.23958, 0.20877, 0.08818], atol=4e-3)


def test_bad_input_is_refused():
    ranker, X = random_ranker(), queries()
    with pytest.raises(ValueError, match="X has 29 features, the model was trained on 30"):
        predict(ranker, X[:, :29])
    with pytest.raises(ValueError, match="post_processor='l5-hinge'"):
        predict(ranker, X, post_processor="l5-hinge")
    with pytest.raises(ValueError, match="beam_size"):
        predict(ranker, X, beam_size=0)
    with pytest.raises(ValueError, match="complete tree"):
        predict(ranker[1:], X)
    two_parents = [*ranker[:-1], ranker[-1]._replace(C=sp.csc_matrix(np.ones(ranker[-1].C.shape, np.float32)))]
    with pytest.raises(ValueError, match="more than one parent"):
        predict(two_parents, X)
