"""2-means of one node of the label tree, balanced: its labels are halved by a direction between two cluster centres.

A round would read all rows twice: to sum the halves and to score them. Instead the sums are moved by the rows that
change sides, and a row's score is computed again only where the way that the sums have gone since could have carried
the row past the middle (Cauchy-Schwarz: a dot product changes by at most |row| times the length of that way).

All random numbers come from (seed, node id) and all sums run in a fixed order, in fixed blocks, so that the halves do
not depend on the number of threads.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from xrt_jax.selection import kth_lowest, lowest
from xrt_jax.threads import thread_map
from xrt_jax.tree.passes import (
    NR_BLOCKS,
    Embeddings,
    Memory,
    Rows,
    add,
    add_rows,
    both_dots,
    both_row_dots,
    clear,
    dots_with,
    parts_if_they_pay,
    row_dots,
    shift_all,
    shift_rows,
)

# Moving rows in and out leaves rounding errors in a sum that should be zero; its square is below this share of both.
ROUNDING = 1e-12


class Settings(NamedTuple):
    """What all nodes have in common."""

    seed: int
    spherical: bool
    max_iter: int


# ---------------------------------------------------------------------------- random numbers, compiled


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
    scores = np.empty(dots.shape[1], np.float32)
    for i in range(len(scores)):
        scores[i] = right * dots[1, i] - left * dots[0, i]
    return scores


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
    middle = len(dots) // 2 - 1
    least, most = kth_lowest(low.copy(), middle), kth_lowest(high.copy(), middle)
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
        squares[side[i]] += dots[side[i], i]
    return squares


# ---------------------------------------------------------------------------- a small node, compiled


@njit(cache=True, nogil=True)
def _two_means(E, parts, rows, node, settings, memory):
    """(side [n], weights of the last direction); the memory comes in zeroed, its sums are that direction's then."""
    n = len(rows)
    sums, step = memory.sums, memory.step
    ones, everyone, left_of_all = np.ones(n, np.float32), np.ones(n, np.uint8), np.zeros(n, np.uint8)
    dots = np.empty(n, np.float32)
    pair = rows[np.array(_first_pair(settings.seed, node, n))]
    add_rows(E.whole, pair, np.array([-1, 1], np.float32), np.ones(2, np.uint8), sums)
    dots_with(E, parts, rows, everyone, sums[1], dots, memory)
    side = _halve(dots)
    if settings.max_iter == 1:
        return side, (0.0, 1.0)
    clear(E.whole, pair, sums)
    add(E, parts, rows, ones, side, sums, memory)
    both = both_dots(E, parts, rows, sums, memory)
    squares = _side_squares(both, side)
    weights = _weights(squares, n, settings.spherical)
    last, side = side, _halve(_weighted(both, *weights))
    dots, totals = both[1].copy(), both[0] + both[1]
    way, seen = 0.0, np.zeros(n)
    for _ in range(2, settings.max_iter):
        steps = _steps(side, last)
        if not steps.any():
            break
        add(E, parts, rows, steps, left_of_all, step, memory)
        way += np.sqrt(shift_rows(E.whole, rows, steps, step[0], sums, squares))
        weights = _weights(squares, n, settings.spherical)
        scores, undecided = _bounded_scores(dots, totals, E.norms[rows] * (way - seen), *weights)
        dots_with(E, parts, rows, undecided, sums[1], dots, memory)
        for i in range(n):  # np.where takes seconds to compile
            seen[i] = way if undecided[i] else seen[i]
        last, side = side, _settle(scores, undecided, dots, totals, *weights)
    return side, weights


@njit(cache=True, nogil=True)
def split_node(E, rows, rate, node, settings, memory):
    """side [n] of one node's rows, by 2-means of a share `rate` of them, and whether its passes went through parts.

    The memory comes and goes zeroed.
    """
    sample = _sample(rows, rate, settings.seed, node)
    parts = parts_if_they_pay(E, sample, memory)
    used = len(parts) > 0
    side, weights = _two_means(E, parts, sample, node, settings, memory)
    if len(sample) < len(rows):
        parts = parts_if_they_pay(E, rows, memory)
        side = _halve(_weighted(both_dots(E, parts, rows, memory.sums, memory), *weights))
    clear(E.whole, sample, memory.sums)
    return side, used


# ---------------------------------------------------------------------------- a large node, many threads


