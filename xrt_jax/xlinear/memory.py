"""Memory for the arrays of compiled code."""

import mmap

import numpy as np
from numba import njit

# New pages are slow: only an array of so many bytes is worth them.
LARGE_ROOM = 4 * 2**20
CACHE_LINE = 64  # bytes


@njit(cache=True, nogil=True)
def enlarged(array, size):
    """A copy of the array with room for at least `size` entries, and at least twice its own."""
    larger = np.empty(max(size, 2 * len(array)), array.dtype)
    for i in range(len(array)):
        larger[i] = array[i]
    return larger


def empty_room(shape, dtype) -> np.ndarray:
    """As np.empty, but on a cache line's bounds; a large array goes back to the system, where malloc would keep it."""
    nr_items = int(np.prod(shape))
    nr_bytes = nr_items * np.dtype(dtype).itemsize
    if nr_bytes >= LARGE_ROOM:
        return np.frombuffer(mmap.mmap(-1, nr_bytes), dtype, nr_items).reshape(shape)
    room = np.empty(nr_bytes + CACHE_LINE, np.uint8)
    first = -room.ctypes.data % CACHE_LINE
    return room[first : first + nr_bytes].view(dtype).reshape(shape)
