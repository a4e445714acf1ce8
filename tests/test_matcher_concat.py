"""The concat model of a level and how its beam joins the head's, against dense products and hand-made cases."""

import numpy as np
import pytest
from scipy.sparse import csc_matrix, csr_matrix, random_array

from xrt_jax.ensemble import combine
from xrt_jax.matcher import concat as K
from xrt_jax.model import join_features


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    X = csr_matrix(random_array((60, 12), density=0.4, rng=rng, dtype=np.float32))
    joined = join_features(X, rng.standard_normal((60, 5)).astype(np.float32))
    C = csc_matrix(np.eye(4, dtype=np.float32)[np.arange(14) % 4])
    Y = csr_matrix((rng.random((60, 14)) < 0.2).astype(np.float32) * rng.integers(1, 4, (60, 14)).astype(np.float32))
    M = csr_matrix((rng.random((60, 4)) < 0.6).astype(np.float32))
    beam_above = M.multiply(rng.random((60, 4))).tocsr().astype(np.float32)
    beam = csr_matrix((rng.random((60, 14)) < 0.3) * rng.random((60, 14)), dtype=np.float32)
    return joined, Y, C, M, beam_above, beam


def slow_beam(joined, concat, beam_above, k, is_first):
    """The k best children of each row under l3-hinge, by a dense product."""
    X = np.hstack([joined.sparse.toarray(), joined.dense, np.ones((60, 1))])
    margins, parent = X @ concat.W.toarray(), concat.C.tocsr().indices
    best = []
    for i in range(60):
        above = dict(zip(beam_above[[i]].indices, beam_above[[i]].data, strict=True))
        scores = {
            label: np.exp(-(max(0, 1 - margins[i, label]) ** 3)) * (1 if is_first else above[parent[label]])
            for label in range(14)
            if parent[label] in above
        }
        best.append(sorted(scores.items(), key=lambda pair: -pair[1])[:k])
    return best


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("cost_sensitive", [True, False])
def test_concat_only_is_the_beam_of_the_linear_classifiers(problem, is_first, cost_sensitive):
    joined, Y, C, M, beam_above, beam = problem
    settings = {"threshold": 0.01, "cost_sensitive": cost_sensitive, "only_topk": 3, "post_processor": "l3-hinge"}
    concat = K.train_concat(joined, Y, C, M, **settings)
    assert concat.W.shape == (18, 14) and concat.C is C
    found = K.join_beams("concat-only", beam, concat, joined, beam_above, is_first=is_first)
    for i, pairs in enumerate(slow_beam(joined, concat, beam_above, 3, is_first)):
        row = slice(found.indptr[i], found.indptr[i + 1])
        assert found.indices[row].tolist() == [label for label, _ in pairs]
        np.testing.assert_allclose(found.data[row], [score for _, score in pairs], rtol=1e-4)


def test_costs_are_shares_of_the_label_counts(problem):
    """Doubling an instance's counts leaves its costs, and so the classifiers, as they are."""
    joined, Y, C, M, *_ = problem
    settings = {"threshold": 0.0, "only_topk": 3, "post_processor": "noop"}
    doubled = csr_matrix(Y * 2)
    one, two = (K.train_concat(joined, A, C, M, cost_sensitive=True, **settings).W for A in (Y, doubled))
    np.testing.assert_allclose(one.toarray(), two.toarray(), atol=1e-6)
    plain = K.train_concat(joined, Y, C, M, cost_sensitive=False, **settings).W
    assert abs(plain - one).max() > 1e-2


@pytest.mark.parametrize("method", ["average", "rank_average", "round_robin"])
def test_joined_beams_are_the_best_of_both(problem, method):
    joined, Y, C, M, beam_above, beam = problem
    settings = {"threshold": 0.01, "cost_sensitive": False, "only_topk": 3, "post_processor": "l3-hinge"}
    concat = K.train_concat(joined, Y, C, M, **settings)
    scored = K.join_beams("concat-only", beam, concat, joined, beam_above, is_first=False)
    found = K.join_beams(method, beam, concat, joined, beam_above, is_first=False)
    whole = combine(method, [beam, scored])
    for i in range(60):
        row, first = slice(found.indptr[i], found.indptr[i + 1]), whole.indptr[i]
        count = min(3, whole.indptr[i + 1] - first)
        np.testing.assert_array_equal(found.indices[row], whole.indices[first : first + count])
        np.testing.assert_array_equal(found.data[row], whole.data[first : first + count])
    assert np.diff(whole.indptr).max() > 3


def test_unknown_ways_are_refused():
    with pytest.raises(ValueError, match=r"matcher\.ensemble is 'both': choose one of transformer-only, concat-only"):
        K.check_ensemble("both")
