"""Balanced hierarchical 2-means over label embeddings: the label tree (as PECOS's HierarchicalKMeans).

Every node of a binary layer is halved by projecting its labels on the difference of two cluster centres. All random
numbers come from (seed, node id) and all sums run in a fixed order, so the tree does not depend on the number of
threads.
"""

from functools import partial

import numpy as np
import scipy.sparse as sp
from numba import njit

from xrt_jax.sparse import FeatureArrays, as_features, feature_arrays, lowest, nr_rows, thread_map, tracked, view_rows
from xrt_jax.tree.chain import binary_depth, complete_chain

# A node with more labels than this is summed and scored in NR_BLOCKS fixed blocks of rows, each by one thread.
LARGE_NODE = 16384
NR_BLOCKS = 16
# A centre of length zero is a zero vector, whatever it is divided by.
TINY = 1e-30


# ---------------------------------------------------------------------------- one node, compiled


@njit(cache=True, nogil=True)
def _first_pair(seed, node, n):
    """Two different rows of n, drawn by splitmix64 from (seed, node)."""
    drawn = np.empty(2, np.uint64)
    state = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.uint64(node)
    for i in range(2):
        state += np.uint64(0x9E3779B97F4A7C15)
        z = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        drawn[i] = z ^ (z >> np.uint64(31))
    right = np.int64(drawn[0] % np.uint64(n))
    return (right + 1 + np.int64(drawn[1] % np.uint64(n - 1))) % n, right


@njit(cache=True, nogil=True)
def _add_row(start, stop, indices, values, dense_row, factor, center):
    """center += factor · row; its sparse columns come first, the dense ones at the end."""
    for k in range(start, stop):
        center[indices[k]] += factor * values[k]
    first = len(center) - len(dense_row)
    for j in range(len(dense_row)):
        center[first + j] += factor * dense_row[j]


@njit(cache=True, nogil=True)
def _sum_halves(start, stop, indices, values, dense, rows, side, nr_columns):
    """Sums of the left (0) and right (1) rows: float32 [2, nr_columns]."""
    centers = np.zeros((2, nr_columns), np.float32)
    for i in range(len(rows)):
        _add_row(start[i], stop[i], indices, values, dense[rows[i]], np.float32(1), centers[side[i]])
    return centers


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _scores(start, stop, indices, values, dense, rows, direction):
    """<direction, row> of every row: float32 [rows]."""
    scores = np.empty(len(rows), np.float32)
    first = len(direction) - dense.shape[1]
    for i in range(len(rows)):
        total = np.float32(0)
        for k in range(start[i], stop[i]):
            total += direction[indices[k]] * values[k]
        for j in range(dense.shape[1]):
            total += direction[first + j] * dense[rows[i], j]
        scores[i] = total
    return scores


@njit(cache=True, nogil=True)
def _direction(centers, side, spherical):
    """Right centre minus left centre: of unit length each (spherical), or means."""
    size = np.zeros(2)
    if spherical:
        for half in range(2):
            for value in centers[half]:
                size[half] += np.float64(value) * value
        size = np.sqrt(size)
    else:
        for half in side:
            size[half] += 1
    direction = np.empty(centers.shape[1], np.float32)
    for j in range(len(direction)):
        direction[j] = centers[1, j] / max(size[1], TINY) - centers[0, j] / max(size[0], TINY)
    return direction


