"""Training of XR-Linear: a linear classifier for every tree node, against the negatives of its cluster."""

from functools import partial
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from xrt_jax.sparse import (
    as_features,
    canonical,
    feature_arrays,
    find_entries,
    nr_features,
    nr_rows,
    row_ids,
    scale_rows,
    thread_map,
    tracked,
)
from xrt_jax.tree.chain import aggregate_labels, check_chain, per_level
from xrt_jax.xlinear.instances import gather
from xrt_jax.xlinear.lanes import LANES
from xrt_jax.xlinear.predict import POST_PROCESSORS, advance, prepare_level, root_beam
from xrt_jax.xlinear.solver import PRIMAL, SOLVERS, solve_siblings

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


# ---------------------------------------------------------------------------- one level


class _Job(NamedTuple):
    parent: int
    labels: list[np.ndarray]  # siblings in groups that are solved together


def _jobs(M: sp.csc_matrix, C: sp.csc_matrix) -> list[_Job]:
    """Work for one thread each: groups of siblings whose instances are gathered once; clusters in order.

    The groups are the same whatever the number of threads. Where gathering costs nothing because a cluster has half of
    all instances or more, each group is a job.
    """
    siblings = np.split(C.indices, C.indptr[1:-1])
    jobs = []
    for parent, children in enumerate(siblings):
        groups = np.array_split(children, -(-len(children) // LANES) or 1) if len(children) else []
        a_job = 1 if 2 * (M.indptr[parent + 1] - M.indptr[parent]) >= M.shape[0] else GROUPS_PER_JOB
        jobs += [_Job(parent, groups[first : first + a_job]) for first in range(0, len(groups), a_job)]
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


def _solve_job(X, Y, M, cost, options, job: _Job):
    """Weights of a job's labels: count [labels], feature ids and weights one label after the other."""
    shared = M.indices[M.indptr[job.parent] : M.indptr[job.parent + 1]].astype(np.int64)
    spans = [[slice(Y.indptr[label], Y.indptr[label + 1]) for label in labels] for labels in job.labels]
    positives = [np.concatenate([Y.indices[span] for span in group]).astype(np.int64) for group in spans]
    rows = _add_outside(shared, np.concatenate(positives))
    group = gather(X, rows, least=1 if options[0] == PRIMAL else 2)
    parts = []
    for of_label, of_group in zip(spans, positives, strict=True):
        pos_ptr = np.concatenate([[0], np.cumsum([span.stop - span.start for span in of_label])])
        pos_cost = np.concatenate([cost[span] for span in of_label])
        place = _places(rows, len(shared), of_group)
        parts.append(solve_siblings(group, X.nr_sparse, len(shared), pos_ptr, place, pos_cost, *options))
    return tuple(np.concatenate(piece) for piece in zip(*parts, strict=True))


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


def _check_level(X, Y, C, M) -> None:
    if nr_rows(X) != Y.shape[0] or M.shape[0] != Y.shape[0]:
        raise ValueError(f"X has {nr_rows(X)} rows, Y {Y.shape[0]}, M {M.shape[0]}: all need one row an instance")
    if Y.shape[1] != C.shape[0] or M.shape[1] != C.shape[1]:
        raise ValueError(f"C has the shape {C.shape}, but Y has {Y.shape[1]} labels and M {M.shape[1]} clusters")
    parents = np.bincount(C.indices, minlength=C.shape[0])
    if (parents > 1).any():
        raise ValueError(f"label {parents.argmax()} has {parents.max()} parents in C: give each label one cluster")


def train_level(
    X,
    Y,
    C,
    M,
    *,
    R=None,
    solver: str = "L2R_L2LOSS_SVC_DUAL",
    Cp: float = 1.0,
    Cn: float = 1.0,
    threshold: float = 0.1,
    max_nonzeros_per_label: int = 0,
    eps: float = 0.1,
    newton_eps: float = 0.01,
    max_iter: int = 100,
    bias: float = 1.0,
    progress=None,
) -> sp.csc_matrix:
    """Train a classifier for every label of a level.

    The instances of a label are the stored rows of M[:, parent] (negatives unless they are positives) and its
    positives: the stored entries of Y, whatever their value.

    Args:
        X: csr, ndarray or Features [n, d].
        Y: sparse [n, L].
        C: sparse [L, K], the one parent cluster of each label; a label without one gets no weights.
        M: sparse [n, K], which clusters each instance is matched with (pattern).
        R: sparse [n, L] inside the pattern of Y, cost of each positive; None for 1.
        solver: one of SOLVERS.
        Cp, Cn: cost of positives and negatives.
        threshold: smaller |weights| are dropped; zeros always are.
        max_nonzeros_per_label: keep at most so many largest |weights| of a label; 0 for all.
        eps: the dual solvers end at this span of the projected gradients (hinge), or largest derivative (logistic).
        newton_eps: the primal solver ends at this share of the gradient's first norm.
        max_iter: most passes of the dual solvers over the instances.
        bias: value of the constant feature whose weight becomes the last row; 0 or less for none.
        progress: called as progress(total labels, description).

    Returns:
        W csc float32 [d + 1 or d, L].
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver is {solver!r}: choose one of {', '.join(SOLVERS)}")
    if min(Cp, Cn) <= 0:
        raise ValueError(f"Cp={Cp} and Cn={Cn} must be above 0")
    X, Y, C, M = as_features(X), canonical(Y, "csc"), canonical(C, "csc"), canonical(M, "csc")
    _check_level(X, Y, C, M)
    bias = max(float(bias), 0.0)
    options = (
        SOLVERS[solver],
        float(Cp),
        float(Cn),
        bias,
        float(eps),
        float(newton_eps),
        int(max_iter),
        float(threshold),
        int(max_nonzeros_per_label),
    )
    solve = partial(_solve_job, feature_arrays(X), Y, M, _costs(Y, R), options)
    jobs = _jobs(M, C)
    parts = list(
        tracked(
            thread_map(solve, jobs),
            [sum(map(len, job.labels)) for job in jobs],
            progress,
            f"training {Y.shape[1]} classifiers",
        )
    )
    return _assemble(parts, C.indices, (nr_features(X) + (bias > 0), Y.shape[1]))


def _assemble(parts, labels: np.ndarray, shape: tuple[int, int]) -> sp.csc_matrix:
    """The jobs' columns, which come in the order `labels`, as one csc in label order."""
    if not parts:
        return sp.csc_matrix(shape, dtype=np.float32)
    count, row, weight = (np.concatenate(piece) for piece in zip(*parts, strict=True))
    W = sp.csc_matrix((weight, row, np.concatenate([[0], np.cumsum(count)])), shape=(shape[0], len(labels)))
    if len(labels) == shape[1] and (labels == np.arange(shape[1])).all():
        return W
    orphan = len(labels)
    column = np.full(shape[1], orphan)
    column[labels] = np.arange(len(labels))
    W = sp.csc_matrix((W.data, W.indices, np.append(W.indptr, W.indptr[-1])), shape=(shape[0], orphan + 1))
    return W[:, column]


def train_dense_head(emb_nd, Y, C, M, *, R=None, Cp=100.0, Cn=100.0, eps=0.1, max_iter=100, progress=None):
    """Head of a transformer matcher from linear classifiers on embeddings, not thresholded (as PECOS's bootstrap).

    Args:
        emb_nd: float32 [n, d].
        Y, C, M, R, Cp, Cn, eps, max_iter, progress: as in train_level.

    Returns:
        W float32 [L, d] and b float32 [L].
    """
    solver = {"Cp": Cp, "Cn": Cn, "threshold": 0.0, "eps": eps, "max_iter": max_iter, "bias": 1.0}
    W = train_level(emb_nd, Y, C, M, R=R, progress=progress, **solver)
    dense = W.T.toarray()
    return np.ascontiguousarray(dense[:, :-1]), dense[:, -1].copy()


# ---------------------------------------------------------------------------- the tree


def pattern(A) -> sp.csr_matrix:
    """csr float32 with a one at every stored entry of A."""
    A = canonical(A, "csr")
    return sp.csr_matrix((np.ones(A.nnz, np.float32), A.indices, A.indptr), shape=A.shape)


def _normalized(R, norm: str):
    """Rows of R divided by their l1, l2 or max norm; zero rows stay zero."""
    if norm == "no-norm":
        return R
    total = {
        "l1": lambda A: A.sum(axis=1),
        "l2": lambda A: np.sqrt(A.multiply(A).sum(axis=1)),
        "max": lambda A: A.max(axis=1).toarray(),
    }
    norms = np.asarray(total[norm](R), dtype=np.float64).ravel()
    return scale_rows(R, 1 / np.where(norms > 0, norms, 1))


def relevance_chain(Y, R, chain, rel_mode: str, rel_norm: str) -> list:
    """[R_0, …, R_{D-1}], costs of the positives of every level, None where they are 1 (as PECOS).

    Args:
        Y: sparse [n, L].
        R: sparse [n, L] or None, which stands for ones at Y's entries.
        chain: cluster chain.
        rel_mode: "disable" (no costs), "induce" (summed up the tree) or "ranker-only" (last level only).
        rel_norm: "no-norm", "l1", "l2" or "max", over the row of each level.
    """
    if rel_mode == "disable":
        return [None] * len(chain)
    levels = aggregate_labels(pattern(Y) if R is None else R, chain)
    if rel_mode == "ranker-only":
        levels[:-1] = [None] * (len(chain) - 1)
    return [None if level is None else _normalized(level, rel_norm) for level in levels]


def check_settings(
    depth: int,
    *,
    negative_sampling=("tfn",),
    rel_mode: str = "disable",
    rel_norm: str = "no-norm",
    post_processor=("l3-hinge",),
    **tuples,
) -> None:
    """ValueError for settings of train_ranker that no tree of this depth can be trained with; `tuples`: its others."""
    for key, values in {"negative_sampling": negative_sampling, "post_processor": post_processor, **tuples}.items():
        if isinstance(values, tuple):
            per_level(f"ranker.{key}", values, depth)
    choices = [("negative_sampling", scheme, ("tfn", "man", "tfn+man")) for scheme in negative_sampling]
    choices += [("post_processor", name, tuple(POST_PROCESSORS)) for name in post_processor]
    choices += [("rel_mode", rel_mode, ("disable", "induce", "ranker-only"))]
    choices += [("rel_norm", rel_norm, ("no-norm", "l1", "l2", "max"))]
    for key, value, known in choices:
        if value not in known:
            raise ValueError(f"ranker.{key} is {value!r}: choose one of {', '.join(known)}")


def _matches(scheme: str, Y_above, beam) -> sp.csr_matrix:
    """M of a level: clusters of the true labels (tfn), of the beam (man), or both."""
    parts = {"tfn": [Y_above], "man": [beam], "tfn+man": [Y_above, beam]}[scheme]
    return sum((pattern(part) for part in parts[1:]), pattern(parts[0]))


def train_ranker(
    X,
    Y,
    chain,
    *,
    Cp=(1.0,),
    Cn=(1.0,),
    threshold=(0.1,),
    max_nonzeros_per_label=(0,),
    eps=(0.1,),
    max_iter: int = 100,
    bias: float = 1.0,
    negative_sampling=("tfn",),
    rel_mode: str = "disable",
    rel_norm: str = "no-norm",
    R=None,
    only_topk=(20,),
    post_processor=("l3-hinge",),
    progress=None,
) -> Ranker:
    """Train XR-Linear, top level first.

    Args:
        X: csr, ndarray or Features [n, d].
        Y: sparse [n, L].
        chain: complete cluster chain over the L labels (tree/chain.py).
        Cp, Cn, threshold, max_nonzeros_per_label, eps, negative_sampling, only_topk, post_processor: tuples of one
            value or of one a level. negative_sampling: "tfn" (teacher forcing: clusters of the true labels), "man"
            (clusters in the beam of the levels trained so far, on the training instances) or "tfn+man"; the first
            level takes all instances.
        max_iter, bias: as in train_level.
        rel_mode, rel_norm, R: costs of the positives (relevance_chain).
        progress: called as progress(total, description) for every level.

    Returns:
        One Level a matrix of the chain.
    """
    check_chain(chain, "cluster chain")
    depth = len(chain)
    solver = {"Cp": Cp, "Cn": Cn, "threshold": threshold, "max_nonzeros_per_label": max_nonzeros_per_label, "eps": eps}
    others = {"negative_sampling": negative_sampling, "only_topk": only_topk, "post_processor": post_processor}
    check_settings(depth, rel_mode=rel_mode, rel_norm=rel_norm, **solver, **others)
    solver_t = [{key: per_level(key, values, depth)[t] for key, values in solver.items()} for t in range(depth)]
    mining_t, topk_t, post_t = (per_level(key, values, depth) for key, values in others.items())

    X, Y_t = as_features(X), aggregate_labels(Y, chain)
    R_t = relevance_chain(Y, R, chain, rel_mode, rel_norm)
    ranker: Ranker = []
    beam = root_beam(nr_rows(X))
    for t, C in enumerate(chain):
        M = beam if t == 0 else _matches(mining_t[t], Y_t[t - 1], beam)
        W = train_level(X, Y_t[t], C, M, R=R_t[t], max_iter=max_iter, bias=bias, progress=progress, **solver_t[t])
        ranker.append(Level(W, canonical(C, "csc"), max(float(bias), 0.0), topk_t[t], post_t[t]))
        if any("man" in scheme for scheme in mining_t[t + 1 :]):
            beam = advance(prepare_level(ranker[t]), X, beam, topk_t[t], post_t[t], is_first=t == 0, progress=progress)
    return ranker
