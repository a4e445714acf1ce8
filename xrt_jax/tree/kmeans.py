"""Balanced hierarchical 2-means over label embeddings: the label tree (as PECOS's HierarchicalKMeans).

Every node of a binary layer is halved by projecting its labels on the difference of two cluster centres. All random
numbers come from (seed, node id) and all sums run in a fixed order, so the tree does not depend on the number of
threads.

A round would read all rows twice: to sum the halves and to score them. Instead the sums are moved by the rows that
change sides, and a row's score is computed again only where the way that the sums have gone since could have carried
the row past the middle (Cauchy-Schwarz: a dot product changes by at most |row| times the length of that way).
"""

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numba import njit

from xrt_jax.sparse import Features, as_features, feature_arrays, lowest, nr_features, nr_rows, thread_map, tracked
from xrt_jax.tree.chain import binary_depth, complete_chain

# A node with more labels than this is summed and scored in NR_BLOCKS fixed blocks of rows, each by one thread.
LARGE_NODE = 16384
NR_BLOCKS = 16
# The nodes of a layer are handed to threads in at most this many groups; a group shares its buffers.
NR_GROUPS = 64
# Moving rows in and out leaves rounding errors in a sum that should be zero; its square is below this share of both.
ROUNDING = 1e-12


class Rows(NamedTuple):
    """Label embeddings for compiled code: row i has the sparse entries start[i]:stop[i] and dense[i].

    Attributes:
        start, stop: int64 [L]; indices: uint32 [nnz]; values: float32 [nnz].
        dense: float32 [L, d_d], no columns where there is no dense part.
        norms: float64 [L], lengths of the whole rows.
    """

    start: np.ndarray
    stop: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    dense: np.ndarray
    norms: np.ndarray


class Settings(NamedTuple):
    """What all nodes have in common."""

    seed: int
    spherical: bool
    max_iter: int


# ---------------------------------------------------------------------------- random numbers


@njit(cache=True, nogil=True)
def _draws(seed, node, count):
    """uint64 [count] by splitmix64 from (seed, node)."""
    drawn = np.empty(count, np.uint64)
    state = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.uint64(node)
    for i in range(count):
        state += np.uint64(0x9E3779B97F4A7C15)
        z = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        drawn[i] = z ^ (z >> np.uint64(31))
    return drawn


@njit(cache=True, nogil=True)
def _first_pair(seed, node, n):
    """Two different rows of n: (left, right)."""
    drawn = _draws(seed, node, 2)
    right = np.int64(drawn[0] % np.uint64(n))
    return (right + 1 + np.int64(drawn[1] % np.uint64(n - 1))) % n, right


@njit(cache=True, nogil=True)
def _sample(rows, rate, seed, node):
    """floor(rate · n) of the rows, at least 2, in their order."""
    count = min(len(rows), max(2, int(rate * len(rows))))
    if count == len(rows):
        return rows
    order, chosen = np.arange(len(rows)), np.zeros(len(rows), np.bool_)
    drawn = _draws(seed, node, 2 + count)[2:]  # the first two are the first pair's
    for i in range(count):
        j = i + np.int64(drawn[i] % np.uint64(len(rows) - i))
        order[i], order[j] = order[j], order[i]
        chosen[order[i]] = True
    return rows[chosen]


# ---------------------------------------------------------------------------- passes over rows, compiled


@njit(cache=True, nogil=True)
def _norms(start, stop, values, dense):
    """Length of every row: float64 [n]."""
    norms = np.empty(len(start))
    for i in range(len(start)):
        square = 0.0
        for value in values[start[i] : stop[i]]:
            square += np.float64(value) * value
        for value in dense[i]:
            square += np.float64(value) * value
        norms[i] = np.sqrt(square)
    return norms


@njit(cache=True, nogil=True)
def _add_row(Z, row, factor, sums):
    """sums += factor · row; sums [columns] has the sparse columns first, the dense ones at the end."""
    for k in range(np.uint64(Z.start[row]), np.uint64(Z.stop[row])):
        sums[Z.indices[k]] += factor * Z.values[k]
    first = len(sums) - Z.dense.shape[1]
    for j in range(Z.dense.shape[1]):
        sums[first + j] += factor * Z.dense[row, j]


