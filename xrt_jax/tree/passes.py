"""Passes over label embeddings, compiled: their sums by half, and their dot products with such sums.

A PIFA embedding is a weighted sum of the features of a label's instances, and the labels of a large node share their
instances: a pass over those instances' features, each read once, is then a fraction of a pass over the embeddings.
Every pass can go either way, chosen for each node by what it reads.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numba import njit

from xrt_jax.sparse import Features, as_features, feature_arrays, nr_features
from xrt_jax.threads import thread_map

# A pass through the parts pays where it costs this many times less.
GAIN = 1.25
# What going to a row costs, in sparse entries; and how many dense entries, read as vectors, cost as much as one.
ROW_AS_ENTRIES = 32
DENSE_AS_ENTRY = 8
# Rows are handed to threads in so many blocks where each row has a result of its own.
NR_BLOCKS = 16


class Product(NamedTuple):
    """Label embeddings Z = A X and the factors.

    Attributes:
        Z: Features [L, d].
        A: csr [L, n], or None: the factors are not used then.
        X: Features [n, d], with as many sparse columns as Z.
    """

    Z: Features
    A: sp.csr_matrix
    X: Features


class Rows(NamedTuple):
    """Row i has the sparse entries start[i]:stop[i] and dense[i], which stand in the columns behind the sparse ones.

    Attributes:
        start, stop: int64 [n]; indices: uint32 [nnz]; values: float32 [nnz].
        dense: float32 [n, d_d], no columns where there is no dense part.
    """

    start: np.ndarray
    stop: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    dense: np.ndarray


class Embeddings(NamedTuple):
    """Label embeddings for compiled code.

    Attributes:
        whole: Rows [L, d].
        norms: float64 [L], their lengths.
        shares: sparse Rows [L, n], where whole = shares · parts is known; else no rows.
        parts: Rows [n, d], or no rows.
        nr_columns: d, sparse and dense ones.
    """

    whole: Rows
    norms: np.ndarray
    shares: Rows
    parts: Rows
    nr_columns: int


class Memory(NamedTuple):
    """What one thread works with.

    Attributes:
        sums: float32 [2, d], of the left and the right half; zeros between two nodes.
        step: float32 [1, d], how far a round moves them; zeros between two rounds.
        known: uint8 [n], a mark for each part; zeros between two passes.
        value: float32 [n], a number for each part.
        parts: int64 [n], those of a node.
    """

    sums: np.ndarray
    step: np.ndarray
    known: np.ndarray
    value: np.ndarray
    parts: np.ndarray


def rows_of(X: Features) -> Rows:
    """The arrays of features X."""
    arrays = feature_arrays(X)
    return Rows(arrays.indptr[:-1].copy(), arrays.indptr[1:].copy(), arrays.indices, arrays.data, arrays.dense)


def lengths(Z: Rows) -> np.ndarray:
    """Length of every row: float64 [n]."""
    norms = np.empty(len(Z.start))
    bounds = np.linspace(0, len(norms), NR_BLOCKS + 1).astype(np.int64)
    list(thread_map(lambda block: _fill_norms(Z, *block, norms), list(pairwise(bounds.tolist()))))
    return norms


NO_ROWS = rows_of(Features(sp.csr_matrix((0, 0), dtype=np.float32), None))


def embeddings_of(Z) -> Embeddings:
    """Z: what as_features takes, or a Product, which is not checked, or Embeddings."""
    if isinstance(Z, Embeddings):
        return Z
    Z, A, X = Z if isinstance(Z, Product) else (as_features(Z), None, None)
    whole = rows_of(Z)
    shares, parts = (NO_ROWS, NO_ROWS) if A is None else (rows_of(Features(A, None)), rows_of(X))
    return Embeddings(whole, lengths(whole), shares, parts, nr_features(Z))


def without_parts(E: Embeddings) -> Embeddings:
    """E, of which every pass will read the rows themselves."""
    return E._replace(shares=NO_ROWS, parts=NO_ROWS)


def new_memory(E: Embeddings) -> Memory:
    """Memory for one thread and these embeddings."""
    n, nr_columns = len(E.parts.start), E.nr_columns
    of_parts = (np.zeros(n, np.uint8), np.empty(n, np.float32), np.empty(n, np.int64))
    return Memory(np.zeros((2, nr_columns), np.float32), np.zeros((1, nr_columns), np.float32), *of_parts)


# ---------------------------------------------------------------------------- rows, compiled


@njit(cache=True, nogil=True)
def _fill_norms(Z, first, last, norms):
    """Lengths of the rows first:last."""
    for i in range(first, last):
        square = 0.0
        for value in Z.values[Z.start[i] : Z.stop[i]]:
            square += np.float64(value) * value
        for value in Z.dense[i]:
            square += np.float64(value) * value
        norms[i] = np.sqrt(square)


@njit(cache=True, nogil=True)
def _add_row(Z, row, factor, sums):
    """sums += factor · row; sums [columns] has the sparse columns first, the dense ones at the end."""
    for k in range(np.uint64(Z.start[row]), np.uint64(Z.stop[row])):
        sums[Z.indices[k]] += factor * Z.values[k]
    first = len(sums) - Z.dense.shape[1]
    for j in range(Z.dense.shape[1]):
        sums[first + j] += factor * Z.dense[row, j]


@njit(cache=True, nogil=True)
def add_rows(Z, rows, factor, half, sums):
    """Every row with its own factor (0: left out) to its own half of the sums [halves, columns]."""
    for i in range(len(rows)):
        if factor[i] != 0:
            _add_row(Z, rows[i], factor[i], sums[half[i]])


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dense_dot(Z, row, sums):
    first = len(sums) - Z.dense.shape[1]
    total = np.float32(0)
    for j in range(Z.dense.shape[1]):
        total += sums[first + j] * Z.dense[row, j]
    return total


@njit(cache=True, nogil=True)
def _sparse_dot(Z, row, sums):
    # Four chains of additions hide their latency; left to itself the compiler takes gather instructions, which are
    # several times slower. Unsigned positions spare the tests for negative ones.
    a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    k, stop = np.uint64(Z.start[row]), np.uint64(Z.stop[row])
    while k + np.uint64(4) <= stop:
        a += sums[Z.indices[k]] * Z.values[k]
        b += sums[Z.indices[k + np.uint64(1)]] * Z.values[k + np.uint64(1)]
        c += sums[Z.indices[k + np.uint64(2)]] * Z.values[k + np.uint64(2)]
        d += sums[Z.indices[k + np.uint64(3)]] * Z.values[k + np.uint64(3)]
        k += np.uint64(4)
    while k < stop:
        a += sums[Z.indices[k]] * Z.values[k]
        k += np.uint64(1)
    return (a + b) + (c + d)


@njit(cache=True, nogil=True)
def row_dots(Z, rows, wanted, sums, dots):
    """dots[i] = <sums, row i> where wanted."""
    for i in range(len(rows)):
        if wanted[i]:
            dots[i] = _sparse_dot(Z, rows[i], sums) + _dense_dot(Z, rows[i], sums)


@njit(cache=True, nogil=True)
def both_row_dots(Z, rows, sums, dots):
    """dots[0, i] = <left sum, row i>, dots[1, i] = <right sum, row i>."""
    left, right = sums[0], sums[1]
    for i in range(len(rows)):  # one after the other would be slower: a row's entries are read once here
        a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        k, stop = np.uint64(Z.start[rows[i]]), np.uint64(Z.stop[rows[i]])
        while k + np.uint64(2) <= stop:
            x, y = Z.values[k], Z.values[k + np.uint64(1)]
            a += left[Z.indices[k]] * x
            b += right[Z.indices[k]] * x
            c += left[Z.indices[k + np.uint64(1)]] * y
            d += right[Z.indices[k + np.uint64(1)]] * y
            k += np.uint64(2)
        if k < stop:
            a += left[Z.indices[k]] * Z.values[k]
            b += right[Z.indices[k]] * Z.values[k]
        dots[0, i] = a + c + _dense_dot(Z, rows[i], left)
        dots[1, i] = b + d + _dense_dot(Z, rows[i], right)


# ---------------------------------------------------------------------------- whole or through the parts, compiled


@njit(cache=True, nogil=True)
def _nr_reads(Z, rows):
    """What a pass over the rows costs, in sparse entries read."""
    total = len(rows) * (ROW_AS_ENTRIES + Z.dense.shape[1] // DENSE_AS_ENTRY)
    for row in rows:
        total += Z.stop[row] - Z.start[row]
    return total


@njit(cache=True, nogil=True)
def _parts_of(E, rows, memory):
    """The different parts of the rows: int64, ascending where they are many."""
    parts, known = memory.parts, memory.known
    count = 0
    for row in rows:
        for part in E.shares.indices[E.shares.start[row] : E.shares.stop[row]]:
            if not known[part]:
                known[part] = 1
                parts[count] = part
                count += 1
    if 64 * count < len(known):
        for part in parts[:count]:
            known[part] = 0
        return parts[:count]
    count = 0
    for part in range(len(known)):
        parts[count] = part
        count += known[part]
        known[part] = 0
    return parts[:count]


@njit(cache=True, nogil=True)
def parts_if_they_pay(E, rows, memory):
    """The parts of the rows, or none where passes should read the rows themselves: int64, in memory.parts."""
    if len(E.shares.start) == 0:
        return memory.parts[:0]
    parts = _parts_of(E, rows, memory)
    if GAIN * (_nr_reads(E.shares, rows) + _nr_reads(E.parts, parts)) < _nr_reads(E.whole, rows):
        return parts
    return parts[:0]


@njit(cache=True, nogil=True)
def add(E, parts, rows, factor, half, sums, memory):
    """Every row with its own factor (0: left out) to its own half of the sums [halves, columns]."""
    if len(parts) == 0:
        add_rows(E.whole, rows, factor, half, sums)
        return
    value = memory.value
    for side in range(len(sums)):
        value[parts] = 0
        for i in range(len(rows)):
            if factor[i] != 0 and half[i] == side:
                for k in range(E.shares.start[rows[i]], E.shares.stop[rows[i]]):
                    value[E.shares.indices[k]] += factor[i] * E.shares.values[k]
        for part in parts:
            if value[part] != 0:
                _add_row(E.parts, part, value[part], sums[side])


@njit(cache=True, nogil=True)
def dots_with(E, parts, rows, wanted, sums, dots, memory):
    """dots[i] = <sums, row i> where wanted."""
    if len(parts) == 0:
        row_dots(E.whole, rows, wanted, sums, dots)
        return
    value, known = memory.value, memory.known
    for i in range(len(rows)):
        if wanted[i]:
            for part in E.shares.indices[E.shares.start[rows[i]] : E.shares.stop[rows[i]]]:
                known[part] = 1
    for part in parts:
        if known[part]:
            value[part] = _sparse_dot(E.parts, part, sums) + _dense_dot(E.parts, part, sums)
            known[part] = 0
    row_dots(E.shares, rows, wanted, value, dots)


@njit(cache=True, nogil=True)
def both_dots(E, parts, rows, sums, memory):
    """<left sum, row> and <right sum, row> of every row: float32 [2, n]."""
    dots = np.empty((2, len(rows)), np.float32)
    if len(parts) == 0:
        both_row_dots(E.whole, rows, sums, dots)
        return dots
    for side in range(2):
        dots_with(E, parts, rows, np.ones(len(rows), np.uint8), sums[side], dots[side], memory)
    return dots


# ---------------------------------------------------------------------------- moving and clearing sums, compiled


@njit(cache=True, nogil=True)
def _shift_columns(columns, step, sums, squares):
    """Move the step [columns] from the left sum to the right one and zero it; returns its square.

    squares [2], those of both sums, are kept up to date. A column may come twice.
    """
    left, right, square = sums[0], sums[1], 0.0
    for j in columns:
        x = np.float64(step[j])
        if x != 0:
            was_left, was_right = np.float64(left[j]), np.float64(right[j])
            left[j] -= step[j]
            right[j] += step[j]
            squares[0] += np.float64(left[j]) * left[j] - was_left * was_left
            squares[1] += np.float64(right[j]) * right[j] - was_right * was_right
            square += x * x
            step[j] = 0
    return square


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def shift_all(step, sums, squares):
    """_shift_columns over all of them, as vectors."""
    left, right = sums[0], sums[1]
    square = of_left = of_right = 0.0
    for j in range(len(step)):
        x = np.float64(step[j])
        left[j] -= step[j]
        right[j] += step[j]
        of_left += np.float64(left[j]) * left[j]
        of_right += np.float64(right[j]) * right[j]
        square += x * x
        step[j] = 0
    squares[0], squares[1] = of_left, of_right
    return square


@njit(cache=True, nogil=True)
def shift_rows(Z, rows, factor, step, sums, squares):
    """_shift_columns over those of the rows that have a factor, or over all where that is faster."""
    nnz = 0
    for i in range(len(rows)):
        if factor[i] != 0:
            nnz += Z.stop[rows[i]] - Z.start[rows[i]]
    if 4 * nnz > len(step):
        return shift_all(step, sums, squares)
    square = 0.0
    for i in range(len(rows)):
        if factor[i] != 0:
            square += _shift_columns(Z.indices[Z.start[rows[i]] : Z.stop[rows[i]]], step, sums, squares)
    first = len(step) - Z.dense.shape[1]
    return square + _shift_columns(np.arange(first, len(step)).astype(np.uint32), step, sums, squares)


@njit(cache=True, nogil=True)
def clear(Z, rows, sums):
    """Zero the columns of the rows, or everything where that is less."""
    nnz = 0
    for row in rows:
        nnz += Z.stop[row] - Z.start[row]
    if 4 * nnz > sums.shape[1]:
        sums[:] = 0
        return
    for row in rows:
        for k in range(Z.start[row], Z.stop[row]):
            for half in range(len(sums)):
                sums[half, Z.indices[k]] = 0
    sums[:, sums.shape[1] - Z.dense.shape[1] :] = 0
