"""The lowest of many values, in compiled code."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def kth_lowest(values, k):
    """The k-th lowest value, from 0; `values` is reordered (quickselect; numpy's own compiles for 10 seconds)."""
    low, high = 0, len(values) - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i, j = i + 1, j - 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]


@njit(cache=True, nogil=True)
def lowest(values, k):
    """Mask uint8 [n] of the k lowest (value, position) of the float32 `values`; 0 < k <= n."""
    cut = kth_lowest(values.copy(), k - 1)
    ties = k
    for value in values:
        ties -= value < cut
    mask = np.zeros(len(values), np.uint8)
    for i in range(len(values)):
        if values[i] < cut:
            mask[i] = 1
        elif values[i] == cut and ties > 0:
            mask[i] = 1
            ties -= 1
    return mask
