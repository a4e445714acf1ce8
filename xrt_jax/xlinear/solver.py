"""Linear classifiers of sibling labels, LANES of them at a time, compiled.

For one label: min over w, b of  ½|w|² + ½b² + Σ_i c_i loss(y_i (w·x_i + bias b)), with LIBLINEAR's losses as PECOS uses
them. Siblings visit their common instances together, in one order; each keeps its own duals, shrinks and stops by
itself. The dual methods are here, the primal one in newton.py.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from xrt_jax.xlinear.hinge import (
    HIGH,
    LIVE,
    LOW,
    MARGIN,
    MOVES,
    NEW_HIGH,
    NEW_LOW,
    SHRUNK,
    SIBLINGS_STATE,
    STAYS,
    hinge_step,
)
from xrt_jax.xlinear.instances import margins_of, move, move_on
from xrt_jax.xlinear.lanes import LANES, prefetch, prefetch_lines
from xrt_jax.xlinear.masks import is_set, make_masks, sign_of, visit_all
from xrt_jax.xlinear.newton import newton
from xrt_jax.xlinear.weights import collect

# Passes after which rows left out come back even if the rest has not converged: where eps is below what float32
# resolves it never would, and a row left out too early would stay out.
PASSES_SHRUNK = 64
# Lines of weights (16 MiB) above which asking for them in advance pays; below, it costs half as much again.
FAR = 1 << 18
INNER_STEPS = 100  # Newton steps on one dual of the logistic loss


class SolverNumbers(NamedTuple):
    """What compiled code knows of level.Solver."""

    Cp: np.float32
    Cn: np.float32
    bias: np.float32
    eps: float
    newton_eps: float
    threshold: float
    max_iter: int
    max_nonzeros: int


@njit(cache=True, nogil=True)
def _squared_norms(group, bias):
    """|x|² with the bias, and of it the part over own features: float32 [m] each."""
    m = len(group.start)
    norms, own_squares = np.empty(m, np.float32), np.empty(m, np.float32)
    for i in range(m):
        own = np.float32(0)
        for e in range(group.own_ptr[i], group.own_ptr[i + 1]):
            own += group.own_values[e] * group.own_values[e]
        total = own + bias * bias
        for k in range(group.start[i], group.stop[i]):
            total += group.values[k] * group.values[k]
        for value in group.dense[group.rows[i]]:
            total += value * value
        norms[i], own_squares[i] = total, own
    return norms, own_squares


@njit(cache=True, nogil=True)
def _shuffle(order, size, random):
    """Shuffle order[:size]; the generator's next state. xorshift64 (Marsaglia 2003)."""
    for s in range(size - 1, 0, -1):
        random ^= random << np.uint64(13)
        random ^= random >> np.uint64(7)
        random ^= random << np.uint64(17)
        # multiply and shift make a number below s + 1 without a division
        t = np.int64(((random >> np.uint64(32)) * np.uint64(s + 1)) >> np.uint64(32))
        order[s], order[t] = order[t], order[s]
    return random


# ---------------------------------------------------------------------------- hinge losses


@njit(cache=True, nogil=True)
def _prefetch_next(group, order, s, active, duals, W):
    """Ask for what the visits after the s-th are going to touch: they are in random order."""
    if s + 2 < active:
        after = order[s + 2]
        prefetch(group.start[after], group.stop[after], group.indices)
        prefetch(group.start[after], group.stop[after], group.values)
        prefetch(0, LANES, duals[after])
    if s + 1 < active:
        following = order[s + 1]
        prefetch_lines(group.start[following], group.stop[following], group.indices, W)


