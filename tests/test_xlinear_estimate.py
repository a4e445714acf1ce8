import numba
import numpy as np
import pytest
from test_xlinear_train import three_levels

from xrt_jax.sparse import as_features, feature_arrays
from xrt_jax.tree.chain import aggregate_labels
from xrt_jax.xlinear import estimate as module
from xrt_jax.xlinear.estimate import choose_pilots, estimate, job_memory, solve_timed
from xrt_jax.xlinear.folder import load_ranker
from xrt_jax.xlinear.level import Solved, Solver, make_jobs, make_problem
from xrt_jax.xlinear.train import train_ranker, train_to_folder


@pytest.fixture(scope="module")
def tasks():
    X, Y, chain = three_levels()
    Y_t = aggregate_labels(Y, chain)
    arrays = feature_arrays(as_features(X))
    M = [np.ones((X.shape[0], 1)), *Y_t[:-1]]
    problems = [make_problem(arrays, *level, Solver()) for level in zip(Y_t, chain, M, strict=True)]
    return [(problem, job) for problem in problems for job in make_jobs(problem)]


def test_pilots_take_little_and_are_of_all_sizes(tasks, monkeypatch):
    assert choose_pilots(tasks) == [] == choose_pilots([])  # every job is more than 2 % of so small a problem
    monkeypatch.setattr(module, "PILOT_SHARE", 0.1)
    monkeypatch.setattr(module, "NR_PILOTS", 3)
    pilots = choose_pilots(tasks)
    sizes, total = [job.size for _, job in tasks], sum(job.size for _, job in tasks)
    small = sorted(size for size in sizes if size <= 0.1 * total)
    assert len(set(pilots)) == 3 and sizes[pilots[0]] == small[-1] and sizes[pilots[-1]] < small[len(small) // 2]


def test_estimate_by_hand(tasks):
    """8 weights a positive**0.75, 2 seconds a unit of size."""
    positives = [sum(np.diff(p.Y.indptr)[label] ** 0.75 for label in np.concatenate(job.labels)) for p, job in tasks]
    solved = {
        number: (Solved(None, None, np.zeros(round(8 * positives[number]))), 2.0 * tasks[number][1].size)
        for number in (4, 7)
    }
    found = estimate(tasks, solved, numba.get_num_threads())
    left = [job.size for number, (_, job) in enumerate(tasks) if number not in solved]
    threads = numba.get_num_threads()
    assert found.seconds == pytest.approx(2 * max(sum(left) / threads, max(left)))
    assert found.model == pytest.approx(8 * 8 * sum(positives), rel=0.02)
    assert found.memory == sum(sorted((job_memory(*task) for task in tasks), reverse=True)[:threads])


def test_the_estimate_is_told_and_changes_nothing(tmp_path, monkeypatch):
    X, Y, chain = three_levels()
    monkeypatch.setattr(module, "PILOT_SHARE", 0.2)
    told = []
    train_to_folder(tmp_path / "model", X, Y, chain, tell=told.append)
    assert len(told) == 1 and min(told[0]) > 0
    ranker = train_ranker(X, Y, chain)
    for a, b in zip(ranker, load_ranker(tmp_path / "model"), strict=True):
        assert (a.W != b.W).nnz == 0
    weights = 8 * sum(level.W.nnz for level in ranker)
    assert weights / 3 < told[0].model < 3 * weights


def test_time_is_taken(tasks):
    solved, seconds = solve_timed(tasks[0])
    assert len(solved.count) == 4 and seconds > 0
