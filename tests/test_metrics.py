import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.metrics import (
    all_metrics,
    by_frequency,
    coverage,
    ece,
    format_frequencies,
    format_pecos,
    format_table,
    inverse_propensity,
    ndcg,
    precision_recall,
    psndcg,
    psp,
    ranked_labels,
    reliability,
)

Y = sp.csr_matrix(np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], np.float32))
P = sp.csr_matrix(np.array([[0.9, 0.5, 0.5, 0.1], [0, 0.2, 0.8, 0], [0.3, 0, 0, 0]], np.float32))


def random_case(seed):
    rng = np.random.default_rng(seed)
    truth = sp.random(30, 20, 0.15, format="csr", random_state=rng)
    scores = sp.random(30, 20, 0.4, format="csr", random_state=rng)
    scores.data = rng.integers(1, 6, scores.nnz) / 5.0
    return truth, scores


def slow_ranking(P, i):
    row = P.getrow(i)
    return [label for _, label in sorted(zip(-row.data, row.indices, strict=True))]


def test_precision_recall_by_hand():
    # row 0 ranks 0, 1, 2, 3 (tie by lower id): hits 1 1 2 2; row 1 ranks 2, 1: hits 0 1 1 1; row 2 has no label
    result = precision_recall(Y, P, 4)
    np.testing.assert_allclose(result["prec"], [1 / 3, 2 / 6, 3 / 9, 3 / 12])
    np.testing.assert_allclose(result["recall"], np.array([0.5, 0.5 + 1, 1 + 1, 1 + 1]) / 3)


def test_order_of_the_stored_entries_does_not_matter():
    shuffled = sp.csr_matrix((P.data.copy(), P.indices.copy(), P.indptr), shape=P.shape)
    shuffled.indices[:4], shuffled.data[:4] = shuffled.indices[:4][::-1].copy(), shuffled.data[:4][::-1].copy()
    assert not shuffled.has_sorted_indices
    np.testing.assert_array_equal(precision_recall(Y, shuffled, 3)["prec"], precision_recall(Y, P, 3)["prec"])


@pytest.mark.parametrize("seed", range(3))
def test_precision_recall_against_a_slow_one(seed):
    truth, scores = random_case(seed)
    for k in (1, 3, 10):
        hits = [len(set(slow_ranking(scores, i)[:k]) & set(truth.getrow(i).indices)) for i in range(30)]
        true = [max(1, truth.getrow(i).nnz) for i in range(30)]
        result = precision_recall(truth, scores, 10)
        assert result["prec"][k - 1] == pytest.approx(np.mean(hits) / k)
        assert result["recall"][k - 1] == pytest.approx(np.mean(np.divide(hits, true)))


def test_stored_zeros_count():
    stored = sp.csr_matrix((np.zeros(1, np.float32), ([1], [1])), shape=(2, 3))
    assert precision_recall(stored, stored, 1)["prec"].tolist() == [0.5]


@pytest.mark.parametrize("seed", range(2))
def test_ndcg_and_psp_against_slow_ones(seed):
    truth, scores = random_case(seed)
    weight = np.random.default_rng(seed).uniform(1, 9, 20)
    k, gains, gained, best = 5, [], 0.0, 0.0
    for i in range(30):
        true = set(truth.getrow(i).indices)
        ranking = slow_ranking(scores, i)[:k]
        dcg = sum(1 / np.log2(r + 2) for r, label in enumerate(ranking) if label in true)
        ideal = sum(1 / np.log2(r + 2) for r in range(min(k, len(true))))
        gains.append(dcg / ideal if true else 0)
        gained += sum(weight[label] for label in ranking if label in true)
        best += sum(sorted((weight[label] for label in true), reverse=True)[:k])
    assert ndcg(truth, scores, k)[-1] == pytest.approx(np.mean(gains))
    assert psp(truth, scores, k, weight)[-1] == pytest.approx(gained / best, rel=1e-6)


def test_a_perfect_ranking_scores_one():
    weight = np.array([1.0, 2, 3, 4])
    np.testing.assert_allclose(psp(Y, Y.multiply(weight).tocsr(), 2, weight), 1)
    np.testing.assert_allclose(ndcg(Y[:2], Y[:2], 3), 1)


def test_inverse_propensity_by_hand():
    trn = sp.csr_matrix(np.array([[1, 0], [1, 0], [1, 1], [0, 0]], np.float32))
    C = (np.log(4) - 1) * 2.5**0.55
    np.testing.assert_allclose(inverse_propensity(trn), [1 + C * 4.5**-0.55, 1 + C * 2.5**-0.55])


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        precision_recall(Y, P[:2])


def test_format_table():
    table = format_table(
        {"ours": {"prec": [1.0, 0.5], "recall": [0.25, 0.33333]}, "x": {"prec": [0, 0], "recall": [0, 0]}}
    )
    assert table.splitlines() == [
        "percent      @1      @2",
        "P  ours  100.00   50.00",
        "P  x       0.00    0.00",
        "R  ours   25.00   33.33",
        "R  x       0.00    0.00",
    ]


