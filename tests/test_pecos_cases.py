"""The acceptance cases of PECOS's own tests, with the numbers that they assert, without PECOS.

The toy problem: two documents without a common feature, eight entries of 8^-½ each (which columns does not matter), 20
labels, one on each document. PECOS 1.2.8 was run on it for the digits that its tests do not print.

PECOS stops at eps 0.1 here, far enough from the solution that the order in which the two instances are visited shows in
the third digit, and it visits them in their order in every pass. Ours shuffles them: at eps 0.1 it stops elsewhere
(where a weight of 0.098 falls under the threshold of 0.1). So ours is compared with PECOS at the solution, and a slow
descent that visits in order, and agrees with ours at the solution, is compared with what PECOS's tests assert.
"""

import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.metrics import precision_recall
from xrt_jax.tree.chain import aggregate_labels, complete_chain, load_chain, matching_chain, save_chain
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.label_embedding import label_embedding, pifa
from xrt_jax.xlinear.level import Level, train_level
from xrt_jax.xlinear.predict import predict, predict_selected
from xrt_jax.xlinear.solver import SOLVERS
from xrt_jax.xlinear.train import train_ranker

SOLVED = {"eps": 1e-6, "newton_eps": 1e-6, "max_iter": 10000}


def toy():
    """X csr [2, 16], Y csr [2, 20]."""
    X = np.zeros((2, 16), np.float32)
    X[0, :8] = X[1, 8:] = 8**-0.5
    return sp.csr_matrix(X), sp.csr_matrix((np.ones(2, np.float32), ([0, 1], [1, 4])), shape=(2, 20))


def leaves(sizes) -> sp.csc_matrix:
    """Labels in their order in leaf clusters of these sizes."""
    parent = np.repeat(np.arange(len(sizes)), sizes)
    return sp.csc_matrix((np.ones(len(parent), np.float32), (np.arange(len(parent)), parent)))


TWO_CLUSTERS = complete_chain(leaves([10, 10]), nr_splits=16, min_codes=None)
# PECOS's tree with at most 2 labels a leaf: 18 labels have no positives, so that their places are its tie-breaking
SMALL_LEAVES = leaves([1, 1, 1, 2] * 4)


def slow_descent(A, signs, eps: float):
    """Dual coordinate descent for the squared hinge, cost 1, instances in their order: the weights."""
    duals, w = np.zeros(len(A)), np.zeros(A.shape[1])
    while True:
        seen = []
        for i, (row, sign) in enumerate(zip(A, signs, strict=True)):
            gradient = sign * (row @ w) - 1 + 0.5 * duals[i]
            seen.append(min(gradient, 0) if duals[i] == 0 else gradient)
            new = max(0, duals[i] - gradient / (row @ row + 0.5))
            w, duals[i] = w + (new - duals[i]) * sign * row, new
        if max(seen) - min(seen) <= eps:
            return w


def slow_ranker(X, Y, chain, eps: float, teacher_forcing: bool = True) -> list[Level]:
    """Levels trained label by label; without teacher forcing on all instances."""
    A, levels = np.hstack([X.toarray(), np.ones((X.shape[0], 1))]).astype(float), []
    for t, (C, Y_t) in enumerate(zip(chain, aggregate_labels(Y, chain), strict=True)):
        W = np.zeros((A.shape[1], C.shape[0]))
        for label in range(C.shape[0]):
            rows = np.ones(len(A), bool)
            if t > 0 and teacher_forcing:
                rows = aggregate_labels(Y, chain)[t - 1][:, C.tocsr()[label].indices].toarray().ravel() > 0
            signs = np.where(Y_t[:, [label]].toarray().ravel() > 0, 1.0, -1.0)
            if rows.any():
                W[:, label] = slow_descent(A[rows], signs[rows], eps)
        W[np.abs(W) < 0.1] = 0
        levels.append(Level(sp.csc_matrix(W.astype(np.float32)), C, 1.0, 20, "l3-hinge"))
    return levels


