"""The compiled beam search: one level for a block of rows.

A row keeps its best candidates in a heap while its parents are visited, the best first. A child scores at most as
much as its parent (post-processors are at most 1, their logarithms at most 0): once a row has enough candidates above
a parent's score, that parent is left out without reading its weights, and the result is the same.
"""

import numpy as np
from numba import njit

from xrt_jax.xlinear.chunks import (
    CHILD,
    EMPTY,
    ENTRY,
    KIND_SHIFT,
    LAST,
    LINE,
    LONG,
    MOST,
    ROW,
    SLOT,
    START,
    home,
    lines_a_row,
    popcount,
)
from xrt_jax.xlinear.lanes import LANES, dot_sparse, prefetch
from xrt_jax.xlinear.postprocess import NOOP, combine, finite, keeps_order, neutral, transform, upper_bound

AHEAD = 3  # pairs, whose rows are asked for in advance: they come in the order of the parents


# ---------------------------------------------------------------------------- raw scores


@njit(cache=True, nogil=True)
def _note(place, factor, size, x, feature, slot, mask):
    """Write a feature's number in its chunk and its value behind the `size` noted; the new size, if it has a slot.

    Nothing branches on whether the chunk has the feature: that could not be predicted.
    """
    block = feature >> np.uint64(6)
    at = home(block, mask)
    while (slot[at].block != block) & (slot[at].block != EMPTY):
        at = (at + np.uint64(1)) & mask
    # the feature's own bit becomes the top one, those of later features vanish
    bits = slot[at].bits << (np.uint64(63) - (feature & np.uint64(63)))
    place[size], factor[size] = np.uint64(slot[at].rank) + popcount(bits) - np.uint64(1), x
    return size + (bits >> np.uint64(63))


@njit(cache=True, nogil=True)
def _look_up(place, factor, indices, values, dense, nr_sparse, slot):
    """Note those features of a row that have slots in a chunk; how many these are."""
    size, mask = np.uint64(0), np.uint64(len(slot) - 1)
    for k in range(len(indices)):
        size = _note(place, factor, size, values[k], np.uint64(indices[k]), slot, mask)
    for j in range(len(dense)):
        size = _note(place, factor, size, dense[j], np.uint64(nr_sparse + j), slot, mask)
    return size


@njit(cache=True, nogil=True)
def _by_kind(place, factor, size, start, places, factors, sizes):
    """Sort the features noted by kind: where their weights are and their values, and how many there are of each."""
    sizes[:] = 0
    for k in range(size):
        at = start[place[k]]
        kind = at >> np.uint32(KIND_SHIFT)
        places[kind, sizes[kind]], factors[kind, sizes[kind]] = at & np.uint32(MOST), factor[k]
        sizes[kind] += np.uint32(1)


@njit(cache=True, nogil=True)
def _note_dense(places, factors, sizes, indices, values, dense, nr_sparse, first_dense):
    """Note the rows of the dense features of a chunk, which need no look-up."""
    if first_dense < nr_sparse:
        for k in range(len(indices)):
            if indices[k] >= first_dense:
                places[ROW, sizes[ROW]], factors[ROW, sizes[ROW]] = indices[k] - first_dense, values[k]
                sizes[ROW] += np.uint32(1)
    for j in range(max(first_dense - nr_sparse, 0), len(dense)):
        places[ROW, sizes[ROW]], factors[ROW, sizes[ROW]] = nr_sparse + j - first_dense, dense[j]
        sizes[ROW] += np.uint32(1)


@njit(cache=True, nogil=True)
def _add_lists(raw, places, factors, sizes, entry):
    """raw += the lists of entries times their factors, one length after the other: that spares mispredicted ends."""
    for length in range(1, LONG):
        for k in range(sizes[length]):
            first, x = places[length, k], factors[length, k]
            for i in range(length):
                at = first + np.uint32(i)
                raw[entry[at].offset & np.uint32(LAST - 1)] += x * entry[at].value
    for k in range(sizes[LONG]):
        at, x = np.uint64(places[LONG, k]), factors[LONG, k]
        while True:
            raw[entry[at].offset & np.uint32(LAST - 1)] += x * entry[at].value
            if entry[at].offset & np.uint32(LAST):
                break
            at += np.uint64(1)


@njit(cache=True, nogil=True)
def _add_rows(raw, places, factors, nr_rows, line):
    """raw += factors @ rows of the matrix, LANES children at a time with the sums in registers."""
    width = len(raw) // LANES
    for k in range(nr_rows):
        places[k] *= np.uint32(width)
    for group in range(width):
        dot_sparse(0, nr_rows, places, factors, line[group:], raw[group * LANES : (group + 1) * LANES])


