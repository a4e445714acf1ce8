"""Training of XR-Linear down the label tree, in memory or, for models that do not fit, straight to disk."""

import shutil
from functools import partial
from itertools import pairwise
from pathlib import Path

import numba
import numpy as np

from xrt_jax.disk import fingerprint, read_json, replace_folder, write_json
from xrt_jax.processes import count, from_each, from_first, is_first
from xrt_jax.sharing import gather_rows, own_rows
from xrt_jax.sparse import Features, as_features, canonical, feature_arrays, nr_features, nr_rows, scale_rows
from xrt_jax.tree.chain import aggregate_labels, check_fits, pattern, per_level
from xrt_jax.xlinear.estimate import choose_pilots, estimate, solve_timed
from xrt_jax.xlinear.folder import level_folder, save_level_but_weights, save_top
from xrt_jax.xlinear.level import Job, Level, Problem, Ranker, Solver, make_jobs, make_problem, solve_all
from xrt_jax.xlinear.parts import InMemory, OnDisk
from xrt_jax.xlinear.postprocess import parse
from xrt_jax.xlinear.predict import advance, prepare_level, root_beam
from xrt_jax.xlinear.sub_trees import Sharing, claimed_units, share_problem

# schemes of negative sampling, as PECOS names them -> what they sum up
MINING = {name: name.split("+") for name in ("tfn", "man", "tfn+man", "usn", "usn+tfn", "usn+man", "usn+tfn+man")}


