"""Support vector machines of sibling labels by dual coordinate descent, LANES labels at a time, compiled.

For one label: min over w, b of  ½|w|² + ½b² + Σ_i c_i max(0, 1 - y_i (w·x_i + bias b))^p  with p = 2, or 1 for the
L1 loss (LIBLINEAR's L2R_L2LOSS_SVC_DUAL and L2R_L1LOSS_SVC_DUAL as PECOS uses them: Hsieh et al. 2008, algorithm 3,
with shrinking). Siblings visit their common instances together, in one order; each keeps its own duals, shrinks and
stops by itself.
"""

import numpy as np
from numba import njit

from xrt_jax.sparse import enlarged, lowest
from xrt_jax.xlinear.lanes import LANES, add_dense, add_sparse, aligned_lines, dot_dense, dot_sparse

# Passes after which rows left out come back even if the rest has not converged: where eps is below what float32
# resolves it never would, and a row left out too early would stay out.
PASSES_SHRUNK = 64
# A row's state, LANES floats each: dual, ±1 (0: not an instance of that label), cost term, 1 while it is visited.
DUAL, SIGN, COST, ON = 0, LANES, 2 * LANES, 3 * LANES
# The siblings' state: margin, then step; thresholds of shrinking; this pass's extreme projected gradients; 1 while a
# sibling takes part; 1 once it has left rows out.
MARGIN, HIGH, LOW, NEW_HIGH, NEW_LOW, LIVE, SHRUNK = (k * LANES for k in range(7))


@njit(cache=True, nogil=True)
def _squared_norms(start, stop, values, dense, rows, bias):
    norms = np.empty(len(rows), np.float32)
    for i in range(len(rows)):
        total = bias * bias
        for k in range(start[i], stop[i]):
            total += values[k] * values[k]
        for j in range(dense.shape[1]):
            total += dense[rows[i], j] * dense[rows[i], j]
        norms[i] = total
    return norms


@njit(cache=True, nogil=True)
def _instance_states(nr_rows, nr_shared, pos_ptr, pos_local, pos_cost, Cp, Cn, squared):
    """State of every row, float32 [m, 4 LANES]: the shared rows are negatives, unless they are positives."""
    state = np.zeros((nr_rows, 4 * LANES), np.float32)
    nr_labels = len(pos_ptr) - 1
    negative = np.float32(0.5 / Cn if squared else Cn)
    for i in range(nr_shared):
        for b in range(nr_labels):
            state[i, SIGN + b], state[i, COST + b] = -1, negative
    for b in range(nr_labels):
        for j in range(pos_ptr[b], pos_ptr[b + 1]):
            # an instance that costs nothing is no part of the problem
            cost = Cp * pos_cost[j]
            state[pos_local[j], SIGN + b] = 1 if cost > 0 else 0
            state[pos_local[j], COST + b] = (0.5 / cost if squared else cost) if cost > 0 else 0
    state[:, ON : ON + LANES] = np.abs(state[:, SIGN : SIGN + LANES])
    return state


@njit(cache=True, nogil=True, error_model="numpy")
def _update_duals(row, lane, norm, squared):
    """One step of the descent on one row in every lane; lane's margins become steps.

    Returns:
        whether a lane moves, whether a lane will visit the row again.
    """
    moves, stays = np.float32(0), np.float32(0)
    inf, zero = np.float32(np.inf), np.float32(0)
    for b in range(LANES):
        dual, sign, cost = row[DUAL + b], row[SIGN + b], row[COST + b]
        diagonal = cost if squared else zero
        upper = inf if squared else cost
        gradient = sign * lane[MARGIN + b] - np.float32(1) + dual * diagonal
        at_zero, at_upper = dual <= zero, dual >= upper
        shrinks = (at_zero & (gradient > lane[HIGH + b])) | (at_upper & (gradient < lane[LOW + b]))
        on = row[ON + b] if lane[LIVE + b] > zero else zero
        kept = zero if shrinks else on
        projected = min(gradient, zero) if at_zero else gradient
        projected = max(projected, zero) if at_upper else projected
        projected = projected if kept > zero else zero
        lane[NEW_HIGH + b] = max(lane[NEW_HIGH + b], projected if kept > zero else -inf)
        lane[NEW_LOW + b] = min(lane[NEW_LOW + b], projected if kept > zero else inf)
        target = min(max(dual - gradient / (norm + diagonal), zero), upper)
        target = target if abs(projected) > np.float32(1e-12) else dual
        step = sign * (target - dual)
        row[DUAL + b] = target
        row[ON + b] = kept if on > zero else row[ON + b]
        lane[SHRUNK + b] = max(lane[SHRUNK + b], on - kept)
        lane[MARGIN + b] = step
        moves = max(moves, abs(step))
        stays = max(stays, kept)
    return moves > zero, stays > zero


