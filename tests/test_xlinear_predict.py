import numba
import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.sparse import Features
from xrt_jax.tree.chain import complete_chain
from xrt_jax.xlinear import predict as predict_module
from xrt_jax.xlinear.level import Level
from xrt_jax.xlinear.postprocess import POST_PROCESSORS, combine, parse, transform
from xrt_jax.xlinear.predict import predict, predict_selected, prepare
from xrt_jax.xlinear.train import train_ranker

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


def test_other_exponents_and_old_names_of_post_processors():
    X = queries()
    for name in ("l5-hinge", "log-l7-hinge"):
        ranker = random_ranker(post_processor=name)
        P = predict(ranker, X, beam_size=2, only_topk=5)
        for i, x in enumerate(X.toarray().astype(float)):
            expected = slow_predict(ranker, x, [2, 2, 5])
            np.testing.assert_allclose(
                P.data[5 * i : 5 * i + 5], [score for _, score in expected], rtol=1e-4, atol=1e-6
            )
    for old, name in ((True, "l3-hinge"), ("True", "l3-hinge"), (False, "noop"), (None, "noop")):
        ranker = random_ranker(post_processor=old)
        assert (predict(ranker, X) != predict(ranker, X, post_processor=name)).nnz == 0


def formula(name, v):
    """Transformed raw scores, float64."""
    if "hinge" in name:
        loss = np.maximum(0, 1 - v) ** int(name[-len("1-hinge")])
        return -loss if name.startswith("log") else np.exp(-loss)
    return {"noop": v, "sigmoid": 1 / (1 + np.exp(-v)), "log-sigmoid": -np.log(1 + np.exp(-v))}[name]


@pytest.mark.parametrize("name", POST_PROCESSORS)
def test_post_processors_against_their_formulas(name):
    (kind, power), parents = parse(name), np.linspace(-2, 2, 40, dtype=np.float32)
    for v, parent in zip(np.linspace(-3, 3, 40), parents, strict=True):
        child = formula(name, v)
        assert transform(v, kind, power) == pytest.approx(child, rel=1e-12)
        expected = child if name == "noop" else child + parent if name.startswith("log") else child * parent
        assert combine(transform(v, kind, power), parent, kind) == pytest.approx(expected, rel=1e-6, abs=1e-37)


@pytest.mark.parametrize("name", POST_PROCESSORS)
@pytest.mark.parametrize("size", [1e20, 3e38])
def test_huge_features_give_finite_scores(name, size):
    X = queries().toarray()
    P = predict(random_ranker(post_processor=name), np.where(X > 0.5, size, -size * (X > 0)))
    assert P.nnz and np.isfinite(P.data).all()
    if name != "log-l1-hinge":  # there, sums of what float32 cannot hold are equal
        assert (np.diff(P.data.reshape(25, -1), axis=1) <= 0).all()


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


def test_queries_of_any_integer_and_float_type_order_and_with_repeats():
    ranker, X = random_ranker(), queries()
    expected = predict(ranker, X).toarray()
    twice = sp.csr_matrix((np.repeat(X.data / 2, 2), np.repeat(X.indices, 2), 2 * X.indptr), shape=X.shape)
    backwards = sp.csr_matrix((X.data[::-1], X.indices[::-1], X.nnz - X.indptr[::-1]), shape=X.shape)
    backwards.has_sorted_indices = False
    for same in (twice, X.tocsc(), X.tocoo(), X.astype(np.float64), sp.csr_array(X)):
        np.testing.assert_allclose(predict(ranker, same).toarray(), expected, rtol=1e-5)
    np.testing.assert_allclose(predict(ranker, backwards).toarray()[::-1], expected, rtol=1e-5)
    wide = X.copy()
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    np.testing.assert_array_equal(predict(ranker, wide).toarray(), expected)


