"""Training of XR-Linear down the label tree, in memory or, for models that do not fit, straight to disk."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np

from xrt_jax.disk import fingerprint, read_json, replace_folder, write_json
from xrt_jax.sparse import as_features, canonical, feature_arrays, nr_features, nr_rows, scale_rows
from xrt_jax.tree.chain import aggregate_labels, check_fits, pattern, per_level
from xrt_jax.xlinear.estimate import choose_pilots, estimate, solve_timed
from xrt_jax.xlinear.folder import level_folder, save_level_but_weights, save_top
from xrt_jax.xlinear.level import Job, Level, Problem, Ranker, Solver, make_jobs, make_problem, solve_all
from xrt_jax.xlinear.parts import InMemory, OnDisk
from xrt_jax.xlinear.postprocess import parse
from xrt_jax.xlinear.predict import advance, prepare_level, root_beam

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
    return levels


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
    levels = _train(X, Y, chain, lambda t, nr_jobs: InMemory(nr_jobs), progress, None, **settings)
    return [level._replace(W=store.weights(problem, jobs)) for level, problem, jobs, store in levels]


def train_to_folder(folder, X, Y, chain, *, progress=None, tell=None, **settings) -> None:
    """Train XR-Linear into a PECOS XLinearModel folder (load_ranker reads it); arguments as in train_ranker.

    Weights go to disk as clusters get done: memory holds the data and a cluster a thread, not the model (with man, also
    the levels above). Killed and called again on the same problem, training goes on with the clusters that are missing.
    tell: called with an Estimate (estimate.py) once the first few clusters of a batch of levels are done.
    """
    folder, X = Path(folder), as_features(X)
    work = folder.with_name(folder.name + ".training")
    matrices = [X.sparse, Y, *chain, settings.get("R"), *(settings.get("matching") or [])]
    numbers = {key: value for key, value in settings.items() if key not in ("R", "matching")}
    _open_work(work, fingerprint(X.dense, *(part for A in matrices for part in _arrays(A)), numbers))
    levels = _train(X, Y, chain, lambda t, nr_jobs: OnDisk(work / f"{t}.parts", nr_jobs), progress, tell, **settings)
    with replace_folder(folder) as tmp:
        for t, (level, problem, jobs, store) in enumerate(levels):
            store.save_weights(level_folder(tmp, t) / "W.npz", problem, jobs)
            store.close()
            save_level_but_weights(tmp, t, level, nr_features(X))
        save_top(tmp, len(chain), levels[-1][0], nr_features(X))
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
    arrays, R_t = feature_arrays(X), relevance_chain(Y, R, chain, rel_mode, rel_norm)
    Y_t = [canonical(Y, "csc") for Y in aggregate_labels(Y, chain)]
    complete = chain[0].shape[1] == 1
    beam = root_beam(nr_rows(X)) if complete else matching and matching[0]

    levels = []
    for batch in _batches(mining):
        for t in batch:
            M = beam if t == 0 and complete else _instances(t, chain, Y_t, MINING[mining[t]], beam, matching)
            problem = make_problem(arrays, Y_t[t], chain[t], M, settings[t], R_t[t])
            jobs = make_jobs(problem)
            level = Level(None, problem.C, problem.settings.bias, topk[t], post[t])
            levels.append((level, problem, jobs, make_store(t, len(jobs))))
        _solve_batch([levels[t] for t in batch], progress, tell)
        for t in batch if batch.stop < depth else ():
            level, problem, jobs, store = levels[t]
            if beam is None:
                raise ValueError("negative_sampling man on a partial chain needs the matches of its first level")
            nr_dense = 0 if X.dense is None else X.dense.shape[1]
            prepared = prepare_level(level._replace(W=store.weights(problem, jobs)), nr_dense)
            is_first = t == 0 and complete
            beam = advance(prepared, X, beam, topk[t], post[t], is_first=is_first, progress=progress)
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


def _solve_batch(levels: list[tuple], progress, tell) -> None:
    """Solve what the stores miss: all levels' jobs in one queue, so that one with few of them keeps no thread idle."""
    where = [(number, store) for *_, store in levels for number in store.missing()]
    tasks = [(problem, jobs[number]) for _, problem, jobs, store in levels for number in store.missing()]
    pilots = {number: solve_timed(tasks[number]) for number in choose_pilots(tasks)} if tell else {}
    for task, (solved, _) in pilots.items():
        number, store = where[task]
        store.add(number, solved)
    if pilots:
        tell(estimate(tasks, pilots))
    rest = [task for task in range(len(tasks)) if task not in pilots]
    nr_labels = sum(len(labels) for task in rest for labels in tasks[task][1].labels)
    for task, solved in solve_all([tasks[task] for task in rest], progress, f"training {nr_labels:,} classifiers"):
        number, store = where[rest[task]]
        store.add(number, solved)
