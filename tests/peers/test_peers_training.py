"""The same data, tree and parameters, solved to convergence on both sides: the same weights and predictions."""

import numpy as np
import pytest
import scipy.sparse as sp
from problems import L, assert_same_scores, data, queries, relevance, tree
from scipy.optimize import minimize

from xrt_jax.npz import load_npz
from xrt_jax.tree.chain import aggregate_labels, matching_chain, part_of_tree
from xrt_jax.xlinear.predict import predict
from xrt_jax.xlinear.solver import SOLVERS
from xrt_jax.xlinear.train import relevance_chain, train_ranker

EXACT = {"eps": 1e-5, "newton_eps": 1e-6, "max_iter": 3000, "threshold": 0.0}
BEAM = {"only_topk": (2, 6, L), "post_processor": ("l3-hinge",)}
TOL = 1e-3  # of weights


def pecos_levels(depth: int, **settings) -> list[dict]:
    """PECOS's settings of each level from ours, which are values or tuples."""
    several = {key: value if isinstance(value, tuple) else (value,) for key, value in settings.items()}
    return [{key: value[t % len(value)] for key, value in several.items()} for t in range(depth)]


def read_weights(folder, depth: int) -> list[sp.csc_matrix]:
    """W of every level of a PECOS model, of a whole tree or a part."""
    return [load_npz(folder / "ranker" / f"{t}.model" / "W.npz") for t in range(depth)]


def train_both(pecos, folder, *, given=None, part=("full-model", 1), R=None, rel=("disable", "no-norm"), **settings):
    """Our ranker and the weights of PECOS's levels on the problem of problems.py.

    Args:
        given: matches by height for usn.
        part: mode and ranker_level.
        rel: rel_mode and rel_norm.
        settings: mining, a tuple; those of train_level.
    """
    X, Y = data()
    mining, settings = settings.pop("mining", ("tfn",)), EXACT | settings
    mode, height = part
    Y_part, chain = part_of_tree(mode, height, Y, tree())
    depth = len(chain)
    matching = None if given is None else matching_chain(given, tree())
    if matching is not None:
        matching = matching[-depth:] if mode == "ranker" else matching[:depth]
    beam = {key: value[:depth] for key, value in BEAM.items()}
    common = {"rel_mode": rel[0], "rel_norm": rel[1]}
    ours = train_ranker(
        X, Y_part, chain, R=R, matching=matching, negative_sampling=mining, **common, **beam, **settings
    )
    solver = {"solver": "solver_type"}
    settings = {solver.get(key, key): value for key, value in settings.items()}
    pecos(
        "train",
        folder=folder / "model",
        X=X,
        Y=Y,
        chain=tree(),
        R=R,
        given=given,
        tree={"mode": mode, "ranker_level": height, **common},
        solver=pecos_levels(depth, **settings),
        mining=[mining[t % len(mining)] for t in range(depth)],
        beam=pecos_levels(depth, **beam),
    )
    return ours, read_weights(folder / "model", depth)


def assert_same_weights(ours, theirs):
    for level, W in zip(ours, theirs, strict=True):
        assert level.W.shape == W.shape and abs(W).max() > 100 * TOL
        np.testing.assert_allclose(level.W.toarray(), W.toarray(), rtol=0, atol=TOL)


def assert_same_predictions(pecos, folder, ours):
    """With beams that keep everything: weights that differ by 1e-5 may order near equals otherwise."""
    for post_processor in ("noop", "l3-hinge"):
        everything = {"beam_size": L, "only_topk": L, "post_processor": post_processor}
        expected = pecos("predict", folder=folder / "model", X=queries(), **everything)
        assert_same_scores(predict(ours, queries(), **everything), expected, 1e-4)


# ---------------------------------------------------------------------------- solvers


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("Cp, Cn, bias", [(1.0, 1.0, 1.0), (4.0, 0.5, 0.5), (0.5, 2.0, 0.0), (3.0, 1.0, 0.0)])
def test_solvers(pecos, tmp_path, solver, Cp, Cn, bias):
    if solver == "L2R_LR_DUAL":
        bias = 0.0  # with one, PECOS solves another problem: see the next test
    ours, theirs = train_both(pecos, tmp_path, solver=solver, Cp=Cp, Cn=Cn, bias=bias)
    assert_same_weights(ours, theirs)
    assert_same_predictions(pecos, tmp_path, ours)


def slow_logistic(X, Y) -> np.ndarray:
    """Minimisers [D + 1, labels] of the logistic loss over all instances, costs and bias 1."""
    A, W = np.hstack([X.toarray(), np.ones((X.shape[0], 1))]).astype(float), []
    for sign in np.where(Y.toarray().T > 0, 1.0, -1.0):
        value = lambda w: 0.5 * w @ w + np.logaddexp(0, -sign * (A @ w)).sum()  # noqa: B023, E731
        slope = lambda w: w - A.T @ (sign / (1 + np.exp(sign * (A @ w))))  # noqa: B023, E731
        W.append(minimize(value, np.zeros(A.shape[1]), jac=slope, method="L-BFGS-B", options={"gtol": 1e-9}).x)
    return np.array(W).T