@njit(cache=True, nogil=True)
def _score_children(
    raw,
    room,
    row,
    p,
    indptr,
    indices,
    data,
    dense,
    nr_sparse,
    ptr,
    intercept,
    first_dense,
    slot,
    start,
    entry,
    line,
):
    """raw = x·w + bias·b of the children of parent p; float32 [LANES · lines a row]; `room` to work in: _room."""
    place, factor, places, factors, sizes = room
    index, value = indices[indptr[row] : indptr[row + 1]], data[indptr[row] : indptr[row + 1]]
    with_slots = dense[row, : max(first_dense[p] - nr_sparse, 0)]
    size = _look_up(place, factor, index, value, with_slots, nr_sparse, slot[ptr[p, SLOT] : ptr[p + 1, SLOT]])
    _by_kind(place, factor, size, start[ptr[p, START] : ptr[p + 1, START]], places, factors, sizes)
    _note_dense(places, factors, sizes, index, value, dense[row], nr_sparse, first_dense[p])
    raw[:] = 0
    _add_lists(raw, places, factors, sizes, entry[ptr[p, ENTRY] : ptr[p + 1, ENTRY]])
    _add_rows(raw, places[ROW], factors[ROW], sizes[ROW], line[ptr[p, LINE] : ptr[p + 1, LINE]])
    for c in range(ptr[p + 1, CHILD] - ptr[p, CHILD]):
        raw[c] += intercept[ptr[p, CHILD] + c]


@njit(cache=True, nogil=True)
def _room(nr_features):
    """Arrays for the features of one row: noted, sorted by kind, and their numbers."""
    n = nr_features + 1  # what has no slot is written too, and then written over
    return (
        np.empty(n, np.uint32),
        np.empty(n, np.float32),
        np.empty((LONG + 1, n), np.uint32),
        np.empty((LONG + 1, n), np.float32),
        np.empty(LONG + 1, np.uint32),
    )


# ---------------------------------------------------------------------------- candidates


@njit(cache=True, nogil=True)
def _is_worse(key, item, other_key, other_item):
    """A lower score, or an equal one later in the order of the beam and of the siblings."""
    return key < other_key or (key == other_key and item > other_item)


@njit(cache=True, nogil=True)
def _sift_down(key, item, i, size):
    """Restore the heap below i: on top the worst candidate."""
    while 2 * i + 1 < size:
        c = 2 * i + 1
        if c + 1 < size and _is_worse(key[c + 1], item[c + 1], key[c], item[c]):
            c += 1
        if not _is_worse(key[c], item[c], key[i], item[i]):
            return
        key[i], key[c] = key[c], key[i]
        item[i], item[c] = item[c], item[i]
        i = c


@njit(cache=True, nogil=True)
def _sort_heap(key, item):
    """Best first."""
    for i in range(len(key) - 1, 0, -1):
        key[0], key[i] = key[i], key[0]
        item[0], item[i] = item[i], item[0]
        _sift_down(key, item, 0, i)