@pytest.mark.parametrize("nr_children", [3, 16, 300])
@pytest.mark.parametrize("d", [70, 40_000])
def test_features_with_few_and_many_weights(nr_children, d):
    """Every kind of feature in a chunk, and hash slots for all blocks of features or only for some."""
    rng = np.random.default_rng(d)
    used = rng.choice(d, 60, replace=False)
    W = np.zeros((d + 1, nr_children), np.float32)
    for i, feature in enumerate([*used, d]):
        children = rng.choice(nr_children, min(i + 1, nr_children), replace=False)
        W[feature, children] = rng.standard_normal(len(children))
    X = np.zeros((9, d), np.float32)
    X[:, used] = rng.standard_normal((9, 60))
    X[:, rng.choice(d, 30)] += 1
    level = Level(sp.csc_matrix(W), sp.csc_matrix(np.ones((nr_children, 1), np.float32)), 0.5, nr_children, "noop")
    expected = X.astype(float) @ W[:d] + 0.5 * W[d]
    for nr_dense in (0, 20, d):
        prepared = prepare([level], nr_dense)
        for same in (sp.csr_matrix(X), Features(sp.csr_matrix(X[:, :-20]), X[:, -20:]), X):
            np.testing.assert_allclose(predict(prepared, same).toarray(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(40))
def test_trees_of_any_shape(seed):
    """Labels without parent, parents without children, empty rows, one label, beams wider than the level."""
    rng = np.random.default_rng(seed)
    bias, nr_codes, ranker = float(rng.integers(0, 2)), 1, []
    for _ in range(rng.integers(1, 4)):
        nr_nodes = int(rng.integers(1, 12))
        parent = rng.integers(0, nr_codes, nr_nodes)
        C = np.zeros((nr_nodes, nr_codes), np.float32)
        C[np.arange(nr_nodes), parent] = rng.random(nr_nodes) > 0.15
        W = sp.random(D + (bias > 0), nr_nodes, rng.choice([0.02, 0.3, 0.9]), format="csc", random_state=rng)
        W.data -= 0.5
        ranker.append(Level(W, sp.csc_matrix(C), bias, 4, str(rng.choice([*POST_PROCESSORS]))))
        nr_codes = nr_nodes
    X = sp.random(6, D, 0.2, format="csr", dtype=np.float32, random_state=rng).toarray()
    X[rng.random(6) > 0.7] = 0
    topk = [int(rng.integers(1, 15))] * (len(ranker) - 1) + [int(rng.integers(1, 15))]
    P = predict(ranker, sp.csr_matrix(X), beam_size=topk[0], only_topk=topk[-1])
    assert P.shape == (6, nr_codes)
    for i, x in enumerate(X.astype(float)):
        expected = slow_predict(ranker, x, topk)
        row = slice(P.indptr[i], P.indptr[i + 1])
        np.testing.assert_allclose(P.data[row], [score for _, score in expected], rtol=1e-4, atol=1e-6)
        assert P.indices[row].tolist() == [label for label, _ in expected]
    assert predict(ranker, sp.csr_matrix(X)[:0]).shape == (0, nr_codes)


@pytest.mark.parametrize("name", POST_PROCESSORS)
def test_codes_continue_a_search(name):
    ranker, X = random_ranker(post_processor=name), queries()
    upper = predict(ranker[:1], X, only_topk=2)
    expected = predict(ranker, X, beam_size=2, only_topk=6)
    found = predict(ranker[1:], X, beam_size=2, only_topk=6, codes=upper)
    np.testing.assert_allclose(found.toarray(), expected.toarray(), rtol=1e-6)
    with pytest.raises(ValueError, match=r"codes: shape \(25, 2\)"):
        predict(ranker[1:], X, codes=upper[:, :2])


@pytest.mark.parametrize("name", POST_PROCESSORS)
def test_selected_labels_against_a_full_search(name):
    ranker, X = random_ranker(post_processor=name), queries()
    selected = sp.random(25, L, 0.2, format="csr", random_state=3)
    full = predict(ranker, X, beam_size=L, only_topk=L)
    P = predict_selected(ranker, X, selected)
    assert P.shape == (25, L) and P.dtype == np.float32
    for i in range(25):
        wanted, row = set(selected[i].indices), slice(P.indptr[i], P.indptr[i + 1])
        in_full = slice(full.indptr[i], full.indptr[i + 1])
        pairs = zip(full.indices[in_full], full.data[in_full], strict=True)
        expected = [(label, score) for label, score in pairs if label in wanted]
        assert list(zip(P.indices[row], P.data[row], strict=True)) == expected


def test_selected_labels_that_cannot_be_reached_are_left_out():
    ranker, X = random_ranker(), queries()
    codes = predict(ranker[:1], X, only_topk=1)
    everything = np.ones((25, L))
    P = predict_selected(ranker[1:], X, everything, codes=codes)
    expected = predict(ranker[1:], X, beam_size=L, only_topk=L, codes=codes)
    assert 0 < P.nnz < 25 * L
    np.testing.assert_array_equal(P.indices, expected.indices)
    np.testing.assert_array_equal(P.data, expected.data)
    C = ranker[-1].C.tolil()
    C[7] = 0
    P = predict_selected([*ranker[:-1], ranker[-1]._replace(C=C.tocsc())], X, everything)
    assert P.nnz == 25 * (L - 1) and 7 not in P.indices
    assert predict_selected(ranker, X[:0], everything[:0]).shape == (0, L)
    assert predict_selected(ranker, X, 0 * everything).nnz == 0
    with pytest.raises(ValueError, match=r"selected: shape \(25, 39\)"):
        predict_selected(ranker, X, everything[:, 1:])


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
    for name in ("l0-hinge", "hinge", "softmax", 3, ("noop",)):
        with pytest.raises(ValueError, match="post_processor="):
            predict(ranker, X, post_processor=name)
    for count in (0, -1, 2.0, "2", True, np.float32(3)):
        for part in (ranker, ranker[:1]):
            with pytest.raises(ValueError, match="beam_size="):
                predict(part, X, beam_size=count)
            with pytest.raises(ValueError, match="only_topk="):
                predict(part, X, only_topk=count)
        with pytest.raises(ValueError, match="only_topk of level 1="):
            predict([ranker[0], ranker[1]._replace(only_topk=count), ranker[2]], X)
    for wrong in (None, np.ones(D), np.ones((1, 2, D)), [1.0] * D):
        with pytest.raises(ValueError, match="X must have two axes"):
            predict(ranker, wrong)
    for wrong in (np.nan, np.inf, -np.inf):
        for row in (X[3].toarray(), X[3].copy()):
            (row if isinstance(row, np.ndarray) else row.data)[..., 0] = wrong
            with pytest.raises(ValueError, match="row 0 holds NaN or infinity"):
                predict(ranker, row)
    for name, value in (("indices", D), ("indices", -1), ("indptr", 10**6)):
        row = X[3].copy()
        getattr(row, name)[-1] = value
        with pytest.raises(ValueError, match="build the matrix again"):
            predict(ranker, row)
    with pytest.raises(ValueError, match="level 1 does not start from the nodes of level 0"):
        predict([ranker[0], ranker[2]], X)
    with pytest.raises(ValueError, match="no level"):
        predict([], X)
    with pytest.raises(ValueError, match="complete tree"):
        predict(ranker[1:], X)
    two_parents = [*ranker[:-1], ranker[-1]._replace(C=sp.csc_matrix(np.ones(ranker[-1].C.shape, np.float32)))]
    with pytest.raises(ValueError, match="more than one parent"):
        predict(two_parents, X)
