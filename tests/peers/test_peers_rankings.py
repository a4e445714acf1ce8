"""Ensembles of predictions and P@k, R@k: the same numbers on both sides, and the same print."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
from commands import run
from toy import linear_runs, toy_split

from xrt_jax.ensemble import METHODS, combine
from xrt_jax.metrics import format_pecos, precision_recall
from xrt_jax.npz import load_npz
from xrt_jax.stages import TEST_RANKING


def predictions(seed: int, least: int = 0, n: int = 30, nr_labels: int = 25) -> sp.csr_matrix:
    """Rows of `least` to 10 labels by descending score, as PECOS's ensembles want them; no two scores are equal."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(least, 11, n)
    counts[0] = least
    labels = [rng.choice(nr_labels, count, replace=False) for count in counts]
    scores = [np.sort(rng.normal(size=count))[::-1] for count in counts]
    indptr = np.concatenate([[0], np.cumsum(counts)])
    return sp.csr_matrix((np.concatenate(scores).astype(np.float32), np.concatenate(labels), indptr), (n, nr_labels))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("nr_models", [1, 2, 4])
def test_ensembles(pecos, method, nr_models):
    """PECOS works on copies here: its sigmoid average overwrites what it is given. Its softmax fails on empty rows."""
    several = [predictions(seed, least=method == "softmax_average") for seed in range(nr_models)]
    found, expected = combine(method, several), pecos("combine", method=method, predictions=several)
    np.testing.assert_allclose(found.toarray(), expected.toarray(), rtol=1e-6, atol=1e-6)
    assert expected.nnz > 100


@pytest.mark.parametrize("k", [1, 3, 10, 14])
def test_precision_and_recall(pecos, k):
    rng = np.random.default_rng(9)
    Y, P = sp.csr_matrix((rng.random((30, 25)) < 0.15).astype(np.float32)), predictions(10)
    assert np.diff(Y.indptr).min() == 0 and np.diff(P.indptr).min() == 0
    found, expected = precision_recall(Y, P, k), pecos("metrics", Y=Y, P=P, topk=k)
    assert min(expected["prec"]) > 0
    for key in ("prec", "recall"):
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-9)


def test_what_evaluate_prints(pecos):
    """Every byte, of sums that rounding could set apart."""
    Y = sp.random(4000, 25, 0.15, format="csr", dtype=np.float32, random_state=13)
    P = predictions(14, n=4000)
    for k in (1, 5, 10, 14):
        assert format_pecos(precision_recall(Y, P, k)) == pecos("metrics", Y=Y, P=P, topk=k)["text"]


def test_equal_scores_and_stored_zeros(pecos):
    """Equal scores rank by the lower label; a stored score of 0 is a prediction."""
    rng = np.random.default_rng(11)
    Y, P = sp.csr_matrix((rng.random((30, 25)) < 0.2).astype(np.float32)), predictions(12)
    P.data = rng.integers(0, 3, P.nnz).astype(np.float32)
    P.sort_indices()
    found, expected = precision_recall(Y, P, 8), pecos("metrics", Y=Y, P=P, topk=8)
    for key in ("prec", "recall"):
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-9)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return linear_runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("rule", ["softmax_average", "rank_average", "sigmoid_average"])
def test_runs_joined_by_the_published_rules(pecos, runs, rule, tmp_path):
    """The command on three work directories, against PECOS's ensemble of the rankings that they kept."""
    workdirs = [f"--workdir={workdir}" for workdir in runs]
    result = run("xrt_jax.evaluate", *workdirs, f"--ensemble={rule}", f"--output={tmp_path}")
    assert result.returncode == 0, result.stderr
    kept = [load_npz(workdir / "xr_linear" / TEST_RANKING) for workdir in runs]
    expected = pecos("combine", method=rule, predictions=kept)
    found = load_npz(tmp_path / "predictions.npz")
    np.testing.assert_allclose(found.toarray(), expected.toarray(), rtol=1e-6, atol=1e-6)
    of_pecos = pecos("metrics", Y=toy_split(80, 2).Y, P=expected, topk=10)
    metrics = json.loads((tmp_path / "metrics.json").read_text())[rule]
    for key in ("prec", "recall"):
        np.testing.assert_allclose(metrics[key], 100 * np.array(of_pecos[key]), atol=0.0051)