@njit(cache=True, nogil=True)
def _descend_hinge(group, norms, own_squares, masks, cost, Cn, squared, constant, eps, max_iter, duals, W):
    """Dual coordinate descent in all lanes; duals [m, LANES] and W (zeros) receive the solutions.

    A label stops when its projected gradients span at most eps over all its instances. Instances whose dual sits at a
    bound, with a gradient beyond the last pass's extreme, are left out until the rest has converged; they come back for
    all labels at once, so that the labels' full passes coincide.
    """
    siblings = np.zeros((SIBLINGS_STATE, LANES), np.float32)
    margins, step = siblings[MARGIN], np.empty(LANES, np.float32)
    passes, done = np.zeros(LANES, np.int64), np.zeros(LANES, np.bool_)
    siblings[HIGH], siblings[LOW] = np.inf, -np.inf
    if squared:
        cost = np.float32(0.5) / cost
        Cn = np.float32(0.5) / Cn
    order, live = visit_all(masks)
    active = len(order)
    for b in range(LANES):
        siblings[LIVE, b] = is_set(live, b)
        done[b] = not is_set(live, b)
    far, random = len(W) > FAR, np.uint64(88172645463325252)
    while not done.all():
        siblings[NEW_HIGH], siblings[NEW_LOW] = -np.inf, np.inf
        random = _shuffle(order, active, random)
        s = 0
        if active > 0:
            margins_of(group, order[0], constant, W, margins)
        while s < active:
            i = order[s]
            if far:
                _prefetch_next(group, order, s, active, duals, W)
            costs = cost[i if len(cost) > 1 else 0]
            result = hinge_step(duals[i], masks[i], costs, Cn, siblings, norms[i], own_squares[i], squared)
            if result & STAYS:
                s += 1
            else:
                active -= 1
                order[s], order[active] = order[active], order[s]
            following = order[s] if s < active else i
            if result & MOVES:
                step[:] = margins
                move_on(group, i, following, constant, step, W, margins)
            elif s < active:
                margins_of(group, following, constant, W, margins)
        _close_pass(siblings, passes, done, eps, max_iter)
        if siblings[LIVE].max() == 0:
            # what has converged without the rows left out is looked at with them
            for b in range(LANES):
                siblings[LIVE, b] = not done[b]
            siblings[HIGH], siblings[LOW], siblings[SHRUNK] = np.inf, -np.inf, 0
            order, _ = visit_all(masks)
            active = len(order)


@njit(cache=True, nogil=True)
def _close_pass(siblings, passes, done, eps, max_iter):
    """Which labels are done, which wait, and the others' thresholds of shrinking."""
    for b in range(LANES):
        if siblings[LIVE, b] == 0:
            continue
        passes[b] += 1
        high, low = siblings[NEW_HIGH, b], siblings[NEW_LOW, b]
        converged = high - low <= eps
        if converged or passes[b] == max_iter or passes[b] % PASSES_SHRUNK == 0:
            done[b] = (converged and siblings[SHRUNK, b] == 0) or passes[b] == max_iter
            siblings[LIVE, b] = 0
        siblings[HIGH, b] = high if high > 0 else np.inf
        siblings[LOW, b] = low if low < 0 else -np.inf


# ---------------------------------------------------------------------------- logistic loss


@njit(cache=True, nogil=True)
def _logistic_step(dual, rest, sign, margin, norm, inner_eps):
    """Minimise over one dual of the logistic loss (Yu, Huang and Lin 2011, algorithm 5).

    Args:
        dual, rest: the dual, and the cost less the dual: float32 cannot tell one from the other where it is tiny.
        sign: ±1; margin: w·x + bias·b; norm: |x|² with the bias.
        inner_eps: the Newton steps end at a derivative below this.

    Returns:
        new dual, new rest, |derivative| at the start, number of Newton steps.
    """
    cost, slope = np.float64(dual) + np.float64(rest), np.float64(sign * margin)
    flipped = 0.5 * norm * (rest - dual) + slope < 0
    old = np.float64(rest if flipped else dual)
    if flipped:
        slope = -slope
    z = 0.1 * old if cost - old < 0.5 * cost else old
    derivative = norm * (z - old) + slope + math.log(z / (cost - z))
    violation, steps = abs(derivative), 0
    while steps < INNER_STEPS and abs(derivative) >= inner_eps:
        newton_z = z - derivative / (norm + cost / (cost - z) / z)
        z = newton_z if newton_z > 0 else 0.1 * z
        derivative = norm * (z - old) + slope + math.log(z / (cost - z))
        steps += 1
    if steps == 0:
        z = old
    low, high = np.float32(z), np.float32(cost - z)
    return (high, low, violation, steps) if flipped else (low, high, violation, steps)


@njit(cache=True, nogil=True)
def _descend_logistic(group, norms, own_squares, masks, cost, Cn, constant, eps, max_iter, duals, W):
    """Dual coordinate descent of the logistic loss in all lanes; duals and W (zeros) receive the solutions.

    A label stops when no derivative of a pass exceeds eps.
    """
    order, _ = visit_all(masks)
    rests = np.zeros_like(duals)
    nr_instances = np.zeros(LANES, np.int64)
    margins, step = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    for i in order:
        for b in range(LANES):
            sign = sign_of(masks[i], b)
            if sign != 0:
                C = cost[i if len(cost) > 1 else 0, b] if sign > 0 else Cn
                duals[i, b] = min(0.001 * C, 1e-8)
                rests[i, b] = C - duals[i, b]
                nr_instances[b] += 1
            step[b] = sign * duals[i, b]
        move(group, i, constant, step, W)
    live = nr_instances > 0
    inner_eps, least_inner_eps = np.full(LANES, 1e-2), min(1e-8, eps)
    random = np.uint64(88172645463325252)
    for _ in range(max_iter):
        worst, newton_steps = np.zeros(LANES), np.zeros(LANES, np.int64)
        random = _shuffle(order, len(order), random)
        for i in order:
            margins_of(group, i, constant, W, margins)
            for b in range(LANES):
                sign = sign_of(masks[i], b) if live[b] else np.float32(0)
                step[b] = 0
                if sign != 0:
                    margin = margins[b] + own_squares[i] * sign * duals[i, b]
                    dual, rest, violation, steps = _logistic_step(
                        duals[i, b], rests[i, b], sign, margin, norms[i], inner_eps[b]
                    )
                    step[b] = sign * (dual - duals[i, b])
                    duals[i, b], rests[i, b] = dual, rest
                    worst[b] = max(worst[b], violation)
                    newton_steps[b] += steps
            if np.any(step != 0):
                move(group, i, constant, step, W)
        for b in range(LANES):
            live[b] = live[b] and worst[b] >= eps
            if newton_steps[b] <= nr_instances[b] // 10:
                inner_eps[b] = max(least_inner_eps, 0.1 * inner_eps[b])
        if not live.any():
            break


