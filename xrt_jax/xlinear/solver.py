"""Squared-hinge support vector machines of sibling labels by dual coordinate descent, compiled.

For one label: min over w, b of  ½|w|² + ½b² + Σ_i c_i max(0, 1 - y_i (w·x_i + bias b))²  (LIBLINEAR's
L2R_L2LOSS_SVC_DUAL as PECOS uses it: Hsieh et al. 2008, algorithm 3, with shrinking).
"""

import numpy as np
from numba import njit

from xrt_jax.sparse import enlarged, lowest

# Sums may be reordered (SIMD), but infinities stay what they are. The two loops over a row are inlined: calls with a
# dozen array arguments cost as much as a short row.
REORDER = {"reassoc", "contract", "nsz"}


@njit(cache=True, nogil=True, fastmath=REORDER)
def _squared_norms(start, stop, values, dense, rows, bias):
    norms = np.empty(len(rows))
    for i in range(len(rows)):
        total = bias * bias
        for k in range(start[i], stop[i]):
            total += values[k] * values[k]
        for j in range(dense.shape[1]):
            total += dense[rows[i], j] * dense[rows[i], j]
        norms[i] = total
    return norms


@njit(cache=True, nogil=True, fastmath=REORDER, inline="always")
def _margin(start, stop, indices, values, dense_row, nr_sparse, bias, w):
    """w·x in float64; w holds sparse columns, dense columns, bias."""
    total = 0.0
    for k in range(start, stop):
        total += w[indices[k]] * values[k]
    w_dense = w[nr_sparse : nr_sparse + len(dense_row)]
    for j in range(len(dense_row)):
        total += w_dense[j] * dense_row[j]
    return total + w[-1] * bias


@njit(cache=True, nogil=True, fastmath=REORDER, inline="always")
def _add_scaled(start, stop, indices, values, dense_row, nr_sparse, bias, step, w):
    """w += step · x."""
    for k in range(start, stop):
        w[indices[k]] += step * values[k]
    w_dense = w[nr_sparse : nr_sparse + len(dense_row)]
    for j in range(len(dense_row)):
        w_dense[j] += step * dense_row[j]
    w[-1] += step * bias


@njit(cache=True, nogil=True, fastmath=REORDER)
def _solve_label(
    start, stop, indices, values, dense, rows, nr_sparse, norms, order, y, half_inv_cost, bias, eps, max_iter, w
):
    """Dual coordinate descent over the instances `order` (permuted in place); w (zeros) receives the solution.

    A pass ends the descent when projected gradients span at most eps over all instances; instances whose dual sits at
    zero with a gradient above the last pass's largest are left out until the rest has converged.
    """
    alpha = np.zeros(len(rows))
    active, highest = len(order), np.inf
    state = np.uint64(88172645463325252)
    for _ in range(max_iter):
        new_highest, new_lowest = -np.inf, np.inf
        for s in range(active - 1, 0, -1):
            # xorshift64 (Marsaglia 2003); multiply and shift make a number below s + 1 without a division
            state ^= state << np.uint64(13)
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
            t = np.int64(((state >> np.uint64(32)) * np.uint64(s + 1)) >> np.uint64(32))
            order[s], order[t] = order[t], order[s]
        s = 0
        while s < active:
            i = order[s]
            margin = _margin(start[i], stop[i], indices, values, dense[rows[i]], nr_sparse, bias, w)
            gradient = y[i] * margin - 1 + alpha[i] * half_inv_cost[i]
            projected = gradient
            if alpha[i] == 0:
                if gradient > highest:
                    active -= 1
                    order[s], order[active] = order[active], order[s]
                    continue
                projected = min(gradient, 0.0)
            new_highest, new_lowest = max(new_highest, projected), min(new_lowest, projected)
            if abs(projected) > 1e-12:
                new_alpha = max(alpha[i] - gradient / (norms[i] + half_inv_cost[i]), 0.0)
                step = np.float32((new_alpha - alpha[i]) * y[i])
                alpha[i] = new_alpha
                _add_scaled(start[i], stop[i], indices, values, dense[rows[i]], nr_sparse, bias, step, w)
            s += 1
        if new_highest - new_lowest <= eps:
            if active == len(order):
                break
            active, highest = len(order), np.inf
            continue
        highest = new_highest if new_highest > 0 else np.inf