def labels_of(P) -> np.ndarray:
    """Scores of the first document."""
    return P.toarray()[0]


def spread(own, other, near, far):
    """Scores of the first document: its label, the other document's, the rest of their cluster, the other cluster."""
    return np.array([near, own] + [near] * 2 + [other] + [near] * 5 + [far] * 10)


def few(*scores):
    """Scores of the labels 0, 1, …, and none for the rest."""
    return np.array(scores + (0,) * (20 - len(scores)))


# name: chain, settings of training, of prediction, what PECOS's tests assert, PECOS with eps 1e-9
CASES = {
    "two clusters": (
        TWO_CLUSTERS,
        {},
        {},
        spread(0.958872, 0.010300, 0.001570, 0.000579),
        spread(0.960835, 0.009730, 0.001648, 0.000608),
    ),
    "tfn+man": (
        TWO_CLUSTERS,
        {"negative_sampling": ("tfn+man",), "only_topk": (2, 20), "post_processor": ("noop",)},
        {"beam_size": 4, "post_processor": "sigmoid"},
        spread(0.463462, 0.239579, 0.208774, 0.088184),
        spread(0.463893, 0.238171, 0.209170, 0.088766),
    ),
    "nr_splits 2": (
        complete_chain(SMALL_LEAVES, nr_splits=2, min_codes=None),
        {},
        {},
        few(0.001032, 0.941166, 0.000243, 0.000532, 0.006669, *[0.000078] * 5, *[0.000029] * 2),
        few(0.001033, 0.942831, 0.000230, 0.000503, 0.006298, *[0.000082] * 5, *[0.000030] * 2),
    ),
    "nr_splits 4": (
        complete_chain(SMALL_LEAVES, nr_splits=4, min_codes=None),
        {},
        {},
        few(0.000578, 0.951232, 0.000578, 0.000662, 0.008299, *[0.000213] * 7),
        few(0.000606, 0.953179, 0.000606, 0.000626, 0.007840, *[0.000224] * 7),
    ),
}


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize("name", CASES)
def test_solved_as_pecos_solves_it(name, kind):
    chain, training, prediction, _, expected = CASES[name]
    X, Y = toy()
    X = X if kind == "sparse" else X.toarray()
    P = predict(train_ranker(X, Y, chain, **training, **SOLVED), X, **{"beam_size": 10} | prediction)
    np.testing.assert_allclose(labels_of(P), expected, rtol=0, atol=1e-6)
    assert P.nnz == 2 * np.count_nonzero(expected)


@pytest.mark.parametrize("name", CASES)
def test_pecos_stops_where_a_descent_in_order_does(name):
    chain, _, prediction, asserted, expected = CASES[name]
    X, Y = toy()
    for eps, scores in ((0.1, asserted), (1e-9, expected)):
        ranker = slow_ranker(X, Y, chain, eps, teacher_forcing=name != "tfn+man")
        P = predict(ranker, X, **{"beam_size": 10} | prediction)
        np.testing.assert_allclose(labels_of(P), scores, rtol=0, atol=1e-6)


def test_primal_solver_at_its_own_tolerance():
    X, Y = toy()
    P = predict(train_ranker(X, Y, TWO_CLUSTERS, solver="L2R_L2LOSS_SVC_PRIMAL"), X, beam_size=10)
    np.testing.assert_allclose(labels_of(P), spread(0.96084, 0.00973, 0.00165, 0.00061), rtol=0, atol=1e-5)


def test_the_tree_of_the_toy():
    """At most 10 labels a leaf: the first ten and the last ten."""
    X, Y = toy()
    chain = hierarchical_kmeans(pifa(Y, X), max_leaf_size=10)
    assert [C.shape for C in chain] == [(2, 1), (20, 2)]
    assert {frozenset(half.tolist()) for half in np.split(chain[1].indices, [10])} == {
        frozenset(range(10)),
        frozenset(range(10, 20)),
    }


