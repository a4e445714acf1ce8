"""The instances of a cluster as the solvers take them: features renumbered, those of one row alone set apart.

A cluster sees few of all features, and in text most of these in a single row. The weight of such a feature is the
row's value times the row's dual, so it needs no place among the weights: its part of the margin is |x|² · dual over
the features of that row alone. That halves the weights of a cluster, which is what the time goes into (cache misses).
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from xrt_jax.sparse import FeatureArrays
from xrt_jax.xlinear.lanes import add_dense, add_dot_dense, add_sparse, dot_dense, dot_sparse
from xrt_jax.xlinear.memory import empty_room, enlarged

# Rows are copied in blocks of this many entries for each place among the weights, at least.
ENTRIES_A_PLACE = 4


class Instances(NamedTuple):
    """m rows of features.

    Row i has the entries start[i]:stop[i] (int64) of indices (uint32, places among the weights, frequent ones first)
    and values (float32), the entries own_ptr[i]:own_ptr[i+1] (int64 [m + 1]) of own_values (float32), and the row
    rows[i] (int64) of dense (float32 [n, h]). The sparse features that occur, ascending, are features (uint32 [c]);
    place[j] (int64 [c]) is the j-th one's place among the weights, or -1 - e where it is entry e of the own values.
    """

    start: np.ndarray
    stop: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    own_ptr: np.ndarray
    own_values: np.ndarray
    rows: np.ndarray
    dense: np.ndarray
    features: np.ndarray
    place: np.ndarray
    nr_places: int


@njit(cache=True, nogil=True)
def _count_features(indptr, indices, rows, count):
    """Features that occur in the rows, in order of appearance; `count`, zeros int32 [d], receives how often."""
    features, used = np.empty(1024, np.uint32), 0
    for row in rows:
        for k in range(indptr[row], indptr[row + 1]):
            if count[indices[k]] == 0:
                if used == len(features):
                    features = enlarged(features, used + 1)
                features[used] = indices[k]
                used += 1
            count[indices[k]] += 1
    return features[:used]


@njit(cache=True, nogil=True)
def _rank_by_frequency(features, count, nr_rows, least):
    """Places of the features by falling count, -1 for those in fewer rows than `least`; the number of places."""
    start = np.zeros(nr_rows + 2, np.int64)
    for feature in features:
        start[nr_rows - count[feature] + 1] += 1
    start = np.cumsum(start)
    place, nr_places = np.full(len(features), -1), 0
    for j in range(len(features)):
        if count[features[j]] >= least:
            place[j] = start[nr_rows - count[features[j]]]
            start[nr_rows - count[features[j]]] += 1
            nr_places += 1
    return place, nr_places


@njit(cache=True, nogil=True)
def _sort_block(start, first, last, ends, here, values, row_of, value_of):
    """Put the entries of each of the rows first:last into the order of their places.

    They are laid out place by place first, in row_of and value_of. ends: int64, where a place's entries begin there.
    """
    for i in range(first, last):
        for k in range(start[i], start[i + 1]):
            where = ends[here[k]]
            row_of[where], value_of[where] = i, values[k]
            ends[here[k]] += 1
    stop, k = start[first:last].copy(), 0
    for place in range(len(ends) - 1):  # each entry has moved its place's beginning towards its end
        while k < ends[place]:
            i = row_of[k] - first
            here[stop[i]], values[stop[i]] = place, value_of[k]
            stop[i] += 1
            k += 1


@njit(cache=True, nogil=True)
def _copy_rows(indptr, indices, data, rows, features, place, count, here, values):
    """Shared and own entries of the rows; the place of an own feature becomes -1 - entry.

    A row has its shared entries by rising place: the frequent features, which are in the cache, then the others in one
    go, whose misses overlap. They are sorted in blocks of rows, so that the copy in between is small.

    count: int32 [d], how often a feature occurs; overwritten.
    here, values: uint32 and float32, receive the places and values of the shared entries.
    """
    nr_places, nr_own = 0, 0
    for j in range(len(features)):
        if place[j] >= 0:
            nr_places = max(nr_places, place[j] + 1)
            count[features[j]] = place[j]
        else:
            nr_own += 1
            count[features[j]] = -1 - j
    start, own_ptr = np.zeros(len(rows) + 1, np.int64), np.zeros(len(rows) + 1, np.int64)
    own = np.empty(nr_own, np.float32)
    size = max(ENTRIES_A_PLACE * nr_places, 1)
    row_of, value_of = np.empty(0, np.int32), np.empty(0, np.float32)
    first = used = nr_own = 0
    while first < len(rows):
        last, place_ptr = first, np.zeros(nr_places + 1, np.int64)
        while last < len(rows) and used - start[first] < size:
            for k in range(indptr[rows[last]], indptr[rows[last] + 1]):
                where = count[indices[k]]
                if where >= 0:
                    here[used], values[used] = where, data[k]
                    place_ptr[where + 1] += 1
                    used += 1
                else:
                    own[nr_own] = data[k]
                    place[-1 - where] = -1 - nr_own
                    nr_own += 1
            last += 1
            start[last], own_ptr[last] = used, nr_own
        if used - start[first] > len(row_of):
            row_of, value_of = np.empty(used - start[first], np.int32), np.empty(used - start[first], np.float32)
        _sort_block(start, first, last, np.cumsum(place_ptr), here, values, row_of, value_of)
        first = last
    return start[:-1], start[1:], own_ptr, own


def stay_in_place(nr_rows: int, nr_all: int) -> bool:
    """Whether so many of all rows are too many to be copied."""
    return 4 * nr_rows >= nr_all


def gather(X: FeatureArrays, rows: np.ndarray, least: int = 2) -> Instances:
    """The rows (int64 [m]) of X.

    Features in fewer rows than `least` (1 or 2) are own ones. Many rows (stay_in_place) are not copied: they touch
    nearly every feature, and at the top of a tree copies for each thread would take most of the memory.
    """
    if stay_in_place(len(rows), len(X.indptr) - 1):
        everything = np.arange(X.nr_sparse)
        own = np.zeros(len(rows) + 1, np.int64), np.zeros(0, np.float32)
        entries = X.indptr[rows], X.indptr[rows + 1], X.indices, X.data
        return Instances(*entries, *own, rows, X.dense, everything.astype(np.uint32), everything, X.nr_sparse)
    # calloc'ed pages: only those that the rows touch cost anything
    slot = np.zeros(X.nr_sparse, np.int32)
    features = np.sort(_count_features(X.indptr, X.indices, rows, slot))
    place, nr_places = _rank_by_frequency(features, slot, len(rows), least)
    nr_shared = slot[features[place >= 0]].sum()
    here, values = empty_room(nr_shared, np.uint32), empty_room(nr_shared, np.float32)
    start, stop, *own = _copy_rows(X.indptr, X.indices, X.data, rows, features, place, slot, here, values)
    return Instances(start, stop, here, values, *own, rows, X.dense, features, place, nr_places)


# ---------------------------------------------------------------------------- a visit, compiled


@njit(cache=True, nogil=True)
def margins_of(group, i, constant, W, margins):
    """margins [LANES] = w·x + bias·b of row i, without its own features."""
    margins[:] = 0
    dot_sparse(group.start[i], group.stop[i], group.indices, group.values, W, margins)
    dot_dense(group.dense.shape[1], group.nr_places, group.dense[group.rows[i]], W, margins)
    dot_dense(1, len(W) - 1, constant, W, margins)


@njit(cache=True, nogil=True)
def move(group, i, constant, step, W):
    """W += step [LANES] times row i, without its own features."""
    add_sparse(group.start[i], group.stop[i], group.indices, group.values, step, W)
    add_dense(group.dense.shape[1], group.nr_places, group.dense[group.rows[i]], step, W)
    add_dense(1, len(W) - 1, constant, step, W)


@njit(cache=True, nogil=True)
def move_on(group, i, following, constant, step, W, margins):
    """move along row i, then margins_of the following row."""
    margins[:] = 0
    nr_dense = group.dense.shape[1]
    add_sparse(group.start[i], group.stop[i], group.indices, group.values, step, W)
    here, there = group.dense[group.rows[i]], group.dense[group.rows[following]]
    dot_sparse(group.start[following], group.stop[following], group.indices, group.values, W, margins)
    add_dot_dense(nr_dense, group.nr_places, here, step, there, W, margins)
    add_dot_dense(1, len(W) - 1, constant, step, constant, W, margins)
