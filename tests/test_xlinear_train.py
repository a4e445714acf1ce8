import zipfile

import numba
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import minimize

from xrt_jax.sparse import Features, normalize_rows
from xrt_jax.tree.chain import aggregate_labels, complete_chain, matching_chain, part_of_tree, per_level
from xrt_jax.xlinear import level as level_module
from xrt_jax.xlinear.folder import load_ranker, save_ranker
from xrt_jax.xlinear.level import train_dense_head, train_level
from xrt_jax.xlinear.predict import predict
from xrt_jax.xlinear.solver import SOLVERS
from xrt_jax.xlinear.train import relevance_chain, train_ranker, train_to_folder

N, D, L, K = 60, 12, 9, 3


def problem(seed=0):
    """X [N, D], Y [N, L] without empty labels, C [L, K] with scattered labels, M [N, K] that misses some positives."""
    rng = np.random.default_rng(seed)
    X = normalize_rows(sp.random(N, D, 0.4, format="csr", dtype=np.float32, random_state=seed))
    Y = sp.csr_matrix((rng.random((N, L)) < 0.15).astype(np.float32))
    C = sp.csc_matrix((np.ones(L, np.float32), (np.arange(L), np.arange(L) % K)))
    M = sp.csr_matrix((rng.random((N, K)) < 0.5).astype(np.float32))
    return X, Y, C, M


def objective(w, X, y, cost, bias):
    margin = y * (X @ w[:-1] + bias * w[-1])
    return 0.5 * w @ w + (cost * np.maximum(0, 1 - margin) ** 2).sum()


def slow_weights(X, Y, C, M, label, R=None, Cp=1.0, Cn=1.0, bias=1.0):
    """Minimiser over the instances that the label is trained on, its objective, and that objective as a function."""
    parent = C[[label]].toarray().argmax()
    positive = Y[:, [label]].toarray().ravel() > 0
    rows = np.flatnonzero(positive | (M[:, [parent]].toarray().ravel() > 0))
    y = np.where(positive[rows], 1.0, -1.0)
    cost = np.where(positive[rows], Cp * (1 if R is None else R[:, [label]].toarray().ravel()[rows]), Cn)
    function = lambda w: objective(w, X.toarray()[rows].astype(float), y, cost, bias)  # noqa: E731
    best = minimize(function, np.zeros(X.shape[1] + 1), method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10})
    return best.x, best.fun, function


@pytest.mark.parametrize("Cp, Cn, bias", [(1.0, 1.0, 1.0), (5.0, 0.5, 1.0), (1.0, 2.0, 0.5)])
def test_descent_finds_the_minimum(Cp, Cn, bias):
    X, Y, C, M = problem()
    W = train_level(X, Y, C, M, Cp=Cp, Cn=Cn, bias=bias, threshold=0.0, eps=1e-6, max_iter=5000).toarray()
    assert W.shape == (D + 1, L) and W.dtype == np.float32
    for label in range(L):
        w, least, function = slow_weights(X, Y, C, M, label, Cp=Cp, Cn=Cn, bias=bias)
        assert function(W[:, label].astype(float)) == pytest.approx(least, rel=1e-6)
        np.testing.assert_allclose(W[:, label], w, atol=1e-3)


def test_l1_loss_finds_the_minimum():
    X, Y, C, M = problem(2)
    settings = {"Cp": 3.0, "threshold": 0.0, "eps": 1e-6, "max_iter": 5000}
    W = train_level(X, Y, C, M, solver="L2R_L1LOSS_SVC_DUAL", **settings).toarray()
    for label in range(L):
        positive = Y[:, [label]].toarray().ravel() > 0
        rows = np.flatnonzero(positive | (M[:, [label % K]].toarray().ravel() > 0))
        y, upper = np.where(positive[rows], 1.0, -1.0), np.where(positive[rows], 3.0, 1.0)
        signed = y[:, None] * np.hstack([X.toarray()[rows], np.ones((len(rows), 1))]).astype(float)
        Q, dual = signed @ signed.T, np.zeros(len(rows))
        for i in np.tile(np.arange(len(rows)), 2000):
            dual[i] = np.clip(dual[i] - (Q[i] @ dual - 1) / Q[i, i], 0, upper[i])
        w = W[:, label].astype(float)
        primal = 0.5 * w @ w + (upper * np.maximum(0, 1 - signed @ w)).sum()
        assert primal == pytest.approx(dual.sum() - 0.5 * dual @ Q @ dual, rel=1e-5)
        np.testing.assert_allclose(w, signed.T @ dual, atol=1e-3)