@njit(cache=True, nogil=True)
def _kept(w, threshold, max_nonzeros):
    """Positions of w to store: not 0, |w| ≥ threshold, of these the max_nonzeros (0: all) largest |w|; ascending."""
    magnitude = np.abs(w)
    position, size = np.empty(len(w), np.int64), 0
    for j in range(len(w)):
        if magnitude[j] >= threshold and magnitude[j] > 0:
            position[size] = j
            size += 1
    if 0 < max_nonzeros < size:
        largest = lowest(-magnitude, max_nonzeros)
        size = 0
        for j in range(len(w)):
            if largest[j]:
                position[size] = j
                size += 1
    return position[:size]


@njit(cache=True, nogil=True)
def solve_siblings(
    start,
    stop,
    indices,
    values,
    nr_sparse,
    dense,
    rows,
    nr_shared,
    pos_ptr,
    pos_local,
    pos_cost,
    Cp,
    Cn,
    bias,
    eps,
    max_iter,
    threshold,
    max_nonzeros,
):
    """Solve labels that share their negatives.

    Args:
        start, stop: int64 [m], indices: uint32, values: float32: sparse part of the m rows, columns below nr_sparse.
        dense: float32 [n, h]; rows: int64 [m], the rows' places in it.
        nr_shared: the first so many rows belong to every label; a later one only to labels that it is a positive of.
        pos_ptr: int64 [labels + 1]; pos_local: int64, positives of each label as places in `rows`; pos_cost: float32.
        Cp, Cn: cost of positives (times pos_cost) and negatives.
        bias: value of the constant feature; 0 for none.
        eps, max_iter: stopping rule of the descent.
        threshold, max_nonzeros: which weights are kept.

    Returns:
        count int64 [labels], column int64 [sum], weight float32 [sum]; columns: sparse, then dense, then the bias.
    """
    nr_labels, nr_columns = len(pos_ptr) - 1, nr_sparse + dense.shape[1] + 1
    norms = _squared_norms(start, stop, values, dense, rows, bias)
    y, half_inv_cost = -np.ones(len(rows)), np.full(len(rows), 0.5 / Cn)
    order = np.empty(len(rows), np.int64)
    count = np.zeros(nr_labels, np.int64)
    column, weight = np.empty(1024, np.int64), np.empty(1024, np.float32)
    used = 0
    for label in range(nr_labels):
        positives = pos_local[pos_ptr[label] : pos_ptr[label + 1]]
        cost = pos_cost[pos_ptr[label] : pos_ptr[label + 1]]
        nr_order = 0
        for j in range(len(positives)):
            y[positives[j]] = 1
            half_inv_cost[positives[j]] = 0.5 / (Cp * cost[j]) if cost[j] > 0 else np.inf
            if positives[j] >= nr_shared and cost[j] > 0:
                order[nr_order] = positives[j]
                nr_order += 1
        for i in range(nr_shared):
            # an instance that costs nothing is no part of the problem
            if half_inv_cost[i] < np.inf:
                order[nr_order] = i
                nr_order += 1
        w = np.zeros(nr_columns, np.float32)
        _solve_label(
            start,
            stop,
            indices,
            values,
            dense,
            rows,
            nr_sparse,
            norms,
            order[:nr_order],
            y,
            half_inv_cost,
            bias,
            eps,
            max_iter,
            w,
        )
        kept = _kept(w, threshold, max_nonzeros)
        if used + len(kept) > len(column):
            column, weight = enlarged(column, used + len(kept)), enlarged(weight, used + len(kept))
        for j in kept:
            column[used], weight[used] = j, w[j]
            used += 1
        count[label] = len(kept)
        for i in positives:
            y[i], half_inv_cost[i] = -1, 0.5 / Cn
    return count, column[:used].copy(), weight[:used].copy()