# ---------------------------------------------------------------------------- costs


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
        R: sparse [n, L] or None: to be induced, ones at Y's entries, else no costs.
        chain: cluster chain.
        rel_mode: "disable" (no costs), "induce" (summed up the tree) or "ranker-only" (last level only).
        rel_norm: "no-norm", "l1", "l2" or "max", over the row of each level.
    """
    if rel_mode == "disable" or (rel_mode == "ranker-only" and R is None):
        return [None] * len(chain)
    levels = aggregate_labels(pattern(Y) if R is None else R, chain)
    if rel_mode == "ranker-only":
        levels[:-1] = [None] * (len(chain) - 1)
    return [None if level is None else _normalized(level, rel_norm) for level in levels]


# ---------------------------------------------------------------------------- settings


def check_settings(
    depth: int,
    *,
    negative_sampling=("tfn",),
    rel_mode: str = "disable",
    rel_norm: str = "no-norm",
    only_topk=(20,),
    post_processor=("l3-hinge",),
    matching=None,
    **solver,
) -> list[Solver]:
    """The solver settings of every level; ValueError for settings of train_ranker that fit no tree of this depth."""
    several = {"negative_sampling": negative_sampling, "only_topk": only_topk, "post_processor": post_processor}
    for key, values in several.items():
        per_level(f"ranker.{key}", values, depth)
    choices = [("negative_sampling", scheme, tuple(MINING)) for scheme in negative_sampling]
    choices += [("rel_mode", rel_mode, ("disable", "induce", "ranker-only"))]
    choices += [("rel_norm", rel_norm, ("no-norm", "l1", "l2", "max"))]
    for key, value, known in choices:
        if value not in known:
            raise ValueError(f"ranker.{key} is {value!r}: choose one of {', '.join(known)}")
    for name in post_processor:
        try:
            parse(name)
        except ValueError as error:
            raise ValueError(f"ranker.{error}") from None
    if matching is None and any("usn" in scheme for scheme in negative_sampling):
        raise ValueError(
            "ranker.negative_sampling has usn, which needs data.matches (in Python, the argument `matching`)"
        )
    if any(value != int(value) or value < 1 for value in only_topk):
        raise ValueError(f"ranker.only_topk is {only_topk}: it takes whole numbers from 1 on")
    solver = {
        key: per_level(f"ranker.{key}", value, depth) if isinstance(value, tuple | list) else (value,) * depth
        for key, value in solver.items()
    }
    levels = [Solver(**{key: values[t] for key, values in solver.items()}) for t in range(depth)]
    for level in levels:
        try:
            level.check()
        except ValueError as error:
            raise ValueError(f"ranker.{error}") from None
    return [level.settled() for level in levels]


# ---------------------------------------------------------------------------- the tree


def train_ranker(X, Y, chain, *, progress=None, **settings) -> Ranker:
    """Train XR-Linear.

    Args:
        X: csr, ndarray or Features [n, d].
        Y: sparse [n, L].
        chain: cluster chain over the L labels (tree/chain.py). A partial one, whose first matrix has more than one
            column (part_of_tree), needs negatives for its first level too, tfn or usn, and for man below it `matching`,
            with which its beam starts (PECOS starts at all clusters).
        progress: called as progress(total, description) for each batch of levels.
        settings: a tuple of one value serves every level.
            negative_sampling: per level, sums of "tfn" (teacher forcing: clusters of the true labels), "man" (clusters
                in the beam of the levels trained so far, on the training instances) and "usn" (`matching`), such as
                "tfn+man". The first level of a complete chain takes all instances.
            matching: for usn, what matching_chain made of the given clusters.
            rel_mode, rel_norm, R: costs of the positives (relevance_chain).
            only_topk, post_processor: per level, of the beam search.
            Those of train_level, each a value or a tuple of one a level.

    Returns:
        One Level a matrix of the chain.
    """
    levels = _train(X, Y, chain, lambda t, nr_jobs: InMemory(nr_jobs), progress, None, None, **settings)
    return [level._replace(W=store.weights(problem, jobs)) for level, problem, jobs, store in levels]


def train_to_folder(folder, X, Y, chain, *, progress=None, tell=None, shared=None, **settings) -> None:
    """Train XR-Linear into a PECOS XLinearModel folder (load_ranker reads it); arguments as in train_ranker.

    Weights go to disk as clusters get done: memory holds the data and a cluster a thread, not the model (with man, also
    the levels above). Killed and called again on the same problem, training goes on with the clusters that are missing.
    tell: called with an Estimate (estimate.py) once the first few clusters of a batch of levels are done.
    shared: how the processes of a run work together (Sharing), which all call this, with the same X and chain; Y and
        the matrices among the settings are read in the first one only. The model has the bits of one process's.
    """
    folder, X = Path(folder), as_features(X)
    work = folder.with_name(folder.name + ".training")
    if is_first():
        matrices = [X.sparse, Y, *chain, settings.get("R"), *(settings.get("matching") or [])]
        numbers = {key: value for key, value in settings.items() if key not in ("R", "matching")}
        _open_work(work, fingerprint(X.dense, *(part for A in matrices for part in _arrays(A)), numbers))
    if shared:
        from_first()
    make_store = lambda t, nr_jobs: OnDisk(work / f"{t}.parts", nr_jobs)  # noqa: E731
    levels = _train(X, Y, chain, make_store, progress, tell, shared, **settings)
    if is_first():
        with replace_folder(folder) as tmp:
            for t, (level, problem, jobs, store) in enumerate(levels):
                store.refresh()
                store.save_weights(level_folder(tmp, t) / "W.npz", problem, jobs)
                save_level_but_weights(tmp, t, level, nr_features(X))
            save_top(tmp, len(chain), levels[-1][0], nr_features(X))
    for *_, store in levels:
        store.close()
    if shared:
        from_first()
    if is_first():
        shutil.rmtree(work)


def _arrays(A) -> tuple:
    """What makes a matrix, or None."""
    if A is None:
        return (None,)
    A = canonical(A, "csr")
    return A.shape, A.indptr, A.indices, A.data


def _open_work(work: Path, checksum: int) -> None:
    """Take up the directory of an unfinished training if it was of the problem with this checksum, else empty it."""
    problem, path = {"problem": checksum}, work / "problem.json"
    if not path.is_file() or read_json(path) != problem:
        shutil.rmtree(work, ignore_errors=True)
        write_json(path, problem)


def _train(
    X,
    Y,
    chain,
    make_store,
    progress,
    tell,
    shared: Sharing | None,
    *,
    negative_sampling=("tfn",),
    matching=None,
    rel_mode: str = "disable",
    rel_norm: str = "no-norm",
    R=None,
    only_topk=(20,),
    post_processor=("l3-hinge",),
    **solver,
) -> list[tuple[Level, Problem, list[Job], object]]:
    """Solve every level into a store of make_store(level, number of jobs); the levels come without their weights."""
    check_fits(chain, "cluster chain")
    chain, depth = [canonical(C, "csc") for C in chain], len(chain)
    several = {"negative_sampling": negative_sampling, "only_topk": only_topk, "post_processor": post_processor}
    settings = check_settings(depth, rel_mode=rel_mode, rel_norm=rel_norm, matching=matching, **several, **solver)
    mining, topk, post = (per_level(key, values, depth) for key, values in several.items())
    X = as_features(X)
    arrays, folder = feature_arrays(X), shared and shared.folder
    if is_first() or not shared:
        R_t = relevance_chain(Y, R, chain, rel_mode, rel_norm)
        Y_t = [canonical(Y, "csc") for Y in aggregate_labels(Y, chain)]
    complete = chain[0].shape[1] == 1
    own = own_rows(folder, nr_rows(X))  # the rows that this process takes through the beam search
    X_own = X if folder is None else Features(*(part if part is None else part[own] for part in X))
    beam = root_beam(nr_rows(X_own)) if complete else matching and matching[0]
    whole_beam = root_beam(nr_rows(X)) if complete else beam  # in the first process

    def problem_of(t: int) -> Problem:
        M = whole_beam if t == 0 and complete else _instances(t, chain, Y_t, MINING[mining[t]], whole_beam, matching)
        return make_problem(arrays, Y_t[t], chain[t], M, settings[t], R_t[t])

    levels = []
    for batch in _batches(mining):
        for t in batch:
            problem = share_problem(folder, f"{t}.problem", arrays, settings[t], partial(problem_of, t))
            jobs = make_jobs(problem)
            level = Level(None, problem.C, problem.settings.bias, topk[t], post[t])
            levels.append((level, problem, jobs, make_store(t, len(jobs))))
        _solve_batch([levels[t] for t in batch], progress, tell, shared, chain, batch.start)
        for t in batch if batch.stop < depth else ():
            level, problem, jobs, store = levels[t]
            if beam is None:
                raise ValueError("negative_sampling man on a partial chain needs the matches of its first level")
            if shared:
                store.refresh()
            nr_dense = 0 if X.dense is None else X.dense.shape[1]
            prepared = prepare_level(level._replace(W=store.weights(problem, jobs)), nr_dense)
            is_root = t == 0 and complete
            beam = advance(prepared, X_own, beam, topk[t], post[t], is_first=is_root, progress=progress)
        if batch.stop < depth:
            whole_beam = gather_rows(folder, f"{batch.stop}.beam", beam)
    return levels


def _batches(mining: tuple[str, ...]) -> list[range]:
    """Levels that can be trained together: one that needs the beam of those above starts a new batch."""
    starts = [0] + [t for t in range(1, len(mining)) if "man" in MINING[mining[t]]] + [len(mining)]
    return [range(first, stop) for first, stop in pairwise(starts)]


def _instances(t: int, chain, Y_t: list, scheme: list[str], beam, matching):
    """M of a level, sparse [n, clusters]: the sum of what the scheme names."""
    above = Y_t[t - 1] if t else canonical(Y_t[0] @ chain[0], "csc")
    given = {"tfn": above, "man": beam if t else None, "usn": None if matching is None else matching[t]}
    parts = [given[name] for name in scheme if given[name] is not None]
    if not parts:
        raise ValueError(f"level {t}: negative_sampling is {'+'.join(scheme)}, but `matching` has nothing for it")
    return parts[0] if len(parts) == 1 else sum((pattern(part) for part in parts[1:]), pattern(parts[0]))


def _solve_batch(levels: list[tuple], progress, tell, shared: Sharing | None, chain, first: int) -> None:
    """Solve what the stores miss: all levels' jobs in one queue, so that one with few of them keeps no thread idle.

    With several processes the queue is shared out, a sub-tree at a time. first: number of the batch's first level.
    """
    missing = [(t, number) for t, (*_, store) in enumerate(levels) for number in store.missing()]
    tasks = [(levels[t][1], levels[t][2][number]) for t, number in missing]
    stores = [levels[t][3] for t, _ in missing]
    if shared:
        from_each()  # all have seen what is missing before it gets less
    pilots = choose_pilots(tasks) if tell else []
    if pilots and (is_first() or not shared):
        solved = {task: solve_timed(tasks[task]) for task in pilots}
        for task, (part, _) in solved.items():
            stores[task].add(missing[task][1], part)
        tell(estimate(tasks, solved, numba.get_num_threads() * (count() if shared else 1)))
    rest = sorted(set(range(len(tasks))) - set(pilots))
    where = [(first + missing[task][0], tasks[task][1]) for task in rest]
    units = claimed_units(where, chain, shared, f"training from level {first} on") if shared else None
    nr_labels = sum(len(labels) for _, job in where for labels in job.labels)
    desc = f"training {nr_labels:,} classifiers"
    for number, part in solve_all([tasks[task] for task in rest], progress, desc, units):
        stores[rest[number]].add(missing[rest[number]][1], part)
    if shared:
        from_each()
