"""Who is an instance of whom among siblings: for each row, bits that say it for LANES labels at once, compiled."""

import numpy as np
from numba import njit

from xrt_jax.xlinear.lanes import LANES

# Masks of a row, bit b for lane b: is it an instance of that label, a positive one, still visited.
INSTANCE, POSITIVE, VISITED, NR_MASKS = range(4)


@njit(cache=True, nogil=True)
def make_masks(nr_rows, nr_shared, pos_ptr, pos_local, pos_cost, Cp, weighted):
    """Who is an instance of whom: the shared rows are negatives, unless they are positives.

    Returns:
        masks uint16 [m, NR_MASKS] and the cost of positives float32 [m, LANES] if `weighted`, which says
        that pos_cost is not 1 throughout, else [1, LANES]. An instance that costs nothing is none.
    """
    masks = np.zeros((nr_rows, NR_MASKS), np.uint16)
    cost = np.full((nr_rows if weighted else 1, LANES), Cp, np.float32)
    nr_labels = len(pos_ptr) - 1
    masks[:nr_shared, INSTANCE] = (1 << nr_labels) - 1
    for b in range(nr_labels):
        bit = np.uint16(1 << b)
        for j in range(pos_ptr[b], pos_ptr[b + 1]):
            i = pos_local[j]
            if weighted:
                cost[i, b] = Cp * pos_cost[j]
            if pos_cost[j] > 0:
                masks[i, INSTANCE] |= bit
                masks[i, POSITIVE] |= bit
            else:
                masks[i, INSTANCE] &= ~bit
    return masks, cost


@njit(cache=True, nogil=True)
def is_set(mask, b):
    """Bit b of a mask."""
    return (mask >> np.uint16(b)) & np.uint16(1) != 0


@njit(cache=True, nogil=True)
def sign_of(masks, b):
    """±1 as the row with these masks is a positive or a negative of label b, 0 if neither; float32."""
    if not is_set(masks[INSTANCE], b):
        return np.float32(0)
    return np.float32(1) if is_set(masks[POSITIVE], b) else np.float32(-1)


@njit(cache=True, nogil=True)
def visit_all(masks):
    """Mark all rows as visited by the labels that they are instances of; these rows, and the mask of these labels."""
    order, used, labels = np.empty(len(masks), np.int64), 0, np.uint16(0)
    for i in range(len(masks)):
        masks[i, VISITED] = masks[i, INSTANCE]
        labels |= masks[i, INSTANCE]
        if masks[i, INSTANCE]:
            order[used] = i
            used += 1
    return order[:used], labels