def test_trees_from_files_and_idle_matches(tmp_path):
    """A chain folder, a file of leaf clusters, and given negatives that the scheme does not name change nothing."""
    X, Y = toy()
    save_chain(tmp_path / "chain", TWO_CLUSTERS)
    sp.save_npz(tmp_path / "leaves.npz", TWO_CLUSTERS[-1])
    expected = CASES["two clusters"][-1]
    matching = matching_chain({0: Y, 1: sp.csr_matrix(np.ones((2, 2), np.float32))}, TWO_CLUSTERS)
    for path in ("chain", "leaves.npz"):
        ranker = train_ranker(X, Y, load_chain(tmp_path / path), matching=matching, **SOLVED)
        np.testing.assert_allclose(labels_of(predict(ranker, X, beam_size=10)), expected, rtol=0, atol=1e-6)


def test_selected_labels_have_the_scores_of_the_search():
    X, Y = toy()
    ranker = train_ranker(X, Y, TWO_CLUSTERS, **SOLVED)
    P = predict(ranker, X, beam_size=10)
    np.testing.assert_allclose(predict_selected(ranker, X, P).toarray(), P.toarray(), rtol=0, atol=1e-6)
    some = sp.csr_matrix((np.ones(2, np.float32), ([0, 0], [4, 15])), shape=(2, 20))
    np.testing.assert_allclose(predict_selected(ranker, X, some).toarray()[0, [4, 15]], [0.00973, 0.000608], atol=1e-6)


# ---------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize(
    "chain", [TWO_CLUSTERS, [sp.csc_matrix(np.ones((20, 1), np.float32))]], ids=["shallow", "one-versus-all"]
)
def test_evaluation(chain):
    """At the default settings; the digits are those that PECOS's command prints."""
    X, Y = toy()
    found = precision_recall(Y, predict(train_ranker(X, Y, chain), X, beam_size=10), 10)
    prec = " ".join(f"{100 * value:.2f}" for value in found["prec"])
    assert prec == "100.00 50.00 33.33 25.00 20.00 16.67 14.29 12.50 11.11 10.00"
    assert found["recall"].tolist() == [1] * 10


# ---------------------------------------------------------------------------- costs


@pytest.mark.parametrize("solver", SOLVERS)
def test_relevance_2_is_cost_2(solver):
    """From a cost of 0.2, with which the bound of the hinge loss's duals is in force."""
    X, Y = toy()
    C, M = sp.csc_matrix(np.ones((20, 1), np.float32)), sp.csr_matrix(np.ones((2, 1), np.float32))
    settings = {"solver": solver, "threshold": 0.0}
    by_cost = train_level(X, Y, C, M, Cp=0.4, **settings)
    by_relevance = train_level(X, Y, C, M, Cp=0.2, R=2 * Y, **settings)
    once = train_level(X, Y, C, M, Cp=0.2, **settings)
    assert abs(by_cost - by_relevance).max() <= 1e-9 and abs(by_cost - once).max() > 0.01


def test_induced_relevance_2_is_cost_2():
    X, Y = toy()
    by_cost = predict(train_ranker(X, Y, TWO_CLUSTERS, Cp=2.0), X)
    by_relevance = predict(train_ranker(X, Y, TWO_CLUSTERS, R=2 * Y, rel_mode="induce"), X)
    once = predict(train_ranker(X, Y, TWO_CLUSTERS), X)
    assert abs(by_cost - by_relevance).max() <= 1e-9 and abs(by_cost - once).max() > 0.01


# ---------------------------------------------------------------------------- distributed training's tree


