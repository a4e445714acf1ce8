"""One level of XR-Linear: a linear classifier for every node, against the negatives of its cluster."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from xrt_jax.processes import count
from xrt_jax.sparse import FeatureArrays, as_features, canonical, feature_arrays, find_entries, row_ids
from xrt_jax.threads import thread_unordered
from xrt_jax.xlinear.instances import gather, stay_in_place
from xrt_jax.xlinear.lanes import LANES
from xrt_jax.xlinear.memory import empty_room
from xrt_jax.xlinear.solver import SOLVERS, SolverNumbers, solve_siblings

GROUPS_PER_JOB = 8


class Level(NamedTuple):
    """One trained level of the tree.

    Attributes:
        W: csc float32 [d + 1, nodes] (the last row is the bias), or [d, nodes] without a bias.
        C: csc float32 [nodes, nodes of the level above].
        bias: value of the constant feature; 0 for none.
        only_topk: nodes kept by the beam search after this level.
        post_processor: turns raw scores into ranking scores (xlinear/predict.py).
    """

    W: sp.csc_matrix
    C: sp.csc_matrix
    bias: float
    only_topk: int
    post_processor: str


Ranker = list[Level]


# ---------------------------------------------------------------------------- the problem


class Solver(NamedTuple):
    """Settings of a level's solver (train_level)."""

    solver: str = "L2R_L2LOSS_SVC_DUAL"
    Cp: float = 1.0
    Cn: float = 1.0
    bias: float = 1.0
    eps: float = 0.1
    newton_eps: float = 0.01
    max_iter: int = 100
    threshold: float = 0.1
    max_nonzeros_per_label: int = 0

    def check(self) -> None:
        """ValueError for a setting that no problem can be solved with."""
        if self.solver not in SOLVERS:
            raise ValueError(f"solver is {self.solver!r}: choose one of {', '.join(SOLVERS)}")
        for key in ("Cp", "Cn", "eps", "newton_eps", "max_iter"):
            if not 0 < getattr(self, key) < np.inf:
                raise ValueError(f"{key}={getattr(self, key)} must be a number above 0")
        for key in ("threshold", "max_nonzeros_per_label"):
            if not 0 <= getattr(self, key) < np.inf:
                raise ValueError(f"{key}={getattr(self, key)} must be a number from 0 on")
        if not np.isfinite(self.bias):
            raise ValueError(f"bias={self.bias} must be a number; 0 for none")

    def settled(self) -> "Solver":
        """These settings with a bias of 0 for one below."""
        return self._replace(bias=max(float(self.bias), 0.0))


class Problem(NamedTuple):
    """A level to train: features, Y csc [n, L], C csc [L, K], M csc [n, K], cost float32 [Y.nnz] of the positives."""

    X: FeatureArrays
    Y: sp.csc_matrix
    C: sp.csc_matrix
    M: sp.csc_matrix
    cost: np.ndarray
    settings: Solver

    @property
    def nr_weights(self) -> int:
        """Rows of W: features, and one more for the bias."""
        return self.X.nr_sparse + self.X.dense.shape[1] + (self.settings.bias > 0)


def _costs(Y: sp.csc_matrix, R) -> np.ndarray:
    """Cost of every stored entry of Y: R's value there (0 where R has none), or 1; float32 [nnz]."""
    if R is None:
        return np.ones(Y.nnz, np.float32)
    R = canonical(R, "csc")
    if R.shape != Y.shape or (R.nnz and R.data.min() < 0):
        raise ValueError(f"R must have Y's shape {Y.shape} and no negative value, it has the shape {R.shape}")
    if (find_entries(Y, row_ids(R), R.indices) < 0).any():
        raise ValueError("R has a relevance where Y has no label: give R the pattern of Y")
    position = find_entries(R, row_ids(Y), Y.indices)
    return np.where(position >= 0, R.data[position] if R.nnz else 0, 0).astype(np.float32)


def _check_shapes(n: int, Y, C, M) -> None:
    if n != Y.shape[0] or M.shape[0] != Y.shape[0]:
        raise ValueError(f"X has {n} rows, Y {Y.shape[0]}, M {M.shape[0]}: all need one row an instance")
    if Y.shape[1] != C.shape[0] or M.shape[1] != C.shape[1]:
        raise ValueError(f"C has the shape {C.shape}, but Y has {Y.shape[1]} labels and M {M.shape[1]} clusters")
    parents = np.bincount(C.indices, minlength=C.shape[0])
    if (parents > 1).any():
        raise ValueError(f"label {parents.argmax()} has {parents.max()} parents in C: give each label one cluster")


