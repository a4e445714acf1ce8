"""What a training is going to take, going by its first few clusters: time to call it off before hours are spent."""

import time
from typing import NamedTuple

import numba
import numpy as np

from xrt_jax.xlinear.instances import stay_in_place
from xrt_jax.xlinear.lanes import LANES
from xrt_jax.xlinear.level import Job, Problem, Solved, solve_job

NR_PILOTS = 8
PILOT_SHARE = 0.02  # of all work; a larger job is no pilot
# Weights of a label grow with its positives like this power: seen on EURLEX57K and YSO from leaves to top, within 2x.
POWER = 0.75


class Estimate(NamedTuple):
    """Seconds from now on, bytes of the model's weights on disk, bytes of memory on top of what is in use now."""

    seconds: float
    model: float
    memory: float


def choose_pilots(tasks: list[tuple[Problem, Job]]) -> list[int]:
    """Numbers of a few tasks, small and large ones among those that take little of all the work."""
    total = sum(job.size for _, job in tasks)
    small = [number for number, (_, job) in enumerate(tasks) if job.size <= PILOT_SHARE * total]
    small.sort(key=lambda number: tasks[number][1].size)
    return small[len(small) - 1 :: -max(1, len(small) // NR_PILOTS)][:NR_PILOTS]


def solve_timed(task: tuple[Problem, Job]) -> tuple[Solved, float]:
    """A task's weights and the seconds that they took."""
    start = time.perf_counter()
    return solve_job(*task), time.perf_counter() - start


def _positives(problem: Problem, job: Job) -> np.ndarray:
    labels = np.concatenate(job.labels)
    return np.diff(problem.Y.indptr)[labels]


def job_memory(problem: Problem, job: Job) -> int:
    """Bytes that a thread needs for a job: a copy of its rows and what makes it, duals, weights of LANES labels."""
    X = problem.X
    nr_rows = int(problem.M.indptr[job.parent + 1] - problem.M.indptr[job.parent])
    if stay_in_place(nr_rows, len(X.indptr) - 1):
        copied, nr_places = 0, X.nr_sparse
    else:
        rows = problem.M.indices[problem.M.indptr[job.parent] : problem.M.indptr[job.parent + 1]]
        nnz = int((X.indptr[rows + 1] - X.indptr[rows]).sum())
        copied, nr_places = 16 * nnz + 4 * X.nr_sparse, min(nnz, X.nr_sparse)
    return copied + 4 * LANES * (nr_rows + nr_places + X.dense.shape[1])


def estimate(tasks: list[tuple[Problem, Job]], solved: dict[int, tuple[Solved, float]], nr_threads: int) -> Estimate:
    """What all tasks take, going by those that are solved already (number -> weights, seconds).

    nr_threads: of all processes; memory is what those of this process need.
    """
    sizes = np.array([job.size for _, job in tasks], dtype=np.float64)
    growth = np.array([(_positives(*task) ** POWER).sum() for task in tasks])
    done = list(solved)
    pace = sum(seconds for _, seconds in solved.values()) / sizes[done].sum()
    weights = sum(len(part.weight) for part, _ in solved.values()) / max(growth[done].sum(), 1)
    left = np.delete(sizes, done)
    memory = sorted((job_memory(*task) for task in tasks), reverse=True)[: numba.get_num_threads()]
    seconds = pace * max(left.sum() / nr_threads, left.max(initial=0))
    return Estimate(seconds, 8 * weights * growth.sum(), sum(memory))