@njit(cache=True, nogil=True)
def _halve(scores):
    """side [n]: 0 for the floor(n/2) lowest (score, position), 1 for the rest."""
    return 1 - lowest(scores, len(scores) // 2)


@njit(cache=True, nogil=True)
def _same(side, other):
    moved = 0
    for i in range(len(side)):
        moved += side[i] != other[i]
    return moved == 0


@njit(cache=True, nogil=True)
def _split_node(start, stop, indices, values, dense, rows, nr_sparse, seed, node, spherical, max_iter):
    """side [n] of one node's rows after at most max_iter rounds of 2-means."""
    nr_columns = nr_sparse + dense.shape[1]
    left, right = _first_pair(seed, node, len(rows))
    difference = np.zeros(nr_columns, np.float32)
    _add_row(start[left], stop[left], indices, values, dense[rows[left]], np.float32(-1), difference)
    _add_row(start[right], stop[right], indices, values, dense[rows[right]], np.float32(1), difference)
    side = _halve(_scores(start, stop, indices, values, dense, rows, difference))
    for _ in range(1, max_iter):
        centers = _sum_halves(start, stop, indices, values, dense, rows, side, nr_columns)
        last = side
        side = _halve(_scores(start, stop, indices, values, dense, rows, _direction(centers, side, spherical)))
        if _same(side, last):
            break
    return side


# ---------------------------------------------------------------------------- one node, many threads


def _split_large_node(
    Z: FeatureArrays, rows: np.ndarray, seed: int, node: int, spherical: bool, max_iter: int
) -> np.ndarray:
    """As _split_node, with the passes over the rows in fixed blocks, so that several threads can share them."""
    nr_columns = Z.nr_sparse + Z.dense.shape[1]
    blocks = np.array_split(np.arange(len(rows)), NR_BLOCKS)

    def over_blocks(fn):
        # view_rows would copy a block: the whole node is large, so its rows are read in place
        return thread_map(
            lambda b: fn(Z.indptr[rows[b]], Z.indptr[rows[b] + 1], Z.indices, Z.data, Z.dense, rows[b], b), blocks
        )

    def sums(side, *block):
        return _sum_halves(*block[:-1], side[block[-1]], nr_columns)

    def scores(direction):
        return np.concatenate(list(over_blocks(lambda *a: _scores(*a[:-1], direction))))

    difference = np.zeros(nr_columns, np.float32)
    for row, sign in zip(rows[list(_first_pair(seed, node, len(rows)))], (np.float32(-1), np.float32(1)), strict=True):
        _add_row(Z.indptr[row], Z.indptr[row + 1], Z.indices, Z.data, Z.dense[row], sign, difference)
    side = _halve(scores(difference))
    for _ in range(1, max_iter):
        centers = sum(over_blocks(partial(sums, side)))
        last, side = side, _halve(scores(_direction(centers, side, spherical)))
        if _same(side, last):
            break
    return side


# ---------------------------------------------------------------------------- the tree


def _split(
    Z: FeatureArrays, seed: int, spherical: bool, max_iter: int, job: tuple[int, np.ndarray]
) -> list[np.ndarray]:
    """The two halves of one node's label ids, each ascending."""
    node, rows = job
    if len(rows) > LARGE_NODE:
        side = _split_large_node(Z, rows, seed, node, spherical, max_iter)
    else:
        view = view_rows(Z, rows)
        side = _split_node(*view[:4], Z.dense, rows, len(view.columns), seed, node, spherical, max_iter)
    return [rows[side == 0], rows[side == 1]]


def _split_layer(split, jobs: list[tuple[int, np.ndarray]]):
    """Large nodes one after the other (threads inside), small ones side by side; order kept."""
    if len(jobs[0][1]) > LARGE_NODE:
        return map(split, jobs)
    return thread_map(split, jobs)


def hierarchical_kmeans(
    Z,
    *,
    nr_splits: int = 16,
    min_codes: int | None = None,
    max_leaf_size: int = 100,
    spherical: bool = True,
    seed: int = 0,
    kmeans_max_iter: int = 20,
    progress=None,
) -> list[sp.csc_matrix]:
    """Cluster labels into a complete balanced tree.

    Args:
        Z: csr, ndarray or Features [L, d]: label embeddings.
        nr_splits: children of a node above the leaf clusters.
        min_codes: levels above are merged while they have more nodes than this; None stands for nr_splits.
        max_leaf_size: most labels in a leaf cluster; this many labels or fewer make no tree at all (one-versus-all).
        spherical: centres are scaled to unit length, else they are means.
        seed: non-negative; with the node id it seeds the first two centres of a node.
        kmeans_max_iter: most rounds of 2-means in a node, at least 1.
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
    split = partial(_split, feature_arrays(Z), seed, spherical, kmeans_max_iter)
    groups = [np.arange(nr_labels)]
    for layer in range(depth):
        jobs = [(2**layer + i, rows) for i, rows in enumerate(groups)]
        sizes = [len(rows) for rows in groups]
        halves = tracked(_split_layer(split, jobs), sizes, progress, f"clustering, layer {layer + 1} of {depth}")
        groups = [half for pair in halves for half in pair]
    indptr = np.concatenate([[0], np.cumsum([len(group) for group in groups])])
    ones = np.ones(nr_labels, np.float32)
    C_leaf = sp.csc_matrix((ones, np.concatenate(groups), indptr), shape=(nr_labels, len(groups)))
    return complete_chain(C_leaf, nr_splits=nr_splits, min_codes=min_codes)