def test_pecos_trains_no_bias_for_the_logistic_loss(pecos, tmp_path):
    """Its L2R_LR_DUAL leaves the bias at 0 and gives the weights of a problem without one; ours trains the bias."""
    with_bias, theirs = train_both(pecos, tmp_path / "with", solver="L2R_LR_DUAL", bias=1.0)
    without, _ = train_both(pecos, tmp_path / "without", solver="L2R_LR_DUAL", bias=0.0)
    for level, W in zip(without, theirs, strict=True):
        np.testing.assert_allclose(level.W.toarray(), W[:-1].toarray(), rtol=0, atol=TOL)
        assert abs(W[-1]).max() < 1e-5
    X, Y = data()
    top = slow_logistic(X, aggregate_labels(Y, tree())[0])
    np.testing.assert_allclose(with_bias[0].W.toarray(), top, rtol=0, atol=TOL)
    assert np.abs(top[-1]).min() > 100 * TOL


def test_settings_of_each_level(pecos, tmp_path):
    each = {"solver": tuple(SOLVERS)[:3], "Cp": (1.0, 2.0, 5.0), "Cn": (2.0, 1.0, 0.5), "bias": (1.0, 0.5, 0.0)}
    assert_same_weights(*train_both(pecos, tmp_path, **each))


def test_one_versus_all_with_relevance(pecos, tmp_path):
    X, Y = data()
    pecos("train", folder=tmp_path / "model", X=X, Y=Y, R=relevance(), solver=pecos_levels(1, **EXACT))
    root = [sp.csc_matrix(np.ones((L, 1), np.float32))]
    ours = train_ranker(X, Y, root, R=relevance(), rel_mode="ranker-only", **EXACT)
    assert_same_weights(ours, read_weights(tmp_path / "model", 1))
    assert_same_predictions(pecos, tmp_path, ours)


# ---------------------------------------------------------------------------- which weights are kept


def assert_same_choice(ours, theirs, whole, cut):
    """Weights well above the cut of their label are kept on both sides, those well below on neither.

    whole: dense weights [d + 1, labels] before the cut; cut: float [labels].
    """
    above, below = np.abs(whole) > cut + TOL, np.abs(whole) < cut - TOL
    assert above.any() and below.any()
    for W in (ours.toarray(), theirs.toarray()):
        np.testing.assert_allclose(W[above], whole[above], rtol=0, atol=TOL)
        assert not W[below].any()


@pytest.mark.parametrize("threshold", [0.05, 0.3])
def test_threshold(pecos, tmp_path, threshold):
    X, Y = data()
    whole = train_ranker(X, Y, tree(), **EXACT)
    for cut, W, level in zip(*train_both(pecos, tmp_path, threshold=threshold), whole, strict=True):
        assert_same_choice(cut.W, W, level.W.toarray(), np.full(W.shape[1], threshold))


@pytest.mark.parametrize("most", [2, 5, 20])
def test_max_nonzeros_per_label(pecos, tmp_path, most):
    X, Y = data()
    whole = train_ranker(X, Y, tree(), **EXACT)
    for cut, W, level in zip(*train_both(pecos, tmp_path, max_nonzeros_per_label=most), whole, strict=True):
        assert_same_choice(cut.W, W, level.W.toarray(), np.sort(abs(level.W).toarray(), axis=0)[-most])
        assert (np.diff(cut.W.indptr) == most).all() and (np.diff(W.indptr) == most).all()


# ---------------------------------------------------------------------------- costs of the positives


@pytest.mark.parametrize("norm", ["no-norm", "l1", "l2", "max"])
@pytest.mark.parametrize("mode", ["induce", "ranker-only"])
def test_cost_sensitive(pecos, tmp_path, mode, norm):
    assert_same_weights(*train_both(pecos, tmp_path, R=relevance(), rel=(mode, norm), Cp=2.0))


@pytest.mark.parametrize("norm", ["no-norm", "l1", "l2", "max"])
def test_cost_sensitive_by_counts(pecos, tmp_path, norm):
    """Without relevances, "induce" counts the labels below."""
    assert_same_weights(*train_both(pecos, tmp_path, rel=("induce", norm), Cp=2.0))


@pytest.mark.parametrize("norm", ["no-norm", "max", "l1", "l2"])
def test_ranker_only_without_relevances_is_not_cost_sensitive(pecos, tmp_path, norm):
    assert_same_weights(*train_both(pecos, tmp_path, rel=("ranker-only", norm), Cp=2.0))