def test_more_siblings_than_lanes_and_instances_outside_the_cluster():
    """Groups of siblings give what each label gives alone, to the solver's tolerance."""
    rng = np.random.default_rng(5)
    X = normalize_rows(sp.random(150, 40, 0.2, format="csr", dtype=np.float32, random_state=5))
    Y = sp.csr_matrix((rng.random((150, 37)) < 0.1).astype(np.float32))
    C, M = sp.csc_matrix(np.ones((37, 1), np.float32)), sp.csr_matrix((rng.random((150, 1)) < 0.5).astype(np.float32))
    exact = {"threshold": 0.0, "eps": 1e-6, "max_iter": 5000}
    W = train_level(X, Y, C, M, **exact).toarray()
    for label in (0, 15, 16, 36):
        alone = train_level(X, Y[:, [label]], C[[label]], M, **exact).toarray()
        np.testing.assert_allclose(W[:, [label]], alone, atol=1e-5)


def test_relevance_is_the_cost_of_a_positive():
    X, Y, C, M = problem(1)
    R = Y.copy()
    R.data = np.random.default_rng(0).uniform(0.2, 4, Y.nnz).astype(np.float32)
    R.data[:5] = 0
    W = train_level(X, Y, C, M, R=R, threshold=0.0, eps=1e-6, max_iter=5000).toarray()
    for label in range(L):
        np.testing.assert_allclose(W[:, label], slow_weights(X, Y, C, M, label, R=R)[0], atol=1e-3)


def test_cost_2_equals_relevance_2():
    X, Y, C, M = problem(2)
    by_cost = train_level(X, Y, C, M, Cp=2.0)
    by_relevance = train_level(X, Y, C, M, R=Y * 2)
    assert abs(by_cost - by_relevance).max() == 0 and abs(by_cost - train_level(X, Y, C, M)).max() > 0.01


def test_no_bias_row_without_bias():
    X, Y, C, M = problem()
    W = train_level(X, Y, C, M, bias=0.0, threshold=0.0, eps=1e-6, max_iter=5000).toarray()
    assert W.shape == (D, L)
    w = slow_weights(X, Y, C, M, 4, bias=0.0)[0]
    np.testing.assert_allclose(W[:, 4], w[:-1], atol=1e-3)


def test_sparse_dense_and_mixed_features_agree():
    X, Y, C, M = problem()
    dense = X.toarray()
    exact = {"threshold": 0.0, "eps": 1e-6, "max_iter": 5000}
    expected = train_level(X, Y, C, M, **exact).toarray()
    for same in (dense, Features(X[:, :7], dense[:, 7:]), X.tocsc()):
        np.testing.assert_allclose(train_level(same, Y, C, M, **exact).toarray(), expected, atol=1e-4)


def test_threshold_drops_small_weights():
    X, Y, C, M = problem()
    full, cut = train_level(X, Y, C, M, threshold=0.0).toarray(), train_level(X, Y, C, M, threshold=0.3)
    np.testing.assert_array_equal(cut.toarray(), np.where(np.abs(full) >= 0.3, full, 0))
    assert 0 < cut.nnz < np.count_nonzero(full) and cut.has_sorted_indices and cut.nnz == cut.count_nonzero()


def test_max_nonzeros_keeps_the_largest():
    X, Y, C, M = problem()
    full, cut = (
        train_level(X, Y, C, M, threshold=0.0).toarray(),
        train_level(X, Y, C, M, threshold=0.0, max_nonzeros_per_label=3).toarray(),
    )
    for label in range(L):
        largest = np.sort(np.argsort(-np.abs(full[:, label]), kind="stable")[:3])
        assert np.flatnonzero(cut[:, label]).tolist() == largest.tolist()
        np.testing.assert_array_equal(cut[largest, label], full[largest, label])