# ---------------------------------------------------------------------------- entry points, one a loss


@njit(cache=True, nogil=True)
def _start(group, W, nr_shared, pos_ptr, pos_local, pos_cost, settings):
    """Masks, costs of positives and duals, as the descents take them; the bias as an array. W becomes zeros."""
    weighted = np.any(pos_cost != 1)
    masks, cost = make_masks(len(group.start), nr_shared, pos_ptr, pos_local, pos_cost, settings.Cp, weighted)
    duals = np.zeros((len(masks), LANES), np.float32)
    W[:] = 0
    return masks, cost, duals, np.full(1, settings.bias, np.float32)


@njit(cache=True, nogil=True)
def _solve_hinge(group, W, nr_sparse, nr_shared, pos_ptr, pos_local, pos_cost, settings, squared):
    masks, cost, duals, constant = _start(group, W, nr_shared, pos_ptr, pos_local, pos_cost, settings)
    norms, own = _squared_norms(group, constant[0])
    eps, max_iter = settings.eps, settings.max_iter
    _descend_hinge(group, norms, own, masks, cost, settings.Cn, squared, constant, eps, max_iter, duals, W)
    return collect(group, nr_sparse, W, masks, duals, len(pos_ptr) - 1, settings)


def _solve_squared_hinge(*args):
    return _solve_hinge(*args, True)


def _solve_plain_hinge(*args):
    return _solve_hinge(*args, False)


@njit(cache=True, nogil=True)
def _solve_logistic(group, W, nr_sparse, nr_shared, pos_ptr, pos_local, pos_cost, settings):
    masks, cost, duals, constant = _start(group, W, nr_shared, pos_ptr, pos_local, pos_cost, settings)
    norms, own = _squared_norms(group, constant[0])
    _descend_logistic(group, norms, own, masks, cost, settings.Cn, constant, settings.eps, settings.max_iter, duals, W)
    return collect(group, nr_sparse, W, masks, duals, len(pos_ptr) - 1, settings)


@njit(cache=True, nogil=True)
def _solve_primal(group, W, nr_sparse, nr_shared, pos_ptr, pos_local, pos_cost, settings):
    masks, cost, duals, constant = _start(group, W, nr_shared, pos_ptr, pos_local, pos_cost, settings)
    newton(group, masks, cost, settings.Cn, constant, settings.newton_eps, W)
    return collect(group, nr_sparse, W, masks, duals, len(pos_ptr) - 1, settings)


# LIBLINEAR's names -> how siblings are solved, whether features of one row alone may be left out of the weights
SOLVERS = {
    "L2R_L2LOSS_SVC_DUAL": (_solve_squared_hinge, True),
    "L2R_L1LOSS_SVC_DUAL": (_solve_plain_hinge, True),
    "L2R_LR_DUAL": (_solve_logistic, True),
    "L2R_L2LOSS_SVC_PRIMAL": (_solve_primal, False),
}


def solve_siblings(solver: str, group, W, nr_sparse, nr_shared, pos_ptr, pos_local, pos_cost, settings: SolverNumbers):
    """Solve up to LANES labels that share their negatives.

    Args:
        solver: a name in SOLVERS.
        group: Instances (instances.py), without own features where the solver needs that.
        W: float32 [places + dense features + 1, LANES], each row on one cache line; overwritten.
        nr_sparse: sparse features of the whole problem; the dense ones and the bias come after them.
        nr_shared: the first so many rows belong to every label; a later one only to labels that it is a positive of.
        pos_ptr: int64 [labels + 1]; pos_local: int64, positives of each label as rows of the group; pos_cost: float32.
        settings: which problem, and how well it is solved.

    Returns:
        count int64 [labels], feature int32 [sum], weight float32 [sum], label after label, features ascending.
    """
    return SOLVERS[solver][0](group, W, nr_sparse, nr_shared, pos_ptr, pos_local, pos_cost, settings)