@njit(cache=True, nogil=True)
def _add_rows(Z, rows, factor, half, sums):
    """Every row with its own factor (0: left out) to its own half of the sums [halves, columns]."""
    for i in range(len(rows)):
        if factor[i] != 0:
            _add_row(Z, rows[i], factor[i], sums[half[i]])


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dense_dot(Z, row, sums):
    first = len(sums) - Z.dense.shape[1]
    total = np.float32(0)
    for j in range(Z.dense.shape[1]):
        total += sums[first + j] * Z.dense[row, j]
    return total


@njit(cache=True, nogil=True)
def _sparse_dot(Z, row, sums):
    # Four chains of additions hide their latency; left to itself the compiler takes gather instructions, which are
    # several times slower. Unsigned positions spare the tests for negative ones.
    a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    k, stop = np.uint64(Z.start[row]), np.uint64(Z.stop[row])
    while k + np.uint64(4) <= stop:
        a += sums[Z.indices[k]] * Z.values[k]
        b += sums[Z.indices[k + np.uint64(1)]] * Z.values[k + np.uint64(1)]
        c += sums[Z.indices[k + np.uint64(2)]] * Z.values[k + np.uint64(2)]
        d += sums[Z.indices[k + np.uint64(3)]] * Z.values[k + np.uint64(3)]
        k += np.uint64(4)
    while k < stop:
        a += sums[Z.indices[k]] * Z.values[k]
        k += np.uint64(1)
    return (a + b) + (c + d)


@njit(cache=True, nogil=True)
def _right_dots(Z, rows, wanted, right, dots):
    """dots[i] = <right sum, row i> where wanted."""
    for i in range(len(rows)):
        if wanted[i]:
            dots[i] = _sparse_dot(Z, rows[i], right) + _dense_dot(Z, rows[i], right)


@njit(cache=True, nogil=True)
def _both_dots(Z, rows, sums):
    """<left sum, row> and <right sum, row> of every row: float32 [n, 2]."""
    dots = np.empty((len(rows), 2), np.float32)
    left, right = sums[0], sums[1]
    for i in range(len(rows)):
        a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        k, stop = np.uint64(Z.start[rows[i]]), np.uint64(Z.stop[rows[i]])
        while k + np.uint64(2) <= stop:
            x, y = Z.values[k], Z.values[k + np.uint64(1)]
            a += left[Z.indices[k]] * x
            b += right[Z.indices[k]] * x
            c += left[Z.indices[k + np.uint64(1)]] * y
            d += right[Z.indices[k + np.uint64(1)]] * y
            k += np.uint64(2)
        if k < stop:
            a += left[Z.indices[k]] * Z.values[k]
            b += right[Z.indices[k]] * Z.values[k]
        dots[i, 0] = a + c + _dense_dot(Z, rows[i], left)
        dots[i, 1] = b + d + _dense_dot(Z, rows[i], right)
    return dots


@njit(cache=True, nogil=True)
def _shift_columns(columns, step, sums, squares):
    """Move the step [columns] from the left sum to the right one and zero it; returns its square.

    squares [2], those of both sums, are kept up to date. A column may come twice.
    """
    left, right, square = sums[0], sums[1], 0.0
    for j in columns:
        x = np.float64(step[j])
        if x != 0:
            was_left, was_right = np.float64(left[j]), np.float64(right[j])
            left[j] -= step[j]
            right[j] += step[j]
            squares[0] += np.float64(left[j]) * left[j] - was_left * was_left
            squares[1] += np.float64(right[j]) * right[j] - was_right * was_right
            square += x * x
            step[j] = 0
    return square


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _shift_all(step, sums, squares):
    """_shift_columns over all of them, as vectors."""
    left, right = sums[0], sums[1]
    square = of_left = of_right = 0.0
    for j in range(len(step)):
        x = np.float64(step[j])
        left[j] -= step[j]
        right[j] += step[j]
        of_left += np.float64(left[j]) * left[j]
        of_right += np.float64(right[j]) * right[j]
        square += x * x
        step[j] = 0
    squares[0], squares[1] = of_left, of_right
    return square


