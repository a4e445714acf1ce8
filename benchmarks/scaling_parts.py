"""The parts of a run of XR-Linear, one after the other in this one process with one thread: seconds, work, bytes.

python scaling_parts.py DATA NR_SPLITS MAX_LEAF_SIZE        the last line printed is JSON, see `measure`
"""

import json
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from measure import load_split, peak_memory, timed
from simulation import ENTRY, Sizes, Stage, fit_growth, fit_pace, fit_rarity

from xrt_jax.disk import fingerprint
from xrt_jax.sharing import write_array
from xrt_jax.sparse import Features, canonical, feature_arrays
from xrt_jax.tree.chain import aggregate_labels, binary_depth, complete_chain
from xrt_jax.tree.kmeans import Node, _split_layer, layers_above
from xrt_jax.tree.label_embedding import _transposed, _unit_rows
from xrt_jax.tree.passes import Product, embeddings_of
from xrt_jax.tree.two_means import Settings
from xrt_jax.xlinear.compiled import load_kernels
from xrt_jax.xlinear.estimate import POWER, solve_timed
from xrt_jax.xlinear.folder import level_folder, load_ranker, save_level_but_weights, save_top
from xrt_jax.xlinear.level import Level, Solver, make_jobs, make_problem
from xrt_jax.xlinear.parts import OnDisk
from xrt_jax.xlinear.predict import root_beam
from xrt_jax.xlinear.sub_trees import sub_trees, work_units
from xrt_jax.xlinear.train import _instances

NR_SUB_TREES = 16  # of configs/default.py


def cluster(Z, A, X: Features, max_leaf_size: int) -> tuple[list, list[Stage], dict]:
    """(Leaf clusters' labels, a stage for each top layer and one for the sub-trees, the fits of their seconds)."""
    E, sizes, depth = (
        embeddings_of(Product(Z, A, X)),
        np.diff(Z.sparse.indptr),
        binary_depth(Z.sparse.shape[0], max_leaf_size),
    )
    nnz, settings = np.diff(X.sparse.indptr), Settings(0, True, 20)
    nodes, stages, fits = [Node(1, np.arange(len(sizes)), True)], [], {"top": ([], []), "cluster": ([], [])}
    nr_top = min(depth, layers_above(NR_SUB_TREES))
    for first, last in [(layer, layer + 1) for layer in range(nr_top)] + [(nr_top, depth)] * (depth > nr_top):
        took, read, children = [], [], []
        for node in nodes:
            below, total = [node], 0.0
            for _ in range(first, last):
                spent, below = timed(_split_layer, E, 1.0, settings, below, None, "")
                total += spent
            shares = A[node.labels].indices
            entries = sizes[node.labels].sum(dtype=float)
            through_parts = nnz[np.unique(shares)].sum(dtype=float) + len(shares)
            took.append(total)
            read.append(min(entries, through_parts) if last == first + 1 else entries * (last - first))
            children += below
        nodes = children
        for into, values in zip(fits["top" if first < nr_top else "cluster"], (read, took), strict=True):
            into.extend(values)
        name = f"clustering, layer {first}" if first < nr_top else "clustering, sub-trees"
        stages.append(Stage(name, units=np.array(took), longest=np.array(took), own=ENTRY * np.array(read)))
    return [node.labels for node in nodes], stages, {key: fit_pace(*fit) for key, fit in fits.items() if fit[0]}


