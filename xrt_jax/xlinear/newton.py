"""The squared hinge loss in the primal, LANES labels at a time: Newton's method with conjugate gradients, compiled.

LIBLINEAR's L2R_L2LOSS_SVC_PRIMAL as PECOS uses it: Keerthi and DeCoste (2005), with a backtracking line search.
"""

import numpy as np
from numba import njit

from xrt_jax.xlinear.instances import margins_of, move
from xrt_jax.xlinear.lanes import LANES, aligned_lines
from xrt_jax.xlinear.masks import sign_of

MAX_STEPS = 1000  # Newton steps
MAX_HALVINGS = 20  # of a step, until the loss has fallen by SUFFICIENT of what its slope promises
SUFFICIENT = 0.01
CG_EPS = 0.5  # conjugate gradients end at this share of the first residual
DIAGONAL = 0.01  # share of the Hessian's diagonal in the preconditioner, the rest is 1


@njit(cache=True, nogil=True)
def _products(group, constant, V, out):
    """out [m, LANES] = rows · V."""
    for i in range(len(group.start)):
        margins_of(group, i, constant, V, out[i])


@njit(cache=True, nogil=True)
def _add_rows(group, constant, factor, V):
    """V += Σ_i row i · factor[i] [LANES]."""
    for i in range(len(group.start)):
        move(group, i, constant, factor[i], V)


@njit(cache=True, nogil=True)
def _inner(A, B):
    """Σ_j A[j] B[j] in each lane: float64 [LANES]."""
    total = np.zeros(LANES)
    for j in range(len(A)):
        for b in range(LANES):
            total[b] += np.float64(A[j, b]) * B[j, b]
    return total


@njit(cache=True, nogil=True)
def _preconditioner(group, constant, curvature, V):
    """V = 1 - DIAGONAL + DIAGONAL · diagonal of the Hessian."""
    V[:] = 0
    for i in range(len(group.start)):
        for k in range(group.start[i], group.stop[i]):
            for b in range(LANES):
                V[group.indices[k], b] += curvature[i, b] * group.values[k] * group.values[k]
        dense = group.dense[group.rows[i]]
        for j in range(len(dense)):
            for b in range(LANES):
                V[group.nr_places + j, b] += curvature[i, b] * dense[j] * dense[j]
        for b in range(LANES):
            V[len(V) - 1, b] += curvature[i, b] * constant[0] * constant[0]
    for j in range(len(V)):
        for b in range(LANES):
            V[j, b] = 1 - DIAGONAL + DIAGONAL * (1 + V[j, b])


@njit(cache=True, nogil=True)
def _conjugate_gradients(group, constant, curvature, gradient, live, direction):
    """direction = -H⁻¹ gradient, roughly, in the live lanes; 0 in the others."""
    nr = len(gradient)
    preconditioner, residual = aligned_lines(nr), aligned_lines(nr)
    search, image, product = aligned_lines(nr), aligned_lines(nr), np.empty((len(curvature), LANES), np.float32)
    _preconditioner(group, constant, curvature, preconditioner)
    direction[:], residual[:] = 0, -gradient
    search[:] = residual / preconditioner
    size = _inner(residual, search)
    end, on = CG_EPS**2 * size, live & (size > 0)
    for _ in range(nr):
        if not on.any():
            return
        _products(group, constant, search, product)
        product *= curvature
        image[:] = search
        _add_rows(group, constant, product, image)
        bend = _inner(search, image)
        length = np.zeros(LANES, np.float32)
        for b in range(LANES):
            length[b] = size[b] / bend[b] if on[b] else 0
        direction += length * search
        residual -= length * image
        image[:] = residual / preconditioner
        new = _inner(residual, image)
        ratio = np.zeros(LANES, np.float32)
        for b in range(LANES):
            on[b] = on[b] and new[b] > end[b]
            ratio[b] = new[b] / size[b] if on[b] else 0
        search[:] = image + ratio * search
        size = new


@njit(cache=True, nogil=True)
def _losses(sign, cost, margins):
    """Σ_i cost max(0, 1 - y margin)² in each lane: float64 [LANES]."""
    total = np.zeros(LANES)
    for i in range(len(margins)):
        for b in range(LANES):
            slack = max(1 - sign[i, b] * margins[i, b], np.float32(0)) if sign[i, b] != 0 else np.float32(0)
            total[b] += np.float64(cost[i, b]) * slack * slack
    return total


@njit(cache=True, nogil=True)
def newton(group, masks, positive_cost, negative_cost, constant, eps, W):
    """Minimise ½|w|² + Σ_i cost_i max(0, 1 - y_i margin_i)² in every lane.

    Args:
        group: Instances without own features.
        masks: uint16 [m, NR_MASKS] (masks.py); positive_cost: float32 [m or 1, LANES]; negative_cost: float32.
        constant: float32 [1], the bias.
        eps: ends when the gradient's norm is at most eps times that at 0.
        W: zeros; receives the solutions, its last row the bias.
    """
    m, nr = len(masks), len(W)
    sign, cost = np.zeros((m, LANES), np.float32), np.zeros((m, LANES), np.float32)
    for i in range(m):
        for b in range(LANES):
            sign[i, b] = sign_of(masks[i], b)
            cost[i, b] = positive_cost[i if len(positive_cost) > 1 else 0, b] if sign[i, b] > 0 else negative_cost
    margins, change = np.zeros((m, LANES), np.float32), np.empty((m, LANES), np.float32)
    curvature, slope_of = np.empty((m, LANES), np.float32), np.empty((m, LANES), np.float32)
    gradient, direction = aligned_lines(nr), aligned_lines(nr)
    first = np.zeros(LANES)
    value = _losses(sign, cost, margins)
    live = value > 0
    for step in range(MAX_STEPS):
        for i in range(m):
            for b in range(LANES):
                slack = 1 - sign[i, b] * margins[i, b]
                active = sign[i, b] != 0 and slack > 0
                curvature[i, b] = 2 * cost[i, b] if active else 0
                slope_of[i, b] = -curvature[i, b] * sign[i, b] * slack
        gradient[:] = W
        _add_rows(group, constant, slope_of, gradient)
        size = np.sqrt(_inner(gradient, gradient))
        if step == 0:
            first = size
        live &= size > eps * first
        if not live.any():
            return
        _conjugate_gradients(group, constant, curvature, gradient, live, direction)
        _products(group, constant, direction, change)
        slope, cross, square = _inner(gradient, direction), _inner(W, direction), _inner(direction, direction)
        length, searching = np.where(live, np.float32(1), np.float32(0)), live.copy()
        for _ in range(MAX_HALVINGS):
            new = _losses(sign, cost, margins + length * change)
            for b in range(LANES):
                if searching[b]:
                    rise = new[b] - value[b] + length[b] * cross[b] + 0.5 * length[b] ** 2 * square[b]
                    searching[b] = rise > SUFFICIENT * length[b] * slope[b]
                    if searching[b]:
                        length[b] *= np.float32(0.5)
            if not searching.any():
                break
        for b in range(LANES):
            if searching[b]:  # no further descent within float32
                live[b], length[b] = False, 0
        W += length * direction
        margins += length * change
        value = _losses(sign, cost, margins)
