"""A run of XR-Linear over MPI as barriers and units of work between them: how long it takes on any number of ranks.

Pure arithmetic, no clock: benchmarks/scaling.py feeds it with what benchmarks/scaling_parts.py has measured. Who takes
which unit is decided by the functions that the ranks themselves use (xrt_jax/sharing.py).
"""

import heapq
from typing import NamedTuple

import numpy as np

from xrt_jax.sharing import assign, in_turn
from xrt_jax.tree.chain import binary_depth, tree_sizes
from xrt_jax.tree.kmeans import LARGE_NODE, layers_above
from xrt_jax.xlinear.estimate import POWER
from xrt_jax.xlinear.instances import stay_in_place
from xrt_jax.xlinear.lanes import LANES
from xrt_jax.xlinear.level import GROUPS_PER_JOB
from xrt_jax.xlinear.mpi import _PAUSES

NR_SPLITS, MAX_LEAF_SIZE = 16, 100
SUB_TREES_A_RANK = 4  # distributed.min_n_sub_tree in the simulation, 16 or more
FREQUENCY_POWER = 0.7  # a label's frequency falls with its rank like this power
ENTRY, PAGE = 8, 4096  # bytes of a non-zero, index and value, in arrays of their own; and of a page of memory
PAUSES_A_DOUBLING = 4  # that an exchange of messages takes, each time the number of ranks doubles; seen with 2 to 12


class Machine(NamedTuple):
    """Ranks, one a host; threads of each; bytes/s of the shared disk for one host and for all together."""

    ranks: int
    threads: int
    host_disk: float
    disk: float


class Stage(NamedTuple):
    """What happens between two barriers; seconds are those of one thread.

    Attributes:
        first: seconds in the first rank while the others wait; every: seconds in every rank, whatever their number.
        exchanges: of messages between the ranks.
        even: seconds that ranks and threads share evenly.
        units: seconds of each unit of work; longest: the part of a unit that only one thread can work on.
        written: bytes by the first rank, gathered: by all together, only if there are several.
        mapped: (bytes, share that each unit reads) of arrays; own: other bytes that a unit reads, and no other unit.
        common: bytes that every rank reads; private, of_first: bytes that every, the first rank has for itself.
    """

    name: str
    first: float = 0.0
    every: float = 0.0
    exchanges: int = 1
    even: float = 0.0
    units: np.ndarray = np.zeros(0)
    longest: np.ndarray = np.zeros(0)
    written: float = 0.0
    gathered: float = 0.0
    mapped: tuple = ()
    own: np.ndarray = np.zeros(0)
    common: float = 0.0
    private: float = 0.0
    of_first: float = 0.0


def run_units(seconds: np.ndarray, nr_ranks: int) -> tuple[float, list[list[int]]]:
    """(Seconds until the last unit is done, the units that each rank took), event by event."""
    units = assign(seconds, nr_ranks)
    turns = [iter(in_turn(units, rank)) for rank in range(nr_ranks)]
    took, taken, end = [[] for _ in range(nr_ranks)], set(), 0.0
    ready = [(0.0, rank) for rank in range(nr_ranks)]
    while ready:
        now, rank = heapq.heappop(ready)
        unit = next((unit for unit in turns[rank] if unit not in taken), None)
        end = max(end, now)
        if unit is not None:
            taken.add(unit)
            took[rank].append(unit)
            heapq.heappush(ready, (now + float(seconds[unit]), rank))
    return end, took


def exchange_seconds(nr_ranks: int) -> float:
    """Until all ranks have heard from all."""
    return PAUSES_A_DOUBLING * np.log2(nr_ranks) * _PAUSES[1]


def run_stage(stage: Stage, machine: Machine) -> tuple[float, np.ndarray]:
    """(Seconds, bytes of memory of each rank) of a stage."""
    ranks, threads, host_disk, disk = machine
    pieces = np.maximum(stage.units / threads, stage.longest)
    seconds, took = run_units(pieces, ranks)
    mapped = np.array([stage.own[mine].sum() if len(stage.own) else 0.0 for mine in took]) + stage.common
    for size, share in stage.mapped:
        mapped += size * (1 - np.array([np.prod(1 - share[mine]) for mine in took]))
    seconds += stage.first + stage.every + stage.even / (ranks * threads)
    if ranks > 1:
        seconds += (
            stage.exchanges * exchange_seconds(ranks)
            + stage.written / host_disk
            + stage.gathered / min(disk, ranks * host_disk)
        )
        seconds += max(mapped.max() / host_disk, mapped.sum() / disk)
    mapped += stage.private
    mapped[0] += stage.of_first
    return seconds, mapped