def train(X: Features, Y, chain, folder: Path) -> tuple[list[Stage], dict]:
    """(Stages, figures of the model) of all levels' rankers, trained into a folder."""
    arrays, n, nnz = feature_arrays(X), Y.shape[0], X.sparse.nnz / Y.shape[0]
    checksum, _ = timed(fingerprint, X.sparse.data, X.sparse.indices, Y.data, Y.indices)
    spent, Y_t = timed(lambda: [canonical(level, "csc") for level in aggregate_labels(Y, chain)])
    problems, beam = [], root_beam(n)
    for t, C in enumerate(chain):
        more, M = timed(_instances, t, chain, Y_t, ["tfn"], None, None) if t else (0.0, beam)
        took, problem = timed(make_problem, arrays, Y_t[t], C, M, Solver())
        spent += more + took
        problems.append(problem)
    jobs_seconds, jobs = timed(lambda: [make_jobs(problem) for problem in problems])
    tracemalloc.start()
    jobs = [make_jobs(problem) for problem in problems]
    job_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    tasks = [(t, number) for t, of_level in enumerate(jobs) for number in range(len(of_level))]
    units = work_units([(t, jobs[t][number].parent) for t, number in tasks], sub_trees(chain, NR_SUB_TREES))
    stores = [OnDisk(folder / f"{t}.parts", len(of_level)) for t, of_level in enumerate(jobs)]
    seconds, longest, work, share = (np.zeros(len(units)) for _ in range(4))
    for i, unit in enumerate(units):
        seen = np.zeros(n, bool)
        for t, number in (tasks[task] for task in unit):
            job, M = jobs[t][number], problems[t].M
            rows = M.indices[M.indptr[job.parent] : M.indptr[job.parent + 1]]
            seen[rows] = True
            part, took = solve_timed((problems[t], job))
            stores[t].add(number, part)
            seconds[i], longest[i] = seconds[i] + took, max(longest[i], took)
            work[i] += job.size * np.diff(X.sparse.indptr)[rows].mean() if len(rows) else 0
        share[i] = seen.mean()
    levels = [Level(None, C, 1.0, 20, "l3-hinge") for C in chain]
    save, _ = timed(save_model, folder / "model", levels, stores, problems, jobs)
    load, ranker = timed(load_ranker, folder / "model")
    weights = sum(level.W.nnz for level in ranker)
    positives = sum(float((np.diff(level.indptr) ** POWER).sum()) for level in Y_t)
    under = [np.asarray(Y.sum(axis=0)).ravel() @ complete(chain, t) for t in range(1, len(chain))]
    found = [np.diff(problem.M.indptr) for problem in problems[1:]]
    rarity = [fit_rarity(n, *pair) for pair in zip(found, under, strict=True)][::-1]
    Y_all, M_all = (sum(getattr(problem, name).nnz for problem in problems) for name in "YM")
    stages = [
        Stage(
            "problems",
            exchanges=2 * len(chain) + 1,
            first=spent + checksum,
            every=jobs_seconds,
            written=12 * Y_all + ENTRY * M_all,
        ),
        Stage("training", units=seconds, longest=longest, mapped=((ENTRY * X.sparse.nnz, share),)),
        Stage("writing", first=save + load),
    ]
    model = {"problems": spent / Y_all, "fingerprint": checksum / ENTRY / (X.sparse.nnz + Y.nnz)}
    model |= {
        "jobs": jobs_seconds / chain[-1].shape[1],
        "job_bytes": job_bytes / Y.shape[1],
        "train": fit_pace(work, seconds),
    }
    model |= {
        "weights": weights / positives / nnz,
        "save": save / weights,
        "load": load / weights,
        "rarity": rarity or [1.0],
    }
    return stages, model


def complete(chain, t: int):
    """Labels to their nodes of the level above level t, sparse [L, nodes]."""
    below = chain[-1]
    for C in chain[t:-1][::-1]:
        below = below @ C
    return below


def save_model(folder: Path, levels, stores, problems, jobs) -> None:
    """As train_to_folder writes a model."""
    for t, (store, problem, of_level) in enumerate(zip(stores, problems, jobs, strict=True)):
        store.save_weights(level_folder(folder, t) / "W.npz", problem, of_level)
        save_level_but_weights(folder, t, levels[t], problem.X.nr_sparse)
        store.close()
    save_top(folder, len(levels), levels[-1], problems[0].X.nr_sparse)


def measure(data: Path, nr_splits: int, max_leaf_size: int) -> dict:
    """{"sizes": of the data, "stages": measured, "model": of the cost, "base": bytes of memory, "disk": bytes/s}."""
    kernels, _ = timed(load_kernels, True, False)  # numba's cache is filled
    base = peak_memory()
    read, (X, _, Y) = timed(load_split, data, "trn")
    n, L, X = X.shape[0], Y.shape[1], Features(X, None)
    sizes = Sizes(n, X.sparse.shape[1], L, X.sparse.nnz / n, Y.nnz / n)
    transpose, Yt = timed(_transposed, Y, X, True)
    embed, (Z, A) = timed(_unit_rows, Yt, X)
    leaves, stages, fits = cluster(Z, A, X, max_leaf_size)
    indptr = np.cumsum([0, *map(len, leaves)])
    C = sp.csc_matrix((np.ones(L, np.float32), np.concatenate(leaves), indptr), shape=(L, len(leaves)))
    with tempfile.TemporaryDirectory(dir=data) as folder:
        disk, _ = timed(write_array, Path(folder) / "X.npy", X.sparse.data)
        more, model = train(X, Y, complete_chain(C, nr_splits=nr_splits, min_codes=None), Path(folder))
    model |= {"read": read / ENTRY / (X.sparse.nnz + Y.nnz), "kernels": kernels, "transpose": transpose / Y.nnz}
    model |= {
        "embed": embed / (Y.nnz * sizes.nnz),
        "growth": fit_growth(sizes.nnz, np.diff(Yt.indptr), Z.sparse.nnz),
    } | fits
    before = [
        Stage("reading", first=read, written=ENTRY * X.sparse.nnz),
        Stage("compiled code", exchanges=2, first=kernels),
        Stage("transposing", first=transpose, written=ENTRY * Y.nnz),
        Stage(
            "label embedding",
            exchanges=19,
            even=embed,
            gathered=ENTRY * Z.sparse.nnz,
            common=ENTRY * (X.sparse.nnz + Y.nnz),
        ),
    ]
    found = [stage._asdict() for stage in (*before, *stages, *more)]
    return {"sizes": sizes, "stages": found, "model": model, "base": base, "disk": X.sparse.data.nbytes / disk}


if __name__ == "__main__":
    result = measure(Path(sys.argv[1]), *map(int, sys.argv[2:]))
    print(json.dumps(result, default=lambda array: array.tolist()))
