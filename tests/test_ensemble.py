import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.ensemble import METHODS, combine, first_entries


def rows(*values):
    return sp.csr_matrix(np.array(values, np.float32))


def slow_combine(method, predictions):
    """Label by label with dictionaries."""
    n, (instances, labels) = len(predictions), predictions[0].shape
    longest = max(P[i].nnz for P in predictions for i in range(instances))
    result = np.zeros((instances, labels))
    for i in range(instances):
        models = [dict(zip(P[i].indices.tolist(), P[i].data.astype(float), strict=True)) for P in predictions]
        for label in range(labels):
            values = []
            for m, scores in enumerate(models):
                if label not in scores:
                    continue
                rank = sum((-s, other) < (-scores[label], label) for other, s in scores.items())
                values.append(
                    {
                        "average": scores[label],
                        "rank_average": longest - rank,
                        "sigmoid_average": 1 / (1 + np.exp(-scores[label])),
                        "softmax_average": np.exp(scores[label]) / sum(np.exp(s) for s in scores.values()),
                        "round_robin": longest - rank + (n - m) / (n + 1),
                    }[method]
                )
            if values:
                result[i, label] = (max(values) if method == "round_robin" else sum(values)) / n
    return result


@pytest.mark.parametrize(
    "method, expected",
    [
        ("average", [0.45, 0.4, 0.4, 0.05]),
        ("rank_average", [1.5, 2, 1.5, 0.5]),
        ("sigmoid_average", [0.3555, 0.5985, 0.345, 0.2625]),
        ("softmax_average", [0.2359, 0.3469, 0.3112, 0.106]),
        ("round_robin", [1.8333, 1.3333, 1.6667, 0.8333]),
    ],
)
def test_values_seen_in_pecos(method, expected):
    a, b = rows([0.9, 0.5, 0, 0.1]), rows([0, 0.3, 0.8, 0])
    np.testing.assert_allclose(combine(method, [a, b]).toarray(), [expected], atol=5e-5)


def test_values_that_pecos_tests():
    a, b = rows([0.5, 0, 0, 1], [0, 0.2, 0, 0.5]), rows([1, 0, 0, 0.2], [0, 0, 0.2, 0])
    expected = {
        "average": [[0.75, 0, 0, 0.6], [0, 0.1, 0.1, 0.25]],
        "rank_average": [[1.5, 0, 0, 1.5], [0, 0.5, 1, 1]],
        "round_robin": [[1.16667, 0, 0, 1.33333], [0, 0.83333, 1.16667, 1.33333]],
    }
    for method, values in expected.items():
        np.testing.assert_allclose(combine(method, [a, b]).toarray(), values, atol=5e-6)
    np.testing.assert_allclose(combine("sigmoid_average", [a, b])[0, [0, 3]].toarray(), [[0.67676, 0.64045]], atol=5e-6)
    # PECOS's softmax comes after its sigmoid, which overwrites the inputs
    for P in (a, b):
        P.data = 1 / (1 + np.exp(-P.data))
    softmax = [[0.50903, 0, 0, 0.49097], [0, 0.24093, 0.5, 0.25907]]
    np.testing.assert_allclose(combine("softmax_average", [a, b]).toarray(), softmax, atol=5e-6)


def stored(P):
    """(row, column) of every stored entry."""
    return [(i, j) for i in range(P.shape[0]) for j in P[i].indices.tolist()]


@pytest.mark.parametrize("method", METHODS)
def test_against_a_slow_one(method):
    rng = np.random.default_rng(0)
    predictions = []
    for seed in range(3):
        P = sp.random(20, 15, 0.3, format="csr", random_state=seed)
        P.data = rng.integers(-3, 4, P.nnz).astype(np.float32)  # ties, zeros and negative scores
        predictions.append(P)
    result = combine(method, predictions)
    np.testing.assert_allclose(result.toarray(), slow_combine(method, predictions), atol=1e-6)
    assert result.dtype == np.float32
    assert result.nnz == len({place for P in predictions for place in stored(P)})
    for i in range(20):
        row = slice(*result.indptr[i : i + 2])
        pairs = list(zip(-result.data[row], result.indices[row], strict=True))
        assert pairs == sorted(pairs)


def test_inputs_in_any_order_and_unchanged():
    ordered = rows([0.9, 0.5, 0, 0.1], [0, 0.3, 0.8, 0])
    shuffled = sp.csr_matrix(
        (np.array([0.1, 0.9, 0.5, 0.8, 0.3], np.float32), [3, 0, 1, 2, 1], [0, 3, 5]), shape=ordered.shape
    )
    before = shuffled.copy()
    for method in METHODS:
        a, b = combine(method, [ordered, ordered]), combine(method, [shuffled, shuffled])
        assert a.indices.tolist() == b.indices.tolist() and a.data.tolist() == b.data.tolist()
        assert shuffled.data.tolist() == before.data.tolist() and shuffled.indices.tolist() == before.indices.tolist()


@pytest.mark.parametrize("method", METHODS)
def test_empty_rows_and_great_scores(method):
    P = sp.csr_matrix((np.array([1000, -1000], np.float32), [1, 2], [0, 0, 2]), shape=(2, 3))
    result = combine(method, [P])
    assert result.shape == (2, 3) and np.isfinite(result.data).all() and result.indices.tolist() == [1, 2]
    assert combine(method, [sp.csr_matrix((2, 3))]).nnz == 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="'median'"):
        combine("median", [rows([1, 0])])
    with pytest.raises(ValueError, match="no predictions"):
        combine("average", [])
    with pytest.raises(ValueError, match="unequal shapes"):
        combine("average", [rows([1, 0]), rows([1, 0, 0])])
    with pytest.raises(ValueError, match="prediction 1: row 0 holds NaN"):
        combine("average", [rows([1, 0]), rows([1, np.nan])])


def test_first_entries_are_those_of_each_row():
    P = sp.csr_matrix(([0.9, 0.5, 0.7, 0.1], [3, 0, 2, 1], [0, 3, 3, 4]), shape=(3, 4))
    found = first_entries(P, 2)
    assert found.indptr.tolist() == [0, 2, 2, 3]
    assert found.indices.tolist() == [3, 0, 1] and found.data.tolist() == [0.9, 0.5, 0.1]