def run_all(stages: list[Stage], machine: Machine, base: float) -> dict:
    """Seconds in all and of each stage, most bytes of memory in the first rank and in any other.

    base: bytes of a rank without data.
    """
    found = [run_stage(stage, machine) for stage in stages]
    peak = base + np.max([memory for _, memory in found], axis=0)
    others = float(peak[1:].max()) if len(peak) > 1 else float(peak[0])
    parts = {stage.name: seconds for stage, (seconds, _) in zip(stages, found, strict=True)}
    return {"seconds": sum(parts.values()), "first": float(peak[0]), "others": others, "parts": parts}


# ---------------------------------------------------------------------------- the cost model


class Sizes(NamedTuple):
    """Size of a data set: documents, features, labels, non-zeros and labels a document."""

    n: int
    features: int
    labels: int
    nnz: float
    positives: float


def fit_pace(work, seconds) -> dict[str, float]:
    """{"pace": seconds per unit of work, "r2", "median_error" (a share)} of seconds = pace · work."""
    work, seconds = np.asarray(work, float), np.asarray(seconds, float)
    pace = seconds.sum() / work.sum()
    left = ((seconds - pace * work) ** 2).sum() / max(((seconds - seconds.mean()) ** 2).sum(), 1e-30)
    return {"pace": pace, "r2": 1 - left, "median_error": float(np.median(np.abs(pace * work / seconds - 1)))}


def fit_rarity(n: int, instances: np.ndarray, positives: np.ndarray) -> float:
    """κ of instances = n (1 - exp(-κ positives / n)): how much the labels of a node share their instances."""
    return float((-n * np.log1p(-np.minimum(instances, n - 0.5) / n)).sum() / positives.sum())


def fit_growth(nnz: float, counts: np.ndarray, entries: float) -> float:
    """β for which a label of f instances has nnz · f^β embedding entries, so that all have `entries`; bisection."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if nnz * (counts**middle).sum() < entries else (low, middle)
    return low


# ---------------------------------------------------------------------------- data sets that are too large for here


class Tree(NamedTuple):
    """Sizes of a label tree of drawn label frequencies.

    Attributes:
        parents: for every level, nodes of the level above; instances, groups: those of each such node (groups of
            LANES siblings).
        entries: of the label embedding, each leaf cluster; positives: of all classifiers, to POWER, summed.
    """

    parents: list[int]
    instances: list[np.ndarray]
    groups: list[np.ndarray]
    entries: np.ndarray
    positives: float


def draw_frequencies(sizes: Sizes, seed: int = 0) -> np.ndarray:
    """Instances of every label, float32 [L] in random order: a power law, at least 1, of the given mean."""
    frequency = np.arange(1, sizes.labels + 1, dtype=np.float32) ** np.float32(-FREQUENCY_POWER)
    factor, target = 1.0, sizes.n * sizes.positives
    for _ in range(30):
        factor *= target / np.clip(factor * frequency, 1, sizes.n).sum(dtype=np.float64)
    frequency = np.clip(factor * frequency, 1, sizes.n)
    np.random.default_rng(seed).shuffle(frequency)
    return frequency


def draw_tree(sizes: Sizes, model: dict) -> Tree:
    """The tree that training would have, labels falling into it at random."""
    frequency = draw_frequencies(sizes)
    levels = tree_sizes(sizes.labels, nr_splits=NR_SPLITS, min_codes=None, max_leaf_size=MAX_LEAF_SIZE)
    parents, leaves = [1, *levels[:-1]], levels[-2]
    first = np.arange(leaves) * sizes.labels // leaves
    positives = np.add.reduceat(frequency, first, dtype=np.float64)
    entries = np.add.reduceat(np.minimum(sizes.nnz * frequency ** model["growth"], sizes.features), first)
    total, instances, groups = float((frequency**POWER).sum(dtype=np.float64)), [], []
    for height, (count, below) in enumerate(zip(parents[::-1], levels[::-1], strict=True)):
        rarity = model["rarity"][min(height, len(model["rarity"]) - 1)]
        of_node = positives.reshape(count, -1).sum(axis=1)
        found = sizes.n * -np.expm1(-rarity * of_node / sizes.n) if count > 1 else np.array([float(sizes.n)])
        total += (found**POWER).sum() if count > 1 else 0
        instances.append(found)
        groups.append(np.full(count, np.ceil(below / count / LANES)))
    return Tree(parents, instances[::-1], groups[::-1], entries.astype(np.float64), total)


def training_units(tree: Tree, sizes: Sizes, top: int) -> np.ndarray:
    """Work, that of the longest job, instances of all nodes, of the root: [4, jobs above level `top` and sub-trees]."""
    above, below = [], np.zeros((4, tree.parents[top]))
    for t, found in enumerate(tree.instances):
        together = np.where(stay_in_place(found, sizes.n), 1, np.minimum(tree.groups[t], GROUPS_PER_JOB))
        each = np.array([found * sizes.nnz * tree.groups[t], found * sizes.nnz * together, found, found])
        if t < top:
            above.append(each)
            continue
        of_unit = each.reshape(4, tree.parents[top], -1)
        below[0] += of_unit[0].sum(axis=1)
        below[1] = np.maximum(below[1], of_unit[1].max(axis=1))
        below[2] += of_unit[2].sum(axis=1)
    below[3] = tree.instances[top]
    return np.concatenate([*above, below], axis=1)


def pages(share, entries_a_row: float):
    """Share of an array's pages that are read with this share of its rows, picked at random."""
    return 1 - (1 - np.minimum(share, 1)) ** (1 + PAGE / (ENTRY / 2) / entries_a_row)