@njit(cache=True, nogil=True)
def _descend(start, stop, indices, values, dense, rows, nr_sparse, norms, state, squared, bias, eps, max_iter, W):
    """Dual coordinate descent in all lanes; W (zeros) receives the solutions, its last row the bias.

    A label stops when its projected gradients span at most eps over all its instances. Instances whose dual sits at a
    bound, with a gradient beyond the last pass's extreme, are left out until the rest has converged; they come back for
    all labels at once, so that the labels' full passes coincide.
    """
    lane = np.zeros(7 * LANES, np.float32)
    margins = lane[:LANES]
    passes, done = np.zeros(LANES, np.int64), np.zeros(LANES, np.bool_)
    lane[HIGH : HIGH + LANES], lane[LOW : LOW + LANES] = np.inf, -np.inf
    order, active, last = np.arange(len(rows)), len(rows), len(W) - 1
    for b in range(LANES):
        lane[LIVE + b] = np.max(np.abs(state[:, SIGN + b])) if len(rows) else 0
        done[b] = lane[LIVE + b] == 0
    random = np.uint64(88172645463325252)
    while not done.all():
        lane[NEW_HIGH : NEW_HIGH + LANES], lane[NEW_LOW : NEW_LOW + LANES] = -np.inf, np.inf
        for s in range(active - 1, 0, -1):
            # xorshift64 (Marsaglia 2003); multiply and shift make a number below s + 1 without a division
            random ^= random << np.uint64(13)
            random ^= random >> np.uint64(7)
            random ^= random << np.uint64(17)
            t = np.int64(((random >> np.uint64(32)) * np.uint64(s + 1)) >> np.uint64(32))
            order[s], order[t] = order[t], order[s]
        s = 0
        while s < active:
            i = order[s]
            for b in range(LANES):
                margins[b] = W[last, b] * bias
            dot_sparse(start[i], stop[i], indices, values, W, margins)
            dot_dense(dense.shape[1], nr_sparse, dense[rows[i]], W, margins)
            moves, stays = _update_duals(state[i], lane, norms[i], squared)
            if moves:
                add_sparse(start[i], stop[i], indices, values, margins, W)
                add_dense(dense.shape[1], nr_sparse, dense[rows[i]], margins, W)
                for b in range(LANES):
                    W[last, b] += margins[b] * bias
            if stays:
                s += 1
            else:
                active -= 1
                order[s], order[active] = order[active], order[s]
        _close_pass(lane, passes, done, eps, max_iter)
        if not np.any(lane[LIVE : LIVE + LANES]):
            # what has converged without the rows left out is looked at with them
            lane[LIVE : LIVE + LANES] = ~done
            lane[HIGH : HIGH + LANES], lane[LOW : LOW + LANES] = np.inf, -np.inf
            lane[SHRUNK : SHRUNK + LANES] = 0
            state[:, ON : ON + LANES] = np.abs(state[:, SIGN : SIGN + LANES])
            active = len(rows)


@njit(cache=True, nogil=True)
def _close_pass(lane, passes, done, eps, max_iter):
    """Which labels are done, which wait, and the others' thresholds of shrinking."""
    for b in range(LANES):
        if lane[LIVE + b] == 0:
            continue
        passes[b] += 1
        high, low = lane[NEW_HIGH + b], lane[NEW_LOW + b]
        converged = high - low <= eps
        if converged or passes[b] == max_iter or passes[b] % PASSES_SHRUNK == 0:
            done[b] = (converged and lane[SHRUNK + b] == 0) or passes[b] == max_iter
            lane[LIVE + b] = 0
        lane[HIGH + b] = high if high > 0 else np.inf
        lane[LOW + b] = low if low < 0 else -np.inf


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
    squared,
    Cp,
    Cn,
    bias,
    eps,
    max_iter,
    threshold,
    max_nonzeros,
):
    """Solve up to LANES labels that share their negatives.

    Args:
        start, stop: int64 [m], indices: uint32, values: float32: sparse part of the m rows, columns below nr_sparse.
        dense: float32 [n, h]; rows: int64 [m], the rows' places in it.
        nr_shared: the first so many rows belong to every label; a later one only to labels that it is a positive of.
        pos_ptr: int64 [labels + 1]; pos_local: int64, positives of each label as places in `rows`; pos_cost: float32.
        squared: whether the hinge is squared.
        Cp, Cn: cost of positives (times pos_cost) and negatives.
        bias: value of the constant feature; 0 for none.
        eps, max_iter: stopping rule of the descent.
        threshold, max_nonzeros: which weights are kept.

    Returns:
        count int64 [labels], column int64 [sum], weight float32 [sum]; columns: sparse, then dense, then the bias.
    """
    bias = np.float32(bias)
    norms = _squared_norms(start, stop, values, dense, rows, bias)
    state = _instance_states(len(rows), nr_shared, pos_ptr, pos_local, pos_cost, Cp, Cn, squared)
    W = aligned_lines(nr_sparse + dense.shape[1] + 1)
    _descend(start, stop, indices, values, dense, rows, nr_sparse, norms, state, squared, bias, eps, max_iter, W)
    nr_labels = len(pos_ptr) - 1
    count = np.zeros(nr_labels, np.int64)
    column, weight = np.empty(1024, np.int64), np.empty(1024, np.float32)
    used = 0
    for b in range(nr_labels):
        w = W[:, b].copy()
        kept = _kept(w, threshold, max_nonzeros)
        if used + len(kept) > len(column):
            column, weight = enlarged(column, used + len(kept)), enlarged(weight, used + len(kept))
        for j in kept:
            column[used], weight[used] = j, w[j]
            used += 1
        count[b] = len(kept)
    return count, column[:used].copy(), weight[:used].copy()
