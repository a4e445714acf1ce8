"""Maps from scores to probabilities: what they are fitted to, that they keep the order, and files."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import expit, logit

from xrt_jax import calibration as module
from xrt_jax.calibration import (
    fit,
    fit_levels,
    fit_sigmoid,
    load_calibration,
    predict_by_levels,
    predict_probabilities,
    probabilities,
    save_calibration,
    with_sigmoids,
)
from xrt_jax.metrics import ece
from xrt_jax.sparse import Features
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.label_embedding import pifa
from xrt_jax.xlinear.predict import predict, predict_selected
from xrt_jax.xlinear.train import train_ranker


def drawn(n, seed=0):
    """(scores, truth) whose probability of being right is the square of the score."""
    rng = np.random.default_rng(seed)
    scores = sp.random(n, 30, 0.2, format="csr", dtype=np.float32, random_state=seed)
    right = rng.random(scores.nnz) < scores.data**2
    return scores, sp.csr_matrix(
        (right[right], scores.indices[right], np.r_[0, right.cumsum()][scores.indptr]), scores.shape
    )


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_what_is_told_comes_true(method):
    P, Y = drawn(2000)
    calibration = fit(method, P, Y, post_processor="l3-hinge")
    assert calibration.documents == 2000 and calibration.of_log_odds == (method == "platt")
    P, Y = drawn(2000, seed=1)
    before, after = ece(Y, P, 5), ece(Y, P, 5, lambda scores: probabilities(calibration, scores))
    assert before > 0.1 and after < 0.03
    told = probabilities(calibration, np.linspace(-1, 2, 500))
    assert told.dtype == np.float32 and (np.diff(told) >= 0).all() and 0 <= told[0] <= told[-1] <= 1


def test_sigmoid_finds_its_own_numbers():
    x = np.random.default_rng(0).normal(3, 50, 200_000)
    right = np.random.default_rng(1).random(len(x)) < expit(0.04 * x - 0.7)
    np.testing.assert_allclose(fit_sigmoid(x, right), [0.04, -0.7], rtol=0.05)


def test_sigmoid_of_separable_data_is_finite():
    slope, offset = fit_sigmoid(np.array([0.0, 1, 2, 3]), np.array([False, False, True, True]))
    assert slope > 0 and np.isfinite([slope, offset]).all() and abs(slope * 1.5 + offset) < 1e-3


def test_margins_and_logarithms_are_taken_as_they_are():
    P, Y = drawn(500)
    P.data = logit(np.clip(P.data, 1e-6, 1 - 1e-6))
    calibration = fit("platt", P, Y, post_processor="noop")
    assert not calibration.of_log_odds
    slope, offset = calibration.sigmoid
    np.testing.assert_allclose(
        probabilities(calibration, [-3.0, 4.0]), expit([-3 * slope + offset, 4 * slope + offset])
    )


def test_scores_that_tell_nothing_are_refused():
    P, Y = drawn(50)
    for truth, message in ((sp.csr_matrix(P.shape), "none of the predicted"), (P, "all .* of the predicted")):
        with pytest.raises(ValueError, match=message):
            fit("isotonic", P, truth, post_processor="l3-hinge")
    P.data = 1 - P.data
    with pytest.raises(ValueError, match="nothing to calibrate"):
        fit("platt", P, Y, post_processor="l3-hinge")


@pytest.fixture(scope="module")
def trained():
    """(ranker of three levels, features and labels of held-out rows)"""
    rng = np.random.default_rng(0)
    Y = sp.csr_matrix((rng.random((600, 24)) < 0.08).astype(np.float32))
    X = sp.csr_matrix(Y.toarray() @ rng.normal(size=(24, 40)) + rng.normal(size=(600, 40)), dtype=np.float32)
    chain = hierarchical_kmeans(pifa(Y[:300], X[:300]), nr_splits=3, min_codes=3, max_leaf_size=4)
    ranker = train_ranker(X[:300], Y[:300], chain)
    assert len(ranker) == 3
    return ranker, X[300:], Y[300:]


def test_levels_are_products_of_sigmoids_along_the_path(trained):
    ranker, X, Y = trained
    levels, points = fit_levels("platt", ranker, X, Y)
    assert len(levels) == 3 and all(slope > 0 for slope, _ in levels) and points == []
    expected = np.ones((X.shape[0], 1))
    for depth, (level, (slope, offset)) in enumerate(zip(ranker, levels, strict=True), 1):
        all_nodes = sp.csr_matrix(np.ones((X.shape[0], level.C.shape[0]), np.float32))
        margins = predict_selected(ranker[:depth], X, all_nodes, post_processor="noop").toarray()
        expected = (expected @ level.C.T.toarray()) * expit(slope * margins + offset)
    found = predict(with_sigmoids(ranker, levels), X, beam_size=99, only_topk=24).toarray()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    own = predict(ranker, X, beam_size=99, only_topk=24)
    assert ece(Y, sp.csr_matrix(found), 5) < 0.75 * ece(Y, own, 5)
    with pytest.raises(ValueError, match="without a bias"):
        fit_levels("platt", [level._replace(bias=0.0) for level in ranker], X, Y)


def pooled(x, right) -> list[tuple[float, float]]:
    """The isotonic map as (x, share that is right) of each distinct x: neighbours are pooled while one falls."""
    blocks = [[[value], right[x == value].sum(), (x == value).sum()] for value in np.unique(x)]
    while True:
        falls = [i for i in range(len(blocks) - 1) if blocks[i][1] * blocks[i + 1][2] > blocks[i + 1][1] * blocks[i][2]]
        if not falls:
            return [(value, hits / count) for values, hits, count in blocks for value in values]
        i = falls[0]
        blocks[i : i + 2] = [[a + b for a, b in zip(blocks[i], blocks[i + 1], strict=True)]]


def margins_of_levels(ranker, X) -> list[np.ndarray]:
    """The margins [n, nodes] of each level, by dense products."""
    X = np.hstack([X.toarray(), np.ones((X.shape[0], 1))])
    return [(X[:, : level.W.shape[0]] @ level.W.toarray()).astype(np.float32) for level in ranker]


def test_isotonic_levels_against_a_slow_search(trained):
    ranker, X, Y = trained
    levels, points = fit_levels("isotonic", ranker, X, Y)
    assert levels == fit_levels("platt", ranker, X, Y)[0]
    relevant = [Y.toarray() > 0]
    for level in ranker[::-1]:
        relevant.insert(0, relevant[0] @ level.C.toarray() > 0)
    relevant[0][:] = True
    told = []
    for depth, (level, margins) in enumerate(zip(ranker, margins_of_levels(ranker, X), strict=True)):
        below = relevant[depth] @ level.C.toarray().T > 0  # children of relevant nodes
        line = pooled(margins[below].astype(float), relevant[depth + 1][below])
        flat = np.interp(margins, *zip(*line, strict=True))
        np.testing.assert_allclose(np.interp(margins, *points[depth]), flat, atol=2e-4)
        assert len(np.unique(flat)) < 0.5 * flat.size  # most values are on a flat stretch
        slope, offset = levels[depth]
        told.append(0.99 * flat + 0.01 * expit(slope * margins + offset))
    for beam_size, only_topk in ((99, 24), (2, 5)):
        found = predict_by_levels(ranker, X, levels, points, beam_size=beam_size, only_topk=only_topk)
        assert (np.diff(found.indptr) <= only_topk).all() and found.dtype == np.float32
        for row in range(X.shape[0]):
            beam = [(1.0, 0)]
            for depth, level in enumerate(ranker):
                children = [
                    (score * told[depth][row, child], child)
                    for score, node in beam
                    for child in level.C.getcol(node).indices
                ]
                beam = sorted(children, key=lambda pair: (-pair[0], pair[1]))
                beam = beam[: beam_size if depth < len(ranker) - 1 else only_topk]
            mine = slice(*found.indptr[row : row + 2])
            np.testing.assert_allclose(found.data[mine], [score for score, _ in beam], rtol=2e-3, atol=1e-7)
    assert len(np.unique(found.data)) > 0.9 * found.nnz  # flat stretches make hardly any ties


def test_isotonic_levels_go_block_by_block_and_take_all_kinds_of_features(trained, monkeypatch):
    ranker, X, Y = trained
    levels, points = fit_levels("isotonic", ranker, X, Y)
    for rows in (X, Features(X[:, :30], X[:, 30:].toarray())):
        found = []
        for nr_rows in (17, 4096):
            monkeypatch.setattr(module, "ROWS_AT_ONCE", nr_rows)
            found.append(predict_by_levels(ranker, rows, levels, points, only_topk=7))
        assert found[0].nnz and (found[0] != found[1]).nnz == 0
    assert predict_by_levels(ranker, X[:0], levels, points).shape == (0, 24)
    with pytest.raises(ValueError, match="beam_size=0 must be an integer of at least 1"):
        predict_by_levels(ranker, X, levels, points, beam_size=0)


def test_levels_that_rise_the_wrong_way_are_refused(trained):
    ranker, X, Y = trained
    with pytest.raises(ValueError, match="per level: higher margins of level 1 are not right more often"):
        fit_levels("isotonic", [ranker[0]._replace(W=-ranker[0].W), *ranker[1:]], X, Y)


def test_final_map_keeps_the_ranking(trained):
    ranker, X, Y = trained
    P = predict(ranker, X)
    calibration = fit("isotonic", P, Y, post_processor="l3-hinge")
    told = predict_probabilities(calibration, ranker, X, only_topk=7)
    own = predict(ranker, X, only_topk=7)
    np.testing.assert_array_equal(told.indices, own.indices)
    np.testing.assert_array_equal(told.data, probabilities(calibration, own.data))


def test_file(tmp_path, trained):
    assert load_calibration(tmp_path, 3) is None
    P, Y = drawn(200)
    for calibration in (
        fit("isotonic", P, Y, post_processor="l3-hinge"),
        fit("isotonic", P, Y, post_processor="sigmoid", levels=[[1.0, 0.5]] * 3, level_points=[[[0.0], [0.5]]] * 3),
        fit("platt", P, Y, post_processor="sigmoid", levels=[[1.0, 0.5]] * 3),
    ):
        save_calibration(tmp_path, calibration)
        assert load_calibration(tmp_path, 3) == calibration
    older = calibration._asdict()
    del older["level_points"]
    (tmp_path / "calibration.json").write_text(json.dumps(older))
    assert load_calibration(tmp_path, 3) == calibration
    with pytest.raises(ValueError, match=r"calibration\.json is of a model with 3 levels, this one has 2"):
        load_calibration(tmp_path, 2)
    for text in ("[]", '{"method": "platt"}', (tmp_path / "calibration.json").read_text().replace("platt", "spline")):
        (tmp_path / "calibration.json").write_text(text)
        with pytest.raises(ValueError, match=r"calibration\.json is no calibration of this version"):
            load_calibration(tmp_path, 3)