def make_problem(X: FeatureArrays, Y, C, M, settings: Solver, R=None) -> Problem:
    """A level's problem, checked. Arguments as in train_level; X: what feature_arrays made of the features."""
    settings.check()
    Y, C, M = canonical(Y, "csc", "Y"), canonical(C, "csc", "C"), canonical(M, "csc", "M")
    _check_shapes(len(X.indptr) - 1, Y, C, M)
    return Problem(X, Y, C, M, _costs(Y, R), settings.settled())


# ---------------------------------------------------------------------------- jobs


class Job(NamedTuple):
    """Work for one thread: groups of siblings, up to LANES labels each, whose instances are gathered once."""

    parent: int
    labels: list[np.ndarray]
    size: int  # instances times groups


class Solved(NamedTuple):
    """Weights of a job, label after label: count int64 [labels], feature int32 [sum], weight float32 [sum]."""

    count: np.ndarray
    feature: np.ndarray
    weight: np.ndarray


def make_jobs(problem: Problem) -> list[Job]:
    """The level's jobs, clusters in order; the same whatever the number of threads.

    Where gathering costs nothing because the instances stay in place, each group is a job.
    """
    M, jobs, nr_positives = problem.M, [], np.diff(problem.Y.indptr)
    for parent, children in enumerate(np.split(problem.C.indices, problem.C.indptr[1:-1])):
        children = children[np.argsort(nr_positives[children], kind="stable")]
        groups = np.array_split(children, -(-len(children) // LANES)) if len(children) else []
        nr_instances = int(M.indptr[parent + 1] - M.indptr[parent])
        a_job = 1 if stay_in_place(nr_instances, M.shape[0]) else GROUPS_PER_JOB
        for first in range(0, len(groups), a_job):
            mine = groups[first : first + a_job]
            jobs.append(Job(parent, mine, max(nr_instances, 1) * len(mine)))
    return jobs


def _add_outside(shared: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """The shared rows, ascending, then the positives outside them, ascending; int64."""
    return np.concatenate([shared, np.setdiff1d(positives, shared)]) if len(positives) else shared


def _places(rows: np.ndarray, nr_shared: int, positives: np.ndarray) -> np.ndarray:
    """Place of each positive in the rows of _add_outside; int64."""
    place = np.searchsorted(rows[:nr_shared], positives)
    outside = rows[np.minimum(place, len(rows) - 1)] != positives
    outside |= place == nr_shared
    place[outside] = nr_shared + np.searchsorted(rows[nr_shared:], positives[outside])
    return place


def solve_job(problem: Problem, job: Job) -> Solved:
    """Weights of a job's labels."""
    X, Y, M, settings = problem.X, problem.Y, problem.M, problem.settings
    numbers = SolverNumbers(
        np.float32(settings.Cp),
        np.float32(settings.Cn),
        np.float32(settings.bias),
        float(settings.eps),
        float(settings.newton_eps),
        float(settings.threshold),
        int(settings.max_iter),
        int(settings.max_nonzeros_per_label),
    )
    shared = M.indices[M.indptr[job.parent] : M.indptr[job.parent + 1]].astype(np.int64)
    spans = [[slice(Y.indptr[label], Y.indptr[label + 1]) for label in labels] for labels in job.labels]
    positives = [np.concatenate([Y.indices[span] for span in group]).astype(np.int64) for group in spans]
    rows = _add_outside(shared, np.concatenate(positives))
    own_features = SOLVERS[settings.solver][1]
    group = gather(X, rows, least=2 if own_features else 1)
    W = empty_room((group.nr_places + group.dense.shape[1] + 1, LANES), np.float32)
    parts = []
    for of_label, of_group in zip(spans, positives, strict=True):
        pos_ptr = np.concatenate([[0], np.cumsum([span.stop - span.start for span in of_label])])
        pos_cost = np.concatenate([problem.cost[span] for span in of_label])
        place = _places(rows, len(shared), of_group)
        args = settings.solver, group, W, X.nr_sparse, len(shared), pos_ptr, place, pos_cost, numbers
        parts.append(solve_siblings(*args))
    return Solved(*(np.concatenate(piece) for piece in zip(*parts, strict=True)))


def solve_all(tasks: list[tuple[Problem, Job]], progress, desc: str, units=None):
    """Yield (number of the task, Solved) as they get done; the largest start first, so that no thread ends late.

    units: iterator over lists of the numbers of tasks that this process is to solve, one list after the other; None:
        all.
    """
    sizes = [job.size for _, job in tasks]
    shared = units is not None
    bar = progress(sum(sizes) // (count() if shared else 1), desc) if progress else None
    units = units if shared else [range(len(tasks))]
    order = (number for unit in units for number in sorted(unit, key=lambda number: -sizes[number]))
    for number, solved in thread_unordered(lambda number: solve_job(*tasks[number]), order):
        if bar:
            bar.update(sizes[number])
        yield number, solved
    if bar:
        if shared:
            bar.total = bar.n  # others may have done more or less than their part
        bar.close()


# ---------------------------------------------------------------------------- weights


def columns_in_order(jobs: list[Job], counts: list[np.ndarray], nr_labels: int) -> tuple[np.ndarray, ...]:
    """Where the weights of each label are, from the jobs' counts.

    Returns:
        job int64 [L] (-1 for a label without a parent), first int64 [L] (in the job's arrays), count int64 [L].
    """
    job, first, count = np.full(nr_labels, -1), np.zeros(nr_labels, np.int64), np.zeros(nr_labels, np.int64)
    for number, (each, of_labels) in enumerate(zip(jobs, counts, strict=True)):
        labels = np.concatenate(each.labels)
        job[labels], count[labels] = number, of_labels
        first[labels] = np.cumsum(of_labels) - of_labels
    return job, first, count


def assemble(problem: Problem, jobs: list[Job], solved: list[Solved]) -> sp.csc_matrix:
    """The jobs' weights as W, csc float32 [d + 1 or d, L]."""
    nr_labels = problem.Y.shape[1]
    job, first, count = columns_in_order(jobs, [part.count for part in solved], nr_labels)
    spans = [(solved[j], slice(a, a + n)) for j, a, n in zip(job, first, count, strict=True) if j >= 0]
    none = Solved(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    feature = np.concatenate([none.feature, *(part.feature[span] for part, span in spans)])
    weight = np.concatenate([none.weight, *(part.weight[span] for part, span in spans)])
    indptr = np.concatenate([[0], np.cumsum(count)])
    return sp.csc_matrix((weight, feature, indptr), shape=(problem.nr_weights, nr_labels))


def train_level(X, Y, C, M, *, R=None, progress=None, **settings) -> sp.csc_matrix:
    """Train a classifier for every label of a level.

    The instances of a label are the stored rows of M[:, parent] (negatives unless they are positives) and its
    positives: the stored entries of Y, whatever their value.

    Args:
        X: csr, ndarray or Features [n, d].
        Y: sparse [n, L].
        C: sparse [L, K], the one parent cluster of each label; a label without one gets no weights.
        M: sparse [n, K], which clusters each instance is matched with (pattern).
        R: sparse [n, L] inside the pattern of Y, cost of each positive; None for 1.
        progress: called as progress(total, description); its unit is an instance seen by a group of siblings.
        settings: of Solver:
            solver: a name in SOLVERS (solver.py).
            Cp, Cn: cost of positives and negatives.
            bias: value of the constant feature whose weight becomes the last row; 0 or less for none.
            eps: the dual solvers end at this span of the projected gradients (hinge), or largest derivative (logistic).
            newton_eps: the primal solver ends at this share of the gradient's first norm.
            max_iter: most passes of the dual solvers over the instances.
            threshold: smaller |weights| are dropped; zeros always are.
            max_nonzeros_per_label: keep at most so many largest |weights| of a label; 0 for all.

    Returns:
        W csc float32 [d + 1 or d, L].
    """
    problem = make_problem(feature_arrays(as_features(X)), Y, C, M, Solver(**settings), R)
    jobs = make_jobs(problem)
    solved = [None] * len(jobs)
    tasks = [(problem, job) for job in jobs]
    for number, part in solve_all(tasks, progress, f"training {problem.Y.shape[1]:,} classifiers"):
        solved[number] = part
    return assemble(problem, jobs, solved)


def train_dense_head(emb_nd, Y, C, M, *, R=None, Cp=100.0, Cn=100.0, eps=0.1, max_iter=100, progress=None):
    """Head of a transformer matcher from linear classifiers on embeddings, not thresholded (as PECOS's bootstrap).

    Args:
        emb_nd: float32 [n, d].
        Y, C, M, R, Cp, Cn, eps, max_iter, progress: as in train_level.

    Returns:
        W float32 [L, d] and b float32 [L].
    """
    settings = {"Cp": Cp, "Cn": Cn, "threshold": 0.0, "eps": eps, "max_iter": max_iter, "bias": 1.0}
    W = train_level(emb_nd, Y, C, M, R=R, progress=progress, **settings)
    dense = W.T.toarray()
    return np.ascontiguousarray(dense[:, :-1]), dense[:, -1].copy()
