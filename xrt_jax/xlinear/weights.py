"""Which weights of solved siblings are kept, compiled."""

import numpy as np
from numba import njit

from xrt_jax.selection import lowest
from xrt_jax.xlinear.lanes import LANES, lanes_above
from xrt_jax.xlinear.masks import POSITIVE, is_set
from xrt_jax.xlinear.memory import enlarged


@njit(cache=True, nogil=True)
def _signed_duals(masks, duals):
    """±dual of every row in every lane, float32 [m, LANES]: times a row's own features, their weights."""
    signed = np.empty_like(duals)
    for i in range(len(duals)):
        for b in range(LANES):
            signed[i, b] = duals[i, b] if is_set(masks[i, POSITIVE], b) else -duals[i, b]
    return signed


@njit(cache=True, nogil=True)
def collect(group, nr_sparse, W, masks, duals, nr_labels, settings):
    """Weights to store: not 0, |w| ≥ threshold, of a label the max_nonzeros (0: all) largest, features ascending.

    Returns:
        count int64 [labels], feature int32 [sum], weight float32 [sum], label after label.
    """
    row_of = np.empty(len(group.own_values), np.int64)
    for i in range(len(group.own_ptr) - 1):
        row_of[group.own_ptr[i] : group.own_ptr[i + 1]] = i
    signed, one = _signed_duals(masks, duals), np.float32(1)
    threshold = np.float32(settings.threshold)
    names, lanes, weights, used = np.empty(1024, np.int32), np.empty(1024, np.uint8), np.empty(1024, np.float32), 0
    end, nr_sparse_here = np.zeros(nr_labels, np.int64), len(group.features)
    for j in range(nr_sparse_here + len(W) - group.nr_places):
        if j >= nr_sparse_here:
            name, line, factor = nr_sparse + j - nr_sparse_here, W[group.nr_places + j - nr_sparse_here], one
        elif group.place[j] >= 0:
            name, line, factor = np.int64(group.features[j]), W[group.place[j]], one
        else:
            entry = -1 - group.place[j]
            name, line, factor = np.int64(group.features[j]), signed[row_of[entry]], group.own_values[entry]
        above = lanes_above(line, factor, threshold)
        if above == 0:
            continue
        if used + LANES > len(names):
            size = used + LANES
            names, lanes, weights = enlarged(names, size), enlarged(lanes, size), enlarged(weights, size)
        for b in range(nr_labels):
            if (above >> b) & 1:
                names[used], lanes[used], weights[used] = name, b, factor * line[b]
                end[b] += 1
                used += 1
    feature, weight = np.empty(used, np.int32), np.empty(used, np.float32)
    fill = np.cumsum(end) - end
    for k in range(used):
        b = lanes[k]
        feature[fill[b]], weight[fill[b]] = names[k], weights[k]
        fill[b] += 1
    return _largest(feature, weight, fill, settings.max_nonzeros)


@njit(cache=True, nogil=True)
def _largest(feature, weight, end, max_nonzeros):
    """Of each label, the entries up to end[b], the max_nonzeros (0: all) largest |weights|; count, feature, weight."""
    count = np.empty(len(end), np.int64)
    used = first = 0
    for b in range(len(end)):
        kept = np.ones(end[b] - first, np.uint8)
        if 0 < max_nonzeros < len(kept):
            kept = lowest(-np.abs(weight[first : end[b]]), max_nonzeros)
        count[b] = used
        for j in range(len(kept)):
            if kept[j]:
                feature[used], weight[used] = feature[first + j], weight[first + j]
                used += 1
        count[b] = used - count[b]
        first = end[b]
    return count, feature[:used].copy(), weight[:used].copy()