def test_groups_of_labels_by_frequency_against_loops():
    rng = np.random.default_rng(3)
    Y_trn = sp.csr_matrix((rng.random((60, 25)) < rng.random(25) * 0.3).astype(np.float32))
    Y = sp.csr_matrix((rng.random((40, 25)) < 0.2).astype(np.float32))
    P = sp.csr_matrix(rng.random((40, 25)) * (rng.random((40, 25)) < 0.4))
    frequency = Y_trn.toarray().sum(0)
    top = [np.argsort(-row, kind="stable")[: min(5, (row > 0).sum())] for row in P.toarray()]
    groups = by_frequency(Y_trn, Y, P, k=5, nr_groups=4)
    order, first = np.argsort(frequency, kind="stable"), 0
    assert sum(group["labels"] for group in groups) == 25 and sum(group["true"] for group in groups) == Y.nnz
    for group in groups:
        labels = order[first : first + group["labels"]]
        first += len(labels)
        assert (group["least"], group["most"]) == (frequency[labels].min(), frequency[labels].max())
        shown = [(i, label) for i, best in enumerate(top) for label in best if label in labels]
        right = sum(Y[i, label] > 0 for i, label in shown)
        assert group["prec"] == right / len(shown) and group["recall"] == right / Y[:, labels].nnz
    assert len(by_frequency(Y_trn[:, :3], Y[:, :3], P[:, :3])) == 3


def test_ranked_labels_of_short_rows():
    P = sp.csr_matrix(np.array([[0, 0.5, 0.9], [0, 0, 0], [0.2, 0.2, 0]]))
    assert ranked_labels(P, 2).tolist() == [[2, 1], [-1, -1], [0, 1]]


@pytest.mark.parametrize("seed", range(2))
def test_psndcg_against_slow_ones(seed):
    truth, scores = random_case(seed)
    weight = np.random.default_rng(seed).uniform(1, 9, 20)
    k = 5
    sums = {"x": np.zeros(2), "a": np.zeros(2)}  # gained and best possible
    for i in range(30):
        true = set(truth.getrow(i).indices)
        if not true:
            continue
        ranking = slow_ranking(scores, i)[:k]
        best = sorted((weight[label] for label in true), reverse=True)[:k]
        gained = sum(weight[label] / np.log2(r + 2) for r, label in enumerate(ranking) if label in true)
        gains = np.array([gained, sum(w / np.log2(r + 2) for r, w in enumerate(best))])
        sums["a"] += gains
        sums["x"] += gains / sum(1 / np.log2(r + 2) for r in range(min(k, len(true))))
    found = psndcg(truth, scores, k, weight)
    for tool, (gained, best) in sums.items():
        assert found[f"psndcg_{tool}"][-1] == pytest.approx(gained / best, rel=1e-6)
    assert found["psndcg_x"][-1] != pytest.approx(found["psndcg_a"][-1])


def test_coverage_by_hand():
    # true labels 0, 1, 2: row 0 finds 0 first and 2 third (tied with 1, which is lower); row 1 finds 1 second
    np.testing.assert_allclose(coverage(Y, P, 4), [1 / 3, 2 / 3, 1, 1])


def test_all_metrics_and_their_print():
    assert list(all_metrics(Y, P, 3)) == ["prec", "recall", "ndcg", "coverage"]
    found = all_metrics(Y, P, 3, Y)
    assert list(found)[4:] == ["psp", "psndcg_x", "psndcg_a"]
    assert format_pecos(found).splitlines()[:2] == ["prec   = 33.33 33.33 33.33", "recall = 16.67 50.00 66.67"]
    assert format_table({"m": found}).splitlines()[-1].startswith("PSnDCG (AttentionXML)  m  ")
    table = format_frequencies(by_frequency(Y, Y, P, k=1, nr_groups=2), 1).splitlines()
    assert table[1].split() == ["0", "–", "1", "2", "1", "50.00", "100.00"]


def test_calibration_error_by_hand():
    told = sp.csr_matrix(np.array([[0.9, 0.6, 0, 0], [0, 0.2, 0.9, 0], [0.3, 0, 0, 0]], np.float32))
    bins = reliability(Y, told, 1, nr_bins=2)  # of 0.9 and 0.9 one is right; of 0.3 none
    assert [b["count"] for b in bins] == [1, 2]
    np.testing.assert_allclose([(b["told"], b["right"]) for b in bins], [(0.3, 0), (0.9, 0.5)], rtol=1e-6)
    assert ece(Y, told, 1, nr_bins=2) == pytest.approx((0.3 + 2 * 0.4) / 3)
    assert ece(Y, told, 1, told=lambda scores: 0 * scores + 1 / 3) == pytest.approx(0, abs=1e-6)
    assert ece(Y, 10 * told, 1, nr_bins=1) == pytest.approx(1 - 1 / 3)  # what is above 1 is 1