@njit(cache=True, nogil=True)
def _shift_rows(Z, rows, factor, step, sums, squares):
    """_shift_columns over those of the rows that have a factor, or over all where that is faster."""
    nnz = 0
    for i in range(len(rows)):
        if factor[i] != 0:
            nnz += Z.stop[rows[i]] - Z.start[rows[i]]
    if 4 * nnz > len(step):
        return _shift_all(step, sums, squares)
    square = 0.0
    for i in range(len(rows)):
        if factor[i] != 0:
            square += _shift_columns(Z.indices[Z.start[rows[i]] : Z.stop[rows[i]]], step, sums, squares)
    first = len(step) - Z.dense.shape[1]
    return square + _shift_columns(np.arange(first, len(step)).astype(np.uint32), step, sums, squares)


@njit(cache=True, nogil=True)
def _clear(Z, rows, sums):
    """Zero the columns of the rows, or everything where that is less."""
    nnz = 0
    for row in rows:
        nnz += Z.stop[row] - Z.start[row]
    if nnz > sums.shape[1]:
        sums[:] = 0
        return
    for row in rows:
        for k in range(Z.start[row], Z.stop[row]):
            sums[:, Z.indices[k]] = 0
    sums[:, sums.shape[1] - Z.dense.shape[1] :] = 0


# ---------------------------------------------------------------------------- scores and sides, compiled