def _sum_blocks(Z: Rows, rows: np.ndarray, factor: np.ndarray, half: np.ndarray, shape) -> np.ndarray:
    """Sums [halves, columns] of the rows; few rows make one block, because every block has sums of its own."""
    nr_blocks = min(NR_BLOCKS, 1 + len(rows) // 1024)

    def block_sum(block):
        sums = np.zeros(shape, np.float32)
        add_rows(Z, rows[block], factor[block], half[block], sums)
        return sums

    blocks = np.array_split(np.arange(len(rows)), nr_blocks)
    return sum(thread_map(block_sum, blocks[1:]), start=block_sum(blocks[0]))


def _dots_in_blocks(Z: Rows, rows: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """<each of the sums [halves, columns], row>: float32 [halves, n]."""

    def block_dots(block):
        dots = np.empty((len(sums), len(block)), np.float32)
        if len(sums) == 2:
            both_row_dots(Z, block, sums, dots)
        else:
            row_dots(Z, block, np.ones(len(block), np.uint8), sums[0], dots[0])
        return dots

    return np.concatenate(list(thread_map(block_dots, np.array_split(rows, NR_BLOCKS))), axis=1)


def _sum_all(E: Embeddings, parts: np.ndarray, rows, factor, half, shape) -> np.ndarray:
    """As _sum_blocks of the whole rows, through their parts where there are some."""
    if len(parts) == 0:
        return _sum_blocks(E.whole, rows, factor, half, shape)
    shares = _sum_blocks(E.shares, rows, factor, half, (shape[0], len(E.parts.start)))
    first = np.zeros(len(parts), np.uint8)
    return np.vstack([_sum_blocks(E.parts, parts, share[parts], first, (1, shape[1])) for share in shares])


def _dots_all(E: Embeddings, parts: np.ndarray, rows, sums) -> np.ndarray:
    """As _dots_in_blocks of the whole rows, through their parts where there are some."""
    if len(parts) == 0:
        return _dots_in_blocks(E.whole, rows, sums)
    of_parts = np.zeros((len(sums), len(E.parts.start)), np.float32)
    of_parts[:, parts] = _dots_in_blocks(E.parts, parts, sums)
    return np.vstack([_dots_in_blocks(E.shares, rows, of_parts[[half]]) for half in range(len(sums))])


def _two_means_in_blocks(
    E: Embeddings, parts: np.ndarray, rows: np.ndarray, node: int, settings: Settings, nr_columns: int
):
    """(side, weights, sums) as _two_means, with the passes over the rows in fixed blocks for several threads."""
    n, shape = len(rows), (2, nr_columns)
    pair = rows[np.array(_first_pair(settings.seed, node, n))]
    sums = _sum_blocks(E.whole, pair, np.array([-1, 1], np.float32), np.ones(2, np.uint8), shape)
    side = _halve(_dots_all(E, parts, rows, sums[1:])[0])
    if settings.max_iter == 1:
        return side, (0.0, 1.0), sums
    sums = _sum_all(E, parts, rows, np.ones(n, np.float32), side, shape)
    both = _dots_all(E, parts, rows, sums)
    squares = _side_squares(both, side)
    weights = _weights(squares, n, settings.spherical)
    last, side = side, _halve(_weighted(both, *weights))
    dots, totals = both[1].copy(), both[0] + both[1]
    way, seen = 0.0, np.zeros(n)
    for _ in range(2, settings.max_iter):
        steps = _steps(side, last)
        moved = np.flatnonzero(steps)
        if len(moved) == 0:
            break
        step = _sum_all(E, parts, rows[moved], steps[moved], np.zeros(len(moved), np.uint8), (1, nr_columns))
        way += np.sqrt(shift_all(step[0], sums, squares))
        weights = _weights(squares, n, settings.spherical)
        scores, undecided = _bounded_scores(dots, totals, E.norms[rows] * (way - seen), *weights)
        again = np.flatnonzero(undecided)
        dots[again], seen[again] = _dots_all(E, parts, rows[again], sums[1:])[0], way
        last, side = side, _settle(scores, undecided, dots, totals, *weights)
    return side, weights, sums


def split_large_node(
    E: Embeddings, rows: np.ndarray, rate: float, node: int, settings: Settings, memory: Memory
) -> tuple[np.ndarray, bool]:
    """As split_node; of the memory, the parts are used."""
    sample = _sample(rows, rate, settings.seed, node)
    parts = parts_if_they_pay(E, sample, memory)
    used = len(parts) > 0
    side, weights, sums = _two_means_in_blocks(E, parts, sample, node, settings, memory.sums.shape[1])
    if len(sample) == len(rows):
        return side, used
    return _halve(_weighted(_dots_all(E, parts_if_they_pay(E, rows, memory), rows, sums), *weights)), used