def _cluster_stages(sizes: Sizes, tree: Tree, model: dict, nr_sub_trees: int) -> list[Stage]:
    """The layers above the sub-trees, a stage each, and the sub-trees."""
    depth, pace = binary_depth(sizes.labels, MAX_LEAF_SIZE), {key: model[key]["pace"] for key in ("top", "cluster")}
    nr_top, stages = min(depth, layers_above(nr_sub_trees)), []
    for layer in range(nr_top + (depth > nr_top)):
        entries, nr_nodes = tree.entries.reshape(1 << layer, -1).sum(axis=1), 1 << layer
        rows = -np.expm1(-model["rarity"][-1] * sizes.positives / nr_nodes)  # share of all instances
        is_small = sizes.labels / nr_nodes <= LARGE_NODE
        if layer < nr_top:
            read = np.minimum(entries, sizes.n * (rows * sizes.nnz + sizes.positives / nr_nodes))
            seconds, reads = pace["top"] * read, {"own": ENTRY * read}
            longest = seconds * is_small
        else:
            seconds = pace["cluster"] * entries * (depth - nr_top)
            share = np.full(nr_nodes, pages(1 / nr_nodes, entries.sum() / sizes.labels))
            reads = {"mapped": ((ENTRY * entries.sum(), share),)}
            longest = np.minimum(2 * pace["cluster"] * entries, seconds) * is_small  # its own first layers
        name = f"clustering, layer {layer}" if layer < nr_top else "clustering, sub-trees"
        stages.append(Stage(name, units=seconds, longest=longest, **reads))
    return stages


def plan(sizes: Sizes, tree: Tree, model: dict, nr_ranks: int) -> list[Stage]:
    """The stages of a run on a data set of these sizes."""
    nr_sub_trees, several = min(max(16, SUB_TREES_A_RANK * nr_ranks), tree.parents[-1]), nr_ranks > 1
    X, Y, Z = sizes.n * sizes.nnz, sizes.n * sizes.positives, float(tree.entries.sum())
    M_all = sum(float(found.sum()) for found in tree.instances)
    Y_all = Y + M_all - sizes.n
    kept = ENTRY * Y  # by the first rank
    weights = model["weights"] * sizes.nnz * tree.positives
    top = next(t for t, count in enumerate(tree.parents) if count >= nr_sub_trees)
    work, longest, instances, of_root = training_units(tree, sizes, top)
    pace, rows_a_rank = model["train"]["pace"], -np.expm1(-sizes.positives / nr_ranks)
    own = (12 * (Y_all - Y) + ENTRY * M_all) * instances / instances.sum()
    of_Y = np.zeros(len(own))  # each sub-tree reads columns of Y that stand anywhere
    of_Y[-tree.parents[top] :] = pages(1 / tree.parents[top], sizes.n * sizes.positives / sizes.labels)
    return [
        Stage("reading", first=model["read"] * ENTRY * (X + Y), written=ENTRY * X, of_first=kept + ENTRY * X),
        Stage("compiled code", first=model["kernels"] * (1 + several), exchanges=2),
        Stage("transposing", first=model["transpose"] * Y, written=ENTRY * Y, of_first=kept + 2 * ENTRY * Y),
        Stage(
            "label embedding",
            exchanges=19,
            even=model["embed"] * Y * sizes.nnz,
            gathered=ENTRY * Z,
            common=ENTRY * (X * pages(rows_a_rank, sizes.nnz) + Y),
            private=20 * Y + ENTRY * Z / nr_ranks,
            of_first=kept,
        ),
        *(stage._replace(of_first=kept) for stage in _cluster_stages(sizes, tree, model, nr_sub_trees)),
        Stage(
            "problems",
            exchanges=2 * len(tree.parents) + 1,
            first=model["problems"] * Y_all + model["fingerprint"] * ENTRY * (X + Y),
            every=model["jobs"] * tree.parents[-1],
            written=12 * Y_all + ENTRY * M_all,
            of_first=kept + ENTRY * Y_all + 20 * Y,
        ),
        Stage(
            "training",
            units=pace * work,
            longest=pace * longest,
            mapped=((ENTRY * X, pages(of_root / sizes.n, sizes.nnz)), (12 * Y, of_Y)),
            own=own,
            private=model["job_bytes"] * sizes.labels,
            of_first=kept,
        ),
        Stage("writing", first=(model["save"] + model["load"]) * weights, of_first=kept + ENTRY * weights),
    ]
