"""The instances of a cluster as the solvers take them: features renumbered, those of one row alone set apart.

A cluster sees few of all features, and in text most of these in a single row. The weight of such a feature is the
row's value times the row's dual, so it needs no place among the weights: its part of the margin is |x|² · dual over
the features of that row alone. That halves the weights of a cluster, which is what the time goes into (cache misses).
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from xrt_jax.sparse import FeatureArrays, enlarged
from xrt_jax.xlinear.lanes import add_dense, add_sparse, dot_dense, dot_sparse


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
def _copy_rows(indptr, indices, data, rows, features, place, count):
    """Shared and own entries of the rows; the place of an own feature becomes -1 - entry.

    Shared entries are laid out feature by feature first, so that each row gets them by rising place: the frequent
    features, which are in the cache, then the others in one go, whose misses overlap. `count`: int32 [d], used up.
    """
    nr_places, nr_own = 0, 0
    for j in range(len(features)):
        nr_places = max(nr_places, place[j] + 1)
        nr_own += place[j] < 0
    # place_ptr[p + 1] moves from the start of place p's rows to their end
    place_ptr = np.zeros(nr_places + 2, np.int64)
    for j in range(len(features)):
        if place[j] >= 0:
            place_ptr[place[j] + 2] = count[features[j]]
        count[features[j]] = place[j] if place[j] >= 0 else -1 - j
    place_ptr = np.cumsum(place_ptr)
    row_of, value_of = np.empty(place_ptr[-1], np.int32), np.empty(place_ptr[-1], np.float32)
    start, own_ptr, own = (
        np.zeros(len(rows) + 1, np.int64),
        np.zeros(len(rows) + 1, np.int64),
        np.empty(nr_own, np.float32),
    )
    entry = 0
    for i in range(len(rows)):
        start[i + 1] = start[i]
        for k in range(indptr[rows[i]], indptr[rows[i] + 1]):
            where = count[indices[k]]
            if where >= 0:
                row_of[place_ptr[where + 1]], value_of[place_ptr[where + 1]] = i, data[k]
                place_ptr[where + 1] += 1
                start[i + 1] += 1
            else:
                own[entry] = data[k]
                place[-1 - where] = -1 - entry
                entry += 1
        own_ptr[i + 1] = entry
    stop = start[:-1].copy()
    indices_by_row, values = np.empty(len(row_of), np.uint32), np.empty(len(row_of), np.float32)
    for p in range(nr_places):
        for k in range(place_ptr[p], place_ptr[p + 1]):
            i = row_of[k]
            indices_by_row[stop[i]], values[stop[i]] = p, value_of[k]
            stop[i] += 1
    return start[:-1], stop, indices_by_row, values, own_ptr, own


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
    entries = _copy_rows(X.indptr, X.indices, X.data, rows, features, place, slot)
    return Instances(*entries, rows, X.dense, features, place, nr_places)


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