@njit(cache=True, nogil=True)
def _offer(key, item, size, raw, base, parent, kind, power):
    """Put the children of a parent into a row's heap, which holds `size` so far; its size afterwards."""
    rejected = -np.inf  # the largest raw score that was not enough: no need to transform a lower one
    skips = keeps_order(parent, kind)
    for c in range(len(raw)):
        if size == len(key) and skips and raw[c] <= rejected:
            continue
        score = combine(transform(finite(raw[c]), kind, power), parent, kind)
        if size < len(key):
            key[size], item[size] = score, base + c
            size += 1
            if size == len(key):
                for i in range(size // 2 - 1, -1, -1):
                    _sift_down(key, item, i, size)
        elif _is_worse(key[0], item[0], score, base + c):
            key[0], item[0] = score, base + c
            _sift_down(key, item, 0, size)
        else:
            rejected = max(rejected, raw[c])
    return size


# ---------------------------------------------------------------------------- a level


@njit(cache=True, nogil=True)
def output_ptr(beam_ptr, beam_node, ptr, topk):
    """Row pointers of the beam below: all children of a row's parents, topk at most."""
    out = np.zeros(len(beam_ptr), np.int64)
    for row in range(len(beam_ptr) - 1):
        nr_children = 0
        for at in range(beam_ptr[row], beam_ptr[row + 1]):
            nr_children += ptr[beam_node[at] + 1, CHILD] - ptr[beam_node[at], CHILD]
        out[row + 1] = out[row] + min(topk, nr_children)
    return out


@njit(cache=True, nogil=True)
def _by_parent(beam_node, pairs, nr_parents):
    """The pairs, positions in the beam, parent by parent (a counting sort); few pairs stay as they are."""
    order = np.empty(len(pairs), np.int64)
    if 4 * len(pairs) < nr_parents:
        for i in range(len(pairs)):
            order[i] = i
        return order
    place = np.zeros(nr_parents + 1, np.int64)
    for at in pairs:
        place[beam_node[at] + 1] += 1
    for p in range(nr_parents):
        place[p + 1] += place[p]
    for i in range(len(pairs)):
        order[place[beam_node[pairs[i]]]] = i
        place[beam_node[pairs[i]]] += 1
    return order


@njit(cache=True, nogil=True)
def _collect(first, stop, low, high, beam_ptr):
    """Rows and places in the beam of the low-th to high-th parent of every row."""
    size = 0
    for row in range(first, stop):
        size += max(min(high, beam_ptr[row + 1] - beam_ptr[row]) - low, 0)
    rows, pairs = np.empty(size, np.int64), np.empty(size, np.int64)
    size = 0
    for row in range(first, stop):
        for at in range(beam_ptr[row] + low, min(beam_ptr[row] + high, beam_ptr[row + 1])):
            rows[size], pairs[size] = row, at
            size += 1
    return rows, pairs


@njit(cache=True, nogil=True)
def _longest(row_ptr, first, stop):
    longest = 0
    for row in range(first, stop):
        longest = max(longest, row_ptr[row + 1] - row_ptr[row])
    return longest


@njit(cache=True, nogil=True)
def _most_children(ptr, beam_node):
    most = 0
    for p in beam_node:
        most = max(most, ptr[p + 1, CHILD] - ptr[p, CHILD])
    return most


@njit(cache=True, nogil=True)
def search_rows(
    first,
    stop,
    indptr,
    indices,
    data,
    dense,
    nr_sparse,
    beam_ptr,
    beam_node,
    beam_score,
    is_first,
    ptr,
    child,
    intercept,
    first_dense,
    slot,
    start,
    entry,
    line,
    kind,
    power,
    out_ptr,
    out_node,
    out_score,
):
    """The beam of the rows first:stop one level further down, written to their spans of out_node and out_score.

    Parents are visited in two rounds, the best of every row and then the others; in a round parent by parent, so that
    a chunk serves all rows that visit it.
    """
    shift = out_ptr[first]
    item, size = np.empty(out_ptr[stop] - shift, np.int64), np.zeros(stop - first, np.int64)
    most = _most_children(ptr, beam_node[beam_ptr[first] : beam_ptr[stop]])
    scratch = np.empty(lines_a_row(most) * LANES, np.float32)
    room = _room(_longest(indptr, first, stop) + dense.shape[1])
    longest = _longest(beam_ptr, first, stop)
    low, high = 0, longest if kind == NOOP else 1
    while low < longest:
        rows, pairs = _collect(first, stop, low, high, beam_ptr)
        order = _by_parent(beam_node, pairs, len(ptr) - 1)
        for j in range(len(order)):
            row, at = rows[order[j]], pairs[order[j]]
            soon = rows[order[min(j + AHEAD, len(order) - 1)]]
            prefetch(indptr[soon], indptr[soon + 1], indices)
            prefetch(indptr[soon], indptr[soon + 1], data)
            prefetch(out_ptr[soon], out_ptr[soon + 1], out_score)
            p, parent = beam_node[at], neutral(kind) if is_first else beam_score[at]
            keys, items = out_score[out_ptr[row] : out_ptr[row + 1]], item[out_ptr[row] - shift :]
            full = size[row - first] == len(keys)
            if full and (len(keys) == 0 or upper_bound(parent, kind) < keys[0]):
                continue
            nr_children = ptr[p + 1, CHILD] - ptr[p, CHILD]
            raw = scratch[: lines_a_row(nr_children) * LANES]
            _score_children(
                raw,
                room,
                row,
                p,
                indptr,
                indices,
                data,
                dense,
                nr_sparse,
                ptr,
                intercept,
                first_dense,
                slot,
                start,
                entry,
                line,
            )
            base = (at - beam_ptr[row]) << 32
            size[row - first] = _offer(keys, items, size[row - first], raw[:nr_children], base, parent, kind, power)
        low, high = high, longest
    for row in range(first, stop):
        keys, items = out_score[out_ptr[row] : out_ptr[row + 1]], item[out_ptr[row] - shift :]
        _sort_heap(keys, items)
        for i in range(len(keys)):
            p = beam_node[beam_ptr[row] + (items[i] >> 32)]
            out_node[out_ptr[row] + i] = child[ptr[p, CHILD] + (items[i] & 0xFFFFFFFF)]


@njit(cache=True, nogil=True)
def score_pairs(
    first,
    stop,
    indptr,
    indices,
    data,
    dense,
    nr_sparse,
    row,
    parent,
    offset,
    parent_score,
    ptr,
    intercept,
    first_dense,
    slot,
    start,
    entry,
    line,
    kind,
    power,
    out,
):
    """out[i] = ranking score of the offset[i]-th child of parent[i] for row[i], i in first:stop; equal parents in a
    row come one after the other."""
    scratch = np.empty(lines_a_row(_most_children(ptr, parent[first:stop])) * LANES, np.float32)
    room = _room(_longest(indptr, 0, len(indptr) - 1) + dense.shape[1])
    for i in range(first, stop):
        p = parent[i]
        raw = scratch[: lines_a_row(ptr[p + 1, CHILD] - ptr[p, CHILD]) * LANES]
        if i == first or p != parent[i - 1] or row[i] != row[i - 1]:
            _score_children(
                raw,
                room,
                row[i],
                p,
                indptr,
                indices,
                data,
                dense,
                nr_sparse,
                ptr,
                intercept,
                first_dense,
                slot,
                start,
                entry,
                line,
            )
        out[i] = combine(transform(finite(raw[offset[i]]), kind, power), parent_score[i], kind)