def test_labels_without_parent_or_positives():
    X, Y, C, M = problem()
    C = C.tolil()
    C[4] = 0
    Y = Y.tolil()
    Y[:, 1] = 0
    # solved to convergence: siblings share the order of their visits, so a missing one changes the last digits
    exact = {"threshold": 0.0, "eps": 1e-6, "max_iter": 5000}
    W = train_level(X, Y.tocsr(), C.tocsc(), M, **exact).toarray()
    whole = train_level(X, Y.tocsr(), problem()[2], M, **exact).toarray()
    assert not W[:, 4].any() and whole[:, 4].any()
    np.testing.assert_allclose(np.delete(W, 4, axis=1), np.delete(whole, 4, axis=1), atol=1e-5)
    assert W[-1, 1] < 0  # only negatives: the bias says no


def test_stored_zeros_of_y_are_positives():
    X, Y, C, M = problem()
    zeros = Y.copy()
    zeros.data[:] = 0
    assert abs(train_level(X, zeros, C, M) - train_level(X, Y, C, M)).max() == 0


def test_result_does_not_depend_on_threads():
    rng = np.random.default_rng(0)
    X = Features(
        sp.random(400, 300, 0.05, format="csr", dtype=np.float32, random_state=0),
        rng.normal(size=(400, 3)).astype(np.float32),
    )
    Y = sp.random(400, 90, 0.02, format="csr", dtype=np.float32, random_state=1)
    chain = complete_chain(
        sp.csc_matrix((np.ones(90, np.float32), (np.arange(90), np.arange(90) // 12))), nr_splits=4, min_codes=None
    )
    settings = {"negative_sampling": ("tfn", "tfn+man", "man"), "only_topk": (2, 3, 4), "Cp": (3.0,)}
    threads, rankers = numba.get_num_threads(), []
    try:
        for n in (1, threads):
            numba.set_num_threads(n)
            rankers.append(train_ranker(X, Y, chain, **settings))
    finally:
        numba.set_num_threads(threads)
    for ranker in rankers[1:]:
        for a, b in zip(rankers[0], ranker, strict=True):
            assert a.W.nnz == b.W.nnz > 0 and (a.W != b.W).nnz == 0


def test_dense_head():
    X, Y, C, M = problem()
    W, b = train_dense_head(X.toarray(), Y, C, M, eps=1e-5, max_iter=20000)
    assert W.shape == (L, D) and b.shape == (L,) and W.dtype == b.dtype == np.float32
    _, least, function = slow_weights(X, Y, C, M, 2, Cp=100.0, Cn=100.0)
    assert function(np.append(W[2], b[2]).astype(float)) == pytest.approx(least, rel=1e-4)


def test_bad_levels_are_refused():
    X, Y, C, M = problem()
    with pytest.raises(ValueError, match="X has 59 rows"):
        train_level(X[:-1], Y, C, M)
    with pytest.raises(ValueError, match="M 2 clusters"):
        train_level(X, Y, C, M[:, :2])
    with pytest.raises(ValueError, match="label 0 has 3 parents"):
        train_level(X, Y, sp.csc_matrix(np.ones((L, K))), M)
    with pytest.raises(ValueError, match="Cn=0"):
        train_level(X, Y, C, M, Cn=0)
    with pytest.raises(ValueError, match="choose one of L2R_L2LOSS_SVC_DUAL"):
        train_level(X, Y, C, M, solver="L3")
    with pytest.raises(ValueError, match="pattern of Y"):
        train_level(X, Y, C, M, R=sp.csr_matrix(np.ones(Y.shape)))
    with pytest.raises(ValueError, match="no negative value"):
        train_level(X, Y, C, M, R=-Y)


# ---------------------------------------------------------------------------- the tree


def two_levels():
    X, Y, C, _ = problem()
    return X, Y, complete_chain(C, nr_splits=3, min_codes=None)


def test_ranker_levels_are_trained_on_the_right_instances():
    X, Y, chain = two_levels()
    top, leaf = train_ranker(
        X, Y, chain, Cp=(1.0, 3.0), threshold=(0.05, 0.2), only_topk=(2, 4), post_processor=("sigmoid", "noop")
    )
    Y_top, Y_leaf = aggregate_labels(Y, chain)
    assert abs(top.W - train_level(X, Y_top, chain[0], np.ones((N, 1)), threshold=0.05)).max() == 0
    assert abs(leaf.W - train_level(X, Y_leaf, chain[1], Y_top, Cp=3.0, threshold=0.2)).max() == 0
    assert (top.only_topk, leaf.only_topk, top.post_processor, leaf.post_processor) == (2, 4, "sigmoid", "noop")


@pytest.mark.parametrize("scheme", ["man", "tfn+man"])
def test_matcher_aware_negatives(scheme):
    X, Y, chain = two_levels()
    top, leaf = train_ranker(X, Y, chain, negative_sampling=("tfn", scheme), only_topk=(1, 4))
    M = (predict([top], X, only_topk=1) > 0).astype(np.float32)
    if scheme == "tfn+man":
        M = M + aggregate_labels(Y, chain)[0]
    assert abs(leaf.W - train_level(X, Y, chain[1], M)).max() == 0
    assert abs(leaf.W - train_ranker(X, Y, chain)[1].W).max() > 0


def test_relevance_chain_by_hand():
    chain = complete_chain(sp.csc_matrix([[1, 0], [1, 0], [0, 1]]), nr_splits=2, min_codes=None)
    Y = sp.csr_matrix(np.array([[5, 1, 1], [0, 0, 2]], np.float32))
    top, leaf = relevance_chain(Y, None, chain, "induce", "l1")
    np.testing.assert_allclose(top.toarray(), [[2 / 3, 1 / 3], [0, 1]], rtol=1e-6)
    np.testing.assert_allclose(leaf.toarray(), [[1 / 3] * 3, [0, 0, 1]], rtol=1e-6)
    assert relevance_chain(Y, Y, chain, "induce", "no-norm")[0].toarray().tolist() == [[6, 1], [0, 2]]
    np.testing.assert_allclose(
        relevance_chain(Y, Y, chain, "induce", "max")[0].toarray(), [[1, 1 / 6], [0, 1]], rtol=1e-6
    )
    np.testing.assert_allclose(
        relevance_chain(Y, Y, chain, "induce", "l2")[0].toarray()[0], np.array([6, 1]) / 37**0.5, rtol=1e-6
    )
    assert relevance_chain(Y, Y, chain, "ranker-only", "no-norm")[0] is None
    assert relevance_chain(Y, Y, chain, "disable", "l1") == [None, None]


def test_induced_relevance_equals_cost():
    X, Y, chain = two_levels()
    Y_top = aggregate_labels(Y, chain)[0]
    one_label = sp.csr_matrix(Y.multiply(np.asarray(Y.sum(axis=1)) == 1))  # so that upper relevances are 2 as well
    one_label.eliminate_zeros()
    assert one_label.nnz > 10 and Y_top.max() > 1
    by_cost = train_ranker(X, one_label, chain, Cp=(2.0,))
    by_relevance = train_ranker(X, one_label, chain, rel_mode="induce", R=one_label * 2)
    for a, b in zip(by_cost, by_relevance, strict=True):
        assert abs(a.W - b.W).max() == 0


def test_settings_per_level():
    assert per_level("Cp", (1,), 3) == (1, 1, 1) and per_level("Cp", [1, 2, 3], 3) == (1, 2, 3)
    X, Y, chain = two_levels()
    assert [level.post_processor for level in train_ranker(X, Y, chain, post_processor=("l5-hinge",))] == [
        "l5-hinge"
    ] * 2
    with pytest.raises(ValueError, match=r"eps has 3 values .* 2 levels"):
        train_ranker(X, Y, chain, eps=(0.1, 0.1, 0.1))
    for key, value in {
        "negative_sampling": ("tfn+tfn",),
        "post_processor": ("l9",),
        "rel_mode": "all",
        "rel_norm": "l3",
    }.items():
        with pytest.raises(ValueError, match=rf"^ranker\.{key}(=| is)"):
            train_ranker(X, Y, chain, **{"rel_mode": "induce", key: value})
    for key, value in {
        "solver": "SVM",
        "Cp": 0.0,
        "Cn": np.nan,
        "eps": (0.1, -1.0),
        "newton_eps": 0,
        "max_iter": 0,
        "threshold": -0.1,
        "max_nonzeros_per_label": -1,
        "bias": np.inf,
        "only_topk": (0,),
    }.items():
        with pytest.raises(ValueError, match=rf"^ranker\.{key}(=| is)"):
            train_ranker(X, Y, chain, **{key: value})
    with pytest.raises(ValueError, match=r"usn, which needs data\.matches"):
        train_ranker(X, Y, chain, negative_sampling=("usn+tfn",))
    with pytest.raises(ValueError, match="C1 has 1 columns, but C0 has 9 rows"):
        train_ranker(X, Y, chain[::-1])


def test_progress_counts_all_work():
    X, Y, chain = two_levels()
    done = {}

    class Bar:
        def __init__(self, total, desc):
            self.desc = desc
            done[desc] = [total, 0]

        def update(self, n):
            done[self.desc][1] += n

        def close(self):
            pass

    train_ranker(X, Y, chain, negative_sampling=("man",), progress=Bar)
    assert set(done) == {"training 3 classifiers", "scoring 3 nodes", "training 9 classifiers"}
    assert all(total == count > 0 for total, count in done.values())
    done.clear()
    train_ranker(X, Y, chain, progress=Bar)
    assert list(done) == ["training 12 classifiers"]  # both levels at once


# ---------------------------------------------------------------------------- other solvers


def instances_of(X, Y, C, M, label):
    """Rows [x, 1] that the label is trained on, their ±1."""
    parent = C[[label]].toarray().argmax()
    positive = Y[:, [label]].toarray().ravel() > 0
    rows = np.flatnonzero(positive | (M[:, [parent]].toarray().ravel() > 0))
    signs = np.where(positive[rows], 1.0, -1.0)
    return np.hstack([X.toarray()[rows], np.ones((len(rows), 1))]).astype(float), signs


@pytest.mark.parametrize("Cp, Cn", [(1.0, 1.0), (8.0, 0.5)])
def test_logistic_dual_finds_the_minimum(Cp, Cn):
    X, Y, C, M = problem(3)
    W = train_level(X, Y, C, M, solver="L2R_LR_DUAL", Cp=Cp, Cn=Cn, threshold=0.0, eps=1e-6, max_iter=3000).toarray()
    for label in range(L):
        A, y = instances_of(X, Y, C, M, label)
        cost = np.where(y > 0, Cp, Cn)
        function = lambda w: 0.5 * w @ w + (cost * np.logaddexp(0, -y * (A @ w))).sum()  # noqa: B023, E731
        w = minimize(function, np.zeros(D + 1), method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10}).x
        np.testing.assert_allclose(W[:, label], w, atol=1e-3)


@pytest.mark.parametrize("kind", ["sparse", "dense", "both"])
def test_primal_and_dual_agree(kind):
    X, Y, C, M = problem(4)
    X = {"sparse": X, "dense": X.toarray(), "both": Features(X[:, :7], X.toarray()[:, 7:])}[kind]
    settings = {"Cp": 3.0, "threshold": 0.0}
    dual = train_level(X, Y, C, M, eps=1e-6, max_iter=5000, **settings).toarray()
    primal = train_level(X, Y, C, M, solver="L2R_L2LOSS_SVC_PRIMAL", newton_eps=1e-6, **settings).toarray()
    np.testing.assert_allclose(primal, dual, atol=1e-3)
    rough = train_level(X, Y, C, M, solver="L2R_L2LOSS_SVC_PRIMAL", newton_eps=0.5, **settings).toarray()
    assert np.abs(rough - dual).max() > 1e-3


@pytest.mark.parametrize("solver", SOLVERS)
def test_features_of_one_row_alone(solver):
    """Weights that are not stored while solving come out as they would (instances.py); all dense ones are stored."""
    rng = np.random.default_rng(7)
    shared = sp.random(140, 6, 0.5, format="csr", random_state=7)
    X = sp.hstack([shared, sp.diags(rng.uniform(0.5, 1, 140))]).tocsr()[:, rng.permutation(146)]
    X = normalize_rows(sp.csr_matrix(X, dtype=np.float32))
    used = np.arange(140)[:, None] % 7 == 0  # few enough to be gathered
    Y, M = (
        sp.csr_matrix(((rng.random((140, 3)) < 0.3) & used) * 1.0),
        sp.csr_matrix((used & (rng.random((140, 1)) < 0.7)) * 1.0),
    )
    C, settings = (
        np.ones((3, 1)),
        {"solver": solver, "threshold": 0.0, "eps": 1e-5, "newton_eps": 1e-5, "max_iter": 3000},
    )
    W = train_level(X, Y, C, M, **settings).toarray()
    assert (W != 0).any(axis=1).sum() > 20
    np.testing.assert_allclose(W, train_level(X.toarray(), Y, C, M, **settings).toarray(), atol=1e-3)


def test_a_cap_on_the_weights_keeps_the_largest_own_ones_too():
    X, Y, C, M = problem(8)
    few = sp.diags((np.arange(N) < 14).astype(np.float32))  # few enough to be gathered
    Y, M = sp.csr_matrix(few @ Y), sp.csr_matrix(few @ M)
    everything = train_level(X, Y, C, M, threshold=0.0).toarray()
    capped = train_level(X, Y, C, M, threshold=0.0, max_nonzeros_per_label=4).toarray()
    for label in range(L):
        kept = np.sort(np.argsort(-np.abs(everything[:, label]), kind="stable")[:4])
        assert np.flatnonzero(capped[:, label]).tolist() == kept.tolist()
        assert (capped[kept, label] == everything[kept, label]).all()


# ---------------------------------------------------------------------------- given negatives, parts of trees


def test_given_negatives():
    X, Y, chain = two_levels()
    given = sp.csr_matrix(np.eye(N, 3, dtype=np.float32) + np.eye(N, 3, -7, dtype=np.float32))
    matching = matching_chain({1: given}, chain)
    only = train_ranker(X, Y, chain, negative_sampling=("usn",), matching=matching)[1]
    assert abs(only.W - train_level(X, Y, chain[1], given)).max() == 0
    both = train_ranker(X, Y, chain, negative_sampling=("usn+tfn",), matching=matching)[1]
    M = given + aggregate_labels(Y, chain)[0]
    assert abs(both.W - train_level(X, Y, chain[1], M)).max() == 0
    assert abs(both.W - only.W).max() > 0


def test_matcher_and_ranker_make_the_full_model():
    X, Y, chain = two_levels()
    full = train_ranker(X, Y, chain)
    upper = train_ranker(X, *part_of_tree("matcher", 1, Y, chain))
    lower = train_ranker(X, *part_of_tree("ranker", 1, Y, chain))
    assert len(upper) == len(lower) == 1
    for a, b in zip(full, upper + lower, strict=True):
        assert a.W.nnz > 0 and abs(a.W - b.W).max() == 0 and abs(a.C - b.C).max() == 0
    with pytest.raises(ValueError, match="`matching` has nothing"):
        train_ranker(X, *part_of_tree("ranker", 1, Y, chain), negative_sampling=("man",))


# ---------------------------------------------------------------------------- to disk


def three_levels():
    rng = np.random.default_rng(3)
    X = normalize_rows(sp.random(200, 50, 0.15, format="csr", dtype=np.float32, random_state=3))
    Y = sp.csr_matrix((rng.random((200, 40)) < 0.06).astype(np.float32))
    parent = rng.permutation(40) % 8
    return X, Y, complete_chain(sp.csc_matrix((np.ones(40), (np.arange(40), parent))), nr_splits=2, min_codes=4)


@pytest.mark.parametrize("scheme", ["tfn", "tfn+man"])
@pytest.mark.parametrize("threads", [1, 2])
def test_to_disk_as_in_memory(tmp_path, scheme, threads):
    X, Y, chain = three_levels()
    before = numba.get_num_threads()
    numba.set_num_threads(min(threads, before))
    try:
        train_to_folder(tmp_path / "model", X, Y, chain, negative_sampling=(scheme,), only_topk=(2, 2, 9))
    finally:
        numba.set_num_threads(before)
    in_memory = train_ranker(X, Y, chain, negative_sampling=(scheme,), only_topk=(2, 2, 9))
    for a, b in zip(in_memory, load_ranker(tmp_path / "model"), strict=True):
        assert a[2:] == b[2:] and a.W.nnz > 0
        for A, B in ((a.W, b.W), (a.C, b.C)):
            assert A.shape == B.shape
            assert all((getattr(A, part) == getattr(B, part)).all() for part in ("indptr", "indices", "data"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    save_ranker(tmp_path / "again", in_memory)
    for level in range(3):
        files = [(tmp_path / name / f"ranker/{level}.model/W.npz") for name in ("model", "again")]
        members = [{i.filename: i.CRC for i in zipfile.ZipFile(file).infolist()} for file in files]
        assert members[0] == members[1]


class KilledError(Exception):
    pass


def killed_after(nr_updates):
    """A progress that raises after so many updates, as a kill between two clusters would."""

    class Bar:
        def __init__(self, total, desc):
            self.left = nr_updates

        def update(self, n):
            self.left -= 1
            if self.left < 0:
                raise KilledError

        def close(self):
            pass

    return Bar


def test_a_killed_training_goes_on_with_the_missing_clusters(tmp_path, monkeypatch):
    X, Y, chain = three_levels()
    expected = train_ranker(X, Y, chain)
    solved = []
    solve_job = level_module.solve_job
    monkeypatch.setattr(level_module, "solve_job", lambda *task: solved.append(task[1]) or solve_job(*task))
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        with pytest.raises(KilledError):
            train_to_folder(tmp_path / "model", X, Y, chain, progress=killed_after(5))
        assert not (tmp_path / "model").exists() and len(solved) == 6
        files = sorted((tmp_path / "model.training").glob("*.parts.*"), key=lambda path: path.stat().st_size)
        with open(files[-1], "r+b") as file:  # the kill may have cut a record short
            file.truncate(files[-1].stat().st_size - 3)
        solved.clear()
        train_to_folder(tmp_path / "model", X, Y, chain)
    finally:
        numba.set_num_threads(before)
    nr_jobs = 1 + 4 + 8
    assert len(solved) == nr_jobs - 5 + 1
    assert not (tmp_path / "model.training").exists()
    for a, b in zip(expected, load_ranker(tmp_path / "model"), strict=True):
        assert (a.W != b.W).nnz == 0


def test_an_unfinished_training_of_another_problem_is_not_taken_up(tmp_path):
    X, Y, chain = three_levels()
    relevances = [Y * 2, Y.multiply(np.linspace(0.5, 2, 200)[:, None]).tocsr()]  # of one shape and pattern
    given = [matching_chain({1: sp.eye(200, 8, -shift)}, chain) for shift in (0, 5)]
    first = {"R": relevances[0], "rel_mode": "induce", "negative_sampling": ("usn+tfn",), "matching": given[0]}
    for change in ({"Cp": 2.0}, {"R": relevances[1]}, {"matching": given[1]}):
        with pytest.raises(KilledError):
            train_to_folder(tmp_path / "model", X, Y, chain, progress=killed_after(5), **first)
        train_to_folder(tmp_path / "model", X, Y, chain, **first | change)
        expected = train_ranker(X, Y, chain, **first | change)
        for a, b in zip(expected, load_ranker(tmp_path / "model"), strict=True):
            assert (a.W != b.W).nnz == 0
        assert any((a.W != b.W).nnz for a, b in zip(expected, train_ranker(X, Y, chain, **first), strict=True))