def test_ten_documents_with_a_label_each():
    """X and Y the identity, the tree of PECOS's distributed clustering: label 8 is with 7, label 9 with 3.

    A label alone in its leaf has one instance: 2.5 · dual = 1. Two in a leaf have two: 2.5 · dual - dual = 1, where
    PECOS's eps 0.1 ends at 0.65984 and 0.663936.
    """
    eye = sp.eye(10, format="csr", dtype=np.float32)
    parent = [0, 1, 2, 3, 4, 5, 6, 7, 7, 3]
    C = sp.csc_matrix((np.ones(10, np.float32), (np.arange(10), parent)))
    chain = complete_chain(C, nr_splits=2, min_codes=None)
    assert len(chain) == 4
    W = train_ranker(eye, eye, chain, **SOLVED)[-1].W.toarray()
    for label in range(10):
        sibling = {3: 9, 9: 3, 7: 8, 8: 7}.get(label)
        expected = np.zeros(11)
        expected[label], expected[-1] = (0.4, 0.4) if sibling is None else (2 / 3, 0)
        if sibling is not None:
            expected[sibling] = -2 / 3
        np.testing.assert_allclose(W[:, label], expected, rtol=0, atol=1e-5)
    in_order = slow_ranker(eye, eye, chain, 0.1)[-1].W.toarray()
    np.testing.assert_allclose(in_order[[3, 9, -1], 3], [0.65984, -0.663936, 0], rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------- label embeddings, trees


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_label_embeddings_of_the_identity(kind):
    """X = I: PIFA is Y^T with its rows divided by the documents' norms, made unit; PII without the division."""
    Y = sp.csr_matrix(np.array([[1, 1, 0, 0, 0], [0, 1, 1, 0, 1], [0, 0, 1, 1, 0]], np.float32))
    eye = np.eye(3, dtype=np.float32)
    X = sp.csr_matrix(eye) if kind == "sparse" else eye
    dense = lambda A: A.toarray() if sp.issparse(A) else A  # noqa: E731
    a, b = 2**-0.5, 3**-0.5  # the norms of rows with 2 and 3 labels, inverted
    between = np.array([a, b, 0]) / np.hypot(a, b)
    expected = np.array([[1, 0, 0], between, [0, between[1], between[0]], [0, 0, 1], [0, 1, 0]])
    Z = label_embedding("pifa", Y, X)
    assert sp.issparse(Z) == (kind == "sparse") and Z.dtype == np.float32
    np.testing.assert_allclose(dense(Z), expected, atol=1e-6)
    unnormalised = np.array([[1, 0, 0], [a, a, 0], [0, a, a], [0, 0, 1], [0, 1, 0]])
    np.testing.assert_allclose(dense(pifa(Y, X, normalized_Y=False)), unnormalised, atol=1e-6)
    np.testing.assert_allclose(label_embedding("pii", Y, X).toarray(), unnormalised, atol=1e-6)

    features = np.arange(15, dtype=np.float32).reshape(5, 3)
    Z = sp.csr_matrix(features) if kind == "sparse" else features
    both = label_embedding("pifa_lf_concat", Y, X, Z=Z)
    np.testing.assert_allclose(dense(both), np.hstack([expected, features]), atol=1e-6)
    for alpha in (0.3, np.array([0, 0.25, 0.5, 0.75, 1])):
        mixed = label_embedding("pifa_lf_convex_combine", Y, X, Z=Z, alpha=alpha)
        share = np.broadcast_to(alpha, 5)[:, None]
        np.testing.assert_allclose(dense(mixed), share * expected + (1 - share) * features, atol=1e-5)
        assert sp.issparse(mixed) == sp.issparse(both) == (kind == "sparse")


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "min_sample_rate": 0.5}])
@pytest.mark.parametrize("seed", range(4))
def test_four_rows_in_two_clusters(kind, sampling, seed):
    Z = np.array([[1, 0], [0.95, 0.05], [0.9, 0.1], [0, 1]], np.float32)
    Z /= np.linalg.norm(Z, axis=1, keepdims=True)
    Z = sp.csr_matrix(Z) if kind == "sparse" else Z
    chains = [hierarchical_kmeans(Z, nr_splits=n, max_leaf_size=3, seed=seed, **sampling) for n in (2, 4)]
    for chain in chains:
        assert [C.shape for C in chain] == [(2, 1), (4, 2)]
        assert {tuple(half) for half in np.split(chain[-1].indices, [2])} == {(0, 1), (2, 3)}