@pytest.mark.parametrize("norm", ["no-norm", "l1", "l2", "max"])
@pytest.mark.parametrize("mode", ["induce", "ranker-only"])
def test_relevance_chains(pecos, mode, norm):
    Y = data()[1]
    expected = pecos("relevance_chain", chain=tree(), relevances={0: relevance()}, norm=norm, induce=mode == "induce")
    found = relevance_chain(Y, relevance(), tree(), mode, norm)
    assert [R is None for R in found] == [R is None for R in expected]
    for A, B in zip(found, expected, strict=True):
        if A is not None:
            np.testing.assert_allclose(A.toarray(), B.toarray(), rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------- negatives


def given_matches(*heights) -> dict:
    """Matches of those heights above the labels, with values that must not count."""
    widths = [C.shape[0] for C in tree()[::-1]] + [1]
    shape = data()[0].shape[0]
    return {k: sp.random(shape, widths[k], 0.06, format="csr", dtype=np.float32, random_state=k) * -2 for k in heights}


@pytest.mark.parametrize("heights", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2, 3)])
def test_matching_chains(pecos, heights):
    """PECOS has an empty matrix where ours says None: nothing was given."""
    matches = given_matches(*heights)
    expected = pecos("matching_chain", chain=tree(), matches=matches)
    found = matching_chain(matches, tree())
    assert len(found) == len(expected) == 3
    for A, B in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.zeros(B.shape) if A is None else A.toarray() != 0, B.toarray() != 0)


@pytest.mark.parametrize("scheme", ["tfn", "man", "tfn+man", "usn", "usn+tfn", "usn+man", "usn+tfn+man"])
def test_negative_sampling(pecos, tmp_path, scheme):
    given = given_matches(0, 1) if "usn" in scheme else None
    ours, theirs = train_both(pecos, tmp_path, mining=(scheme,), given=given)
    assert_same_weights(ours, theirs)
    assert_same_predictions(pecos, tmp_path, ours)


def test_negatives_of_each_level(pecos, tmp_path):
    mining = ("tfn", "usn+man", "tfn+man")
    assert_same_weights(*train_both(pecos, tmp_path, mining=mining, given=given_matches(1)))


# ---------------------------------------------------------------------------- parts of the tree


@pytest.mark.parametrize("height", [1, 2])
@pytest.mark.parametrize("scheme", ["tfn", "tfn+man"])
def test_matcher(pecos, tmp_path, height, scheme):
    ours, theirs = train_both(pecos, tmp_path, part=("matcher", height), mining=(scheme,))
    assert len(ours) == 3 - height
    assert_same_weights(ours, theirs)


@pytest.mark.parametrize("height", [1, 2])
@pytest.mark.parametrize("scheme", ["tfn", "usn", "usn+tfn"])
def test_ranker(pecos, tmp_path, height, scheme):
    given = given_matches(0, height) if "usn" in scheme else None
    ours, theirs = train_both(pecos, tmp_path, part=("ranker", height), mining=(scheme,), given=given)
    assert len(ours) == height and ours[0].C.shape[1] > 1
    assert_same_weights(ours, theirs)


@pytest.mark.parametrize("norm", ["no-norm", "l1"])
def test_costs_of_a_ranker(pecos, tmp_path, norm):
    ours, theirs = train_both(pecos, tmp_path, part=("ranker", 2), R=relevance(), rel=("induce", norm))
    assert_same_weights(ours, theirs)


@pytest.mark.parametrize("norm", ["no-norm", "l1"])
@pytest.mark.parametrize("given", [True, False])
def test_costs_of_a_matcher(pecos, tmp_path, norm, given):
    """Beside the top of PECOS's whole tree: in its mode "matcher" PECOS compares unsorted indices and raises.

    Its relevances are summed up from the labels, ones where none are given: part_of_tree makes the matcher's of them.
    """
    (X, Y), R = data(), relevance() if given else None
    _, theirs = train_both(pecos, tmp_path, R=R, rel=("induce", norm))
    Y_top, chain = part_of_tree("matcher", 1, Y, tree())
    R_top = part_of_tree("matcher", 1, R if given else Y, tree())[0]
    ours = train_ranker(X, Y_top, chain, R=R_top, rel_mode="induce", rel_norm=norm, **EXACT)
    assert_same_weights(ours, theirs[:2])


def test_man_in_a_ranker(pecos, tmp_path):
    """PECOS searches the ranker's training data from all clusters, ours from the given ones: here all are given."""
    everything = {2: sp.csr_matrix(np.ones((data()[0].shape[0], 4), np.float32))}
    part, mining = ("ranker", 2), ("usn+tfn", "tfn+man")
    ours, theirs = train_both(pecos, tmp_path, part=part, mining=mining, given=everything)
    assert_same_weights(ours, theirs)


def test_matcher_then_ranker_is_the_whole(pecos, tmp_path):
    """The matcher's beam on the training data as given matches of the ranker: tfn+man of the whole tree, both sides."""
    X, scheme = data()[0], ("tfn+man",)
    matcher, _ = train_both(pecos, tmp_path / "matcher", part=("matcher", 1), mining=scheme)
    beam = predict(matcher, X, beam_size=BEAM["only_topk"][0], only_topk=BEAM["only_topk"][1])
    ranker, theirs = train_both(pecos, tmp_path / "ranker", part=("ranker", 1), mining=("usn+tfn",), given={1: beam})
    whole, _ = train_both(pecos, tmp_path / "whole", mining=scheme)
    assert_same_weights(ranker, theirs)
    assert_same_weights([*matcher, *ranker], [level.W for level in whole])