@njit(cache=True, nogil=True)
def _halve(scores):
    """side [n]: 0 for the floor(n/2) lowest (score, position), 1 for the rest."""
    return 1 - lowest(scores, len(scores) // 2)


@njit(cache=True, nogil=True)
def _weights(squares, n, spherical):
    """What the left and the right sum are multiplied with: 1 / length (spherical; 0 for no length) or 1 / rows."""
    if not spherical:
        return 1 / (n // 2), 1 / (n - n // 2)
    least = ROUNDING * (squares[0] + squares[1])
    left, right = squares[0], squares[1]
    return (1 / np.sqrt(left) if left > least else 0.0), (1 / np.sqrt(right) if right > least else 0.0)


@njit(cache=True, nogil=True)
def _weighted(dots, left, right):
    """score = right · <right sum, row> - left · <left sum, row>: float32 [n]."""
    scores = np.empty(len(dots), np.float32)
    for i in range(len(dots)):
        scores[i] = right * dots[i, 1] - left * dots[i, 0]
    return scores


@njit(cache=True, nogil=True)
def _kth_bound(scores, k):
    """The k-th lowest score (from 1): the greatest that is in the mask of the k lowest."""
    mask = lowest(scores, k)
    greatest = np.float32(-np.inf)
    for i in range(len(scores)):
        if mask[i] and scores[i] > greatest:
            greatest = scores[i]
    return greatest


@njit(cache=True, nogil=True)
def _bounded_scores(dots, totals, reach, left, right):
    """Sides that are certain while <right sum, row> is only known to be in dots[i] ± reach[i].

    The middle lies between the same order statistics of the lower and of the upper bounds.

    Returns:
        scores: float32 [n], -inf for a row that is on the left for certain, inf for one on the right.
        undecided: uint8 [n], 1 where the score must be computed.
    """
    low, high = np.empty(len(dots), np.float32), np.empty(len(dots), np.float32)
    for i in range(len(dots)):
        score = (right + left) * dots[i] - left * totals[i]
        low[i], high[i] = score - (right + left) * reach[i], score + (right + left) * reach[i]
    least, most = _kth_bound(low, len(dots) // 2), _kth_bound(high, len(dots) // 2)
    scores, undecided = np.empty(len(dots), np.float32), np.zeros(len(dots), np.uint8)
    for i in range(len(dots)):
        if high[i] < least:
            scores[i] = -np.inf
        elif low[i] > most:
            scores[i] = np.inf
        else:
            undecided[i] = 1
    return scores, undecided


@njit(cache=True, nogil=True)
def _settle(scores, undecided, dots, totals, left, right):
    """Fill in the scores of the undecided rows from their dot products; returns the sides."""
    for i in range(len(scores)):
        if undecided[i]:
            scores[i] = (right + left) * dots[i] - left * totals[i]
    return _halve(scores)


@njit(cache=True, nogil=True)
def _steps(side, last):
    """float32 [n]: 1 for a row that went right, -1 for one that went left, 0 for the others."""
    steps = np.empty(len(side), np.float32)
    for i in range(len(side)):
        steps[i] = np.float32(side[i]) - np.float32(last[i])
    return steps


@njit(cache=True, nogil=True)
def _side_squares(dots, side):
    """Squares of both sums: <sum, sum> is the sum of its own rows' dot products with it."""
    squares = np.zeros(2)
    for i in range(len(side)):
        squares[side[i]] += dots[i, side[i]]
    return squares


# ---------------------------------------------------------------------------- one node, compiled


@njit(cache=True, nogil=True)
def _two_means(Z, rows, node, settings, sums, step):
    """(side [n], weights of the last direction); `sums` holds that direction's sums, both buffers come in zeroed."""
    n = len(rows)
    ones, everyone = np.ones(n, np.float32), np.ones(n, np.uint8)
    dots = np.empty(n, np.float32)
    left, right = _first_pair(settings.seed, node, n)
    _add_row(Z, rows[left], np.float32(-1), sums[1])
    _add_row(Z, rows[right], np.float32(1), sums[1])
    _right_dots(Z, rows, everyone, sums[1], dots)
    side = _halve(dots)
    if settings.max_iter == 1:
        return side, (0.0, 1.0)
    _clear(Z, np.array([rows[left], rows[right]]), sums)
    _add_rows(Z, rows, ones, side, sums)
    both = _both_dots(Z, rows, sums)
    squares = _side_squares(both, side)
    weights = _weights(squares, n, settings.spherical)
    last, side = side, _halve(_weighted(both, *weights))
    dots, totals = both[:, 1].copy(), both[:, 0] + both[:, 1]
    way, seen = 0.0, np.zeros(n)
    for _ in range(2, settings.max_iter):
        steps = _steps(side, last)
        if not steps.any():
            break
        _add_rows(Z, rows, steps, np.zeros(n, np.uint8), step)
        way += np.sqrt(_shift_rows(Z, rows, steps, step[0], sums, squares))
        weights = _weights(squares, n, settings.spherical)
        scores, undecided = _bounded_scores(dots, totals, Z.norms[rows] * (way - seen), *weights)
        _right_dots(Z, rows, undecided, sums[1], dots)
        for i in range(n):  # np.where takes seconds to compile
            seen[i] = way if undecided[i] else seen[i]
        last, side = side, _settle(scores, undecided, dots, totals, *weights)
    return side, weights


@njit(cache=True, nogil=True)
def _split_node(Z, rows, rate, node, settings, sums, step):
    """side [n] of one node's rows; the buffers come in zeroed and are zeroed again."""
    sample = _sample(rows, rate, settings.seed, node)
    side, weights = _two_means(Z, sample, node, settings, sums, step)
    if len(sample) < len(rows):
        side = _halve(_weighted(_both_dots(Z, rows, sums), *weights))
    _clear(Z, sample, sums)
    return side


# ---------------------------------------------------------------------------- one node, many threads


def _over_blocks(fn, rows: np.ndarray) -> np.ndarray:
    """fn(block of rows) of every block, side by side, joined."""
    return np.concatenate(list(thread_map(fn, np.array_split(rows, NR_BLOCKS))))


def _sum_blocks(Z: Rows, rows: np.ndarray, factor: np.ndarray, half: np.ndarray, shape) -> np.ndarray:
    """Sums [halves, columns] of the rows; few rows make one block, because every block has sums of its own."""
    nr_blocks = min(NR_BLOCKS, 1 + len(rows) // 1024)

    def block_sum(block):
        sums = np.zeros(shape, np.float32)
        _add_rows(Z, rows[block], factor[block], half[block], sums)
        return sums

    blocks = np.array_split(np.arange(len(rows)), nr_blocks)
    return sum(thread_map(block_sum, blocks[1:]), start=block_sum(blocks[0]))


def _right_dots_of(Z: Rows, right: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """<right sum, row>: float32 [n]."""

    def block_dots(block):
        dots = np.empty(len(block), np.float32)
        _right_dots(Z, block, np.ones(len(block), np.uint8), right, dots)
        return dots

    return _over_blocks(block_dots, rows)


def _two_means_in_blocks(Z: Rows, rows: np.ndarray, node: int, settings: Settings, nr_columns: int):
    """(side, weights, sums) as _two_means, with the passes over the rows in fixed blocks for several threads."""
    n = len(rows)
    shape = (2, nr_columns)
    pair = np.array(_first_pair(settings.seed, node, n))
    sums = _sum_blocks(Z, rows[pair], np.array([-1, 1], np.float32), np.ones(2, np.uint8), shape)
    side = _halve(_right_dots_of(Z, sums[1], rows))
    if settings.max_iter == 1:
        return side, (0.0, 1.0), sums
    sums = _sum_blocks(Z, rows, np.ones(n, np.float32), side, shape)
    both = _over_blocks(lambda block: _both_dots(Z, block, sums), rows)
    squares = _side_squares(both, side)
    weights = _weights(squares, n, settings.spherical)
    last, side = side, _halve(_weighted(both, *weights))
    dots, totals = both[:, 1].copy(), both[:, 0] + both[:, 1]
    way, seen = 0.0, np.zeros(n)
    for _ in range(2, settings.max_iter):
        steps = _steps(side, last)
        moved = np.flatnonzero(steps)
        if len(moved) == 0:
            break
        step = _sum_blocks(Z, rows[moved], steps[moved], np.zeros(len(moved), np.uint8), (1, nr_columns))
        way += np.sqrt(_shift_all(step[0], sums, squares))
        weights = _weights(squares, n, settings.spherical)
        scores, undecided = _bounded_scores(dots, totals, Z.norms[rows] * (way - seen), *weights)
        again = np.flatnonzero(undecided)
        dots[again], seen[again] = _right_dots_of(Z, sums[1], rows[again]), way
        last, side = side, _settle(scores, undecided, dots, totals, *weights)
    return side, weights, sums


def _split_large_node(
    Z: Rows, rows: np.ndarray, rate: float, node: int, settings: Settings, nr_columns: int
) -> np.ndarray:
    """As _split_node."""
    sample = _sample(rows, rate, settings.seed, node)
    side, weights, sums = _two_means_in_blocks(Z, sample, node, settings, nr_columns)
    if len(sample) == len(rows):
        return side
    return _halve(_over_blocks(lambda block: _weighted(_both_dots(Z, block, sums), *weights), rows))


# ---------------------------------------------------------------------------- the tree


def _split_nodes(Z: Rows, nr_columns: int, rate: float, settings: Settings, jobs) -> list[np.ndarray]:
    """The halves, each ascending, of every node of the jobs (node, its label ids), one after the other."""
    sums, step = np.zeros((2, nr_columns), np.float32), np.zeros((1, nr_columns), np.float32)
    halves = []
    for node, rows in jobs:
        if len(rows) > LARGE_NODE:
            side = _split_large_node(Z, rows, rate, node, settings, nr_columns)
        else:
            side = _split_node(Z, rows, rate, node, settings, sums, step)
        halves += [rows[side == 0], rows[side == 1]]
    return halves


def _split_layer(split, jobs, progress, desc: str) -> list[np.ndarray]:
    """All halves of a layer: large nodes one after the other (threads inside), small ones side by side."""
    large = len(jobs[-1][1]) > LARGE_NODE  # the last node is never smaller than another
    nr_groups = len(jobs) if large else min(len(jobs), NR_GROUPS)
    bounds = [i * len(jobs) // nr_groups for i in range(nr_groups + 1)]
    groups = [jobs[a:b] for a, b in pairwise(bounds)]
    sizes = [sum(len(rows) for _, rows in group) for group in groups]
    results = map(split, groups) if large else thread_map(split, groups)
    return [half for halves in tracked(results, sizes, progress, desc) for half in halves]


def _sample_rates(depth: int, max_rate: float, min_rate: float, warmup_ratio: float) -> list[float]:
    """Share of a node's rows that its 2-means reads, a binary layer: min_rate, then in even steps to max_rate."""
    if not 0 < min_rate <= max_rate <= 1:
        raise ValueError(f"min_sample_rate={min_rate} and max_sample_rate={max_rate}: 0 < min <= max <= 1 is needed")
    if not 0 <= warmup_ratio <= 1:
        raise ValueError(f"warmup_ratio={warmup_ratio} must be between 0 and 1")
    first = int(warmup_ratio * depth)
    growth = [max(0, layer + 1 - first) / max(1, depth - first) for layer in range(depth)]
    return [min_rate + (max_rate - min_rate) * share for share in growth]


def _rows_of(Z: Features) -> Rows:
    """The arrays of Z."""
    arrays = feature_arrays(Z)
    start, stop = arrays.indptr[:-1].copy(), arrays.indptr[1:].copy()
    norms = _norms(start, stop, arrays.data, arrays.dense)
    return Rows(start, stop, arrays.indices, arrays.data, arrays.dense, norms)


def hierarchical_kmeans(
    Z,
    *,
    nr_splits: int = 16,
    min_codes: int | None = None,
    max_leaf_size: int = 100,
    spherical: bool = True,
    seed: int = 0,
    kmeans_max_iter: int = 20,
    do_sample: bool = False,
    max_sample_rate: float = 1.0,
    min_sample_rate: float = 0.1,
    warmup_ratio: float = 0.4,
    progress=None,
) -> list[sp.csc_matrix]:
    """Cluster labels into a complete balanced tree.

    Args:
        Z: csr, ndarray or Features [L, d]: label embeddings.
        nr_splits: children of a node above the leaf clusters.
        min_codes: levels above are merged while they have more nodes than this; None stands for nr_splits.
        max_leaf_size: most labels in a leaf cluster; this many labels or fewer make no tree at all (one-versus-all).
        spherical: centres are scaled to unit length, else they are means.
        seed: non-negative; with the node id it seeds the first two centres of a node, and its sample.
        kmeans_max_iter: most rounds of 2-means in a node, at least 1.
        do_sample: run the 2-means of a node on a sample of its labels, then halve all of them once (as PECOS).
        max_sample_rate: share of a node's labels that is sampled in the lowest binary layer.
        min_sample_rate: the share in the top layers, above 0.
        warmup_ratio: share of the layers that count as top layers; below them the rate grows evenly.
        progress: called as progress(total labels, description) for every binary layer.

    Returns:
        Chain of csc float32, top first (tree/chain.py); sizes as tree_sizes says. Leaves differ by at most one label.
    """
    if seed < 0 or kmeans_max_iter < 1:
        raise ValueError(f"seed={seed} must be at least 0 and kmeans_max_iter={kmeans_max_iter} at least 1")
    Z = as_features(Z)
    nr_labels = nr_rows(Z)
    if max_leaf_size >= nr_labels:
        return [sp.csc_matrix(np.ones((nr_labels, 1), np.float32))]
    depth = binary_depth(nr_labels, max_leaf_size)
    rates = _sample_rates(depth, max_sample_rate, min_sample_rate, warmup_ratio)
    rows, settings = _rows_of(Z), Settings(seed, spherical, kmeans_max_iter)
    groups = [np.arange(nr_labels)]
    for layer in range(depth):
        jobs = [(2**layer + i, group) for i, group in enumerate(groups)]
        split = partial(_split_nodes, rows, nr_features(Z), rates[layer] if do_sample else 1.0, settings)
        groups = _split_layer(split, jobs, progress, f"clustering, layer {layer + 1} of {depth}")
    indptr = np.concatenate([[0], np.cumsum([len(group) for group in groups])])
    ones = np.ones(nr_labels, np.float32)
    C_leaf = sp.csc_matrix((ones, np.concatenate(groups), indptr), shape=(nr_labels, len(groups)))
    return complete_chain(C_leaf, nr_splits=nr_splits, min_codes=min_codes)
