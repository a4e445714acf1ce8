"""A level's weights in the order of the beam search: one chunk a parent (Etter et al. 2022), plain arrays.

A chunk holds the weights of a parent's children by feature. Which features it has is kept as bits, 64 features to a
block, in a small hash table of the blocks: a look-up reads one 16-byte slot, and a miss reads no more. A feature with
weights for few of the children has a list of entries, one with many a row of the chunk's matrix.
"""

from functools import partial
from typing import NamedTuple

import numba
import numpy as np
from numba import njit

from xrt_jax.threads import thread_map
from xrt_jax.xlinear.lanes import LANES, aligned_lines

CHILD, SLOT, START, ENTRY, LINE = range(5)  # columns of Chunks.ptr
EMPTY = 0xFFFFFFFF
ROW, LONG = 0, 7  # kinds of features beside 1 to 6, lists of that many entries
KIND_SHIFT = 29  # a start holds the kind in its 3 top bits
MOST = 2**KIND_SHIFT - 1
LAST = 0x80000000
ODD = 0x9E3779B1  # an odd multiplier permutes the numbers below a power of two: tables of all blocks never collide
SLOT_TYPE = np.dtype([("block", "<u4"), ("rank", "<u4"), ("bits", "<u8")])
ENTRY_TYPE = np.dtype([("offset", "<u4"), ("value", "<f4")])
ROW_FROM = 2  # weights for every LANES children from which a row costs less than a list; 6 times the bytes at most
DENSE_FROM = 5  # dense features have rows where more than one in 5 of their weights is there
CHUNKS_PER_JOB = 16


class Chunks(NamedTuple):
    """A level's weights by parent; read-only arrays. Parent p has the spans ptr[p, c]:ptr[p + 1, c] of

    child: int32, its children (c = CHILD), and beside it intercept: float32, their bias times its weight;
    slot: SLOT_TYPE, a power of two of hash slots (SLOT): block b has the features 64 b to 64 b + 63, bits says which
        are there, rank is the number of the first of them among the chunk's features;
    start: uint32, for each of these features its kind and where its entries start, or its row (START);
    entry: ENTRY_TYPE, weights: the child's place among its siblings, with the bit LAST on a feature's last entry, and
        the value (ENTRY);
    line: float32 [lines, LANES], rows of weights for all children, each of ⌈children / LANES⌉ lines (LINE).

    The features from first_dense[p] (int64 [parents]) on have the first rows, in their order, and no slot.
    """

    ptr: np.ndarray
    child: np.ndarray
    intercept: np.ndarray
    first_dense: np.ndarray
    slot: np.ndarray
    start: np.ndarray
    entry: np.ndarray
    line: np.ndarray


DTYPES = Chunks(*map(np.dtype, ("<i8", "<i4", "<f4", "<i8", SLOT_TYPE, "<u4", ENTRY_TYPE, "<f4")))


@njit(cache=True, nogil=True)
def popcount(bits):
    """Number of ones in a uint64 (one instruction: LLVM knows the idiom)."""
    bits = bits - ((bits >> np.uint64(1)) & np.uint64(0x5555555555555555))
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (bits * np.uint64(0x0101010101010101)) >> np.uint64(56)


@njit(cache=True, nogil=True)
def home(block, mask):
    """The slot in which to look for a block first."""
    return (np.uint64(block) * np.uint64(ODD)) & np.uint64(mask)


@njit(cache=True, nogil=True)
def rank_in_block(bits, feature):
    """How many features of the block come before this one."""
    return np.int64(popcount(bits & ((np.uint64(1) << np.uint64(feature & 63)) - np.uint64(1))))


# ---------------------------------------------------------------------------- layout


@njit(cache=True, nogil=True)
def lines_a_row(nr_children):
    return (nr_children + LANES - 1) // LANES


@njit(cache=True, nogil=True)
def _mark(span, indices, children, first_dense, bits, blocks):
    """Set the bits of the children's features below first_dense; number of their blocks and of weights above it."""
    nr_blocks, nr_dense_weights = 0, 0
    for child in children:
        for k in range(span[child, 0], span[child, 1]):
            feature = indices[k]
            if feature >= first_dense:
                nr_dense_weights += 1
                continue
            if bits[feature >> 6] == 0:
                blocks[nr_blocks] = feature >> 6
                nr_blocks += 1
            bits[feature >> 6] |= np.uint64(1) << np.uint64(feature & 63)
    return nr_blocks, nr_dense_weights


@njit(cache=True, nogil=True)
def _rank(bits, blocks, rank):
    """Number the features block after block: rank of each block's first; how many there are."""
    nr_features = 0
    for block in blocks:
        rank[block] = nr_features
        nr_features += np.int64(popcount(bits[block]))
    return nr_features


@njit(cache=True, nogil=True)
def _count(span, indices, children, first_dense, bits, rank, nr_features):
    """Weights of each feature below first_dense."""
    count = np.zeros(nr_features, np.uint32)
    for child in children:
        for k in range(span[child, 0], span[child, 1]):
            feature = indices[k]
            if feature < first_dense:
                count[rank[feature >> 6] + rank_in_block(bits[feature >> 6], feature)] += np.uint32(1)
    return count


@njit(cache=True, nogil=True)
def _table_size(nr_blocks, nr_all):
    """Half full at most, or one slot for every block that there is."""
    size = 1
    while size < 2 * nr_blocks and size < nr_all:
        size *= 2
    return size


@njit(cache=True, nogil=True)
def _measure(first, stop, span, indices, ptr, child, first_dense, d, nr_dense):
    """Sizes of the spans of the chunks first:stop, to be summed up in ptr, and their first dense features."""
    bits, blocks = np.zeros((d >> 6) + 1, np.uint64), np.empty((d >> 6) + 1, np.uint32)
    rank = np.empty((d >> 6) + 1, np.int64)
    for p in range(first, stop):
        children = child[ptr[p, CHILD] : ptr[p + 1, CHILD]]
        first_dense[p] = d - nr_dense
        nr_blocks, nr_dense_weights = _mark(span, indices, children, d - nr_dense, bits, blocks)
        if DENSE_FROM * nr_dense_weights <= nr_dense * len(children):
            first_dense[p] = d
            bits[blocks[:nr_blocks]] = 0
            nr_blocks, _ = _mark(span, indices, children, d, bits, blocks)
        nr_features = _rank(bits, blocks[:nr_blocks], rank)
        width, nr_rows, nr_entries = lines_a_row(len(children)), d - first_dense[p], 0
        for nr_weights in _count(span, indices, children, first_dense[p], bits, rank, nr_features):
            nr_rows += nr_weights >= ROW_FROM * width
            nr_entries += nr_weights if nr_weights < ROW_FROM * width else 0
        bits[blocks[:nr_blocks]] = 0
        ptr[p + 1, SLOT] = _table_size(nr_blocks, len(bits))
        ptr[p + 1, START] = nr_features
        ptr[p + 1, ENTRY] = nr_entries
        ptr[p + 1, LINE] = nr_rows * width


@njit(cache=True, nogil=True)
def _fill_table(slot, bits, blocks, rank):
    """Hash slots of a chunk's blocks."""
    slot.block[:] = EMPTY
    for block in blocks:
        at = home(block, len(slot) - 1)
        while slot[at].block != EMPTY:
            at = (at + np.uint64(1)) & np.uint64(len(slot) - 1)
        slot[at].block, slot[at].rank, slot[at].bits = block, rank[block], bits[block]


@njit(cache=True, nogil=True)
def _place_features(count, width, nr_dense_rows, start, entry):
    """Kind and place of each feature; marks the last entries."""
    nr_rows, nr_entries = nr_dense_rows, 0
    for i in range(len(count)):
        if count[i] >= ROW_FROM * width:
            start[i] = (ROW << KIND_SHIFT) | nr_rows
            nr_rows += 1
        else:
            start[i] = (min(np.int64(count[i]), LONG) << KIND_SHIFT) | nr_entries
            nr_entries += count[i]
            entry[nr_entries - 1].offset = LAST


@njit(cache=True, nogil=True)
def _fill_weights(span, indices, data, children, first_dense, bits, rank, count, start, entry, line):
    """Every weight goes to its entry, children ascending, or to its row; `count` is used up."""
    row_size = lines_a_row(len(children)) * LANES
    for offset in range(len(children) - 1, -1, -1):
        for k in range(span[children[offset], 0], span[children[offset], 1]):
            feature = indices[k]
            if feature >= first_dense:
                line[(feature - first_dense) * row_size + offset] = data[k]
                continue
            i = rank[feature >> 6] + rank_in_block(bits[feature >> 6], feature)
            if start[i] >> KIND_SHIFT == ROW:
                line[(start[i] & MOST) * row_size + offset] = data[k]
            else:
                count[i] -= np.uint32(1)
                at = (start[i] & MOST) + count[i]
                entry[at].offset |= offset
                entry[at].value = data[k]


@njit(cache=True, nogil=True)
def _fill(first, stop, span, indices, data, d, ptr, child, first_dense, slot, start, entry, line):
    """Lay the chunks first:stop out in the spans that ptr gives them; all but slot zeroed before."""
    bits, blocks = np.zeros((d >> 6) + 1, np.uint64), np.empty((d >> 6) + 1, np.uint32)
    rank = np.empty((d >> 6) + 1, np.int64)
    for p in range(first, stop):
        children, dense = child[ptr[p, CHILD] : ptr[p + 1, CHILD]], first_dense[p]
        nr_blocks, _ = _mark(span, indices, children, dense, bits, blocks)
        nr_features = _rank(bits, blocks[:nr_blocks], rank)
        _fill_table(slot[ptr[p, SLOT] : ptr[p + 1, SLOT]], bits, blocks[:nr_blocks], rank)
        count = _count(span, indices, children, dense, bits, rank, nr_features)
        starts, entries = start[ptr[p, START] : ptr[p + 1, START]], entry[ptr[p, ENTRY] : ptr[p + 1, ENTRY]]
        _place_features(count, lines_a_row(len(children)), d - dense, starts, entries)
        lines = line[ptr[p, LINE] : ptr[p + 1, LINE]].reshape(-1)
        _fill_weights(span, indices, data, children, dense, bits, rank, count, starts, entries, lines)
        bits[blocks[:nr_blocks]] = 0


def _weight_spans(W, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each column's weights without the bias (row d, the last) start and stop; where those with a bias are."""
    span = np.stack([W.indptr[:-1], W.indptr[1:]], axis=1).astype(np.int64)
    last = np.maximum(span[:, 1] - 1, 0)
    has_bias = (span[:, 1] > span[:, 0]) & (W.indices[last] == d) if W.nnz else np.zeros(len(span), bool)
    span[:, 1] -= has_bias
    return span, has_bias


def _jobs(nr_chunks: int) -> list[tuple[int, int]]:
    """Chunks first:stop for a thread; a job's scratch arrays are as long as the features are many."""
    step = max(CHUNKS_PER_JOB, -(-nr_chunks // (8 * numba.get_num_threads())))
    return [(first, min(first + step, nr_chunks)) for first in range(0, nr_chunks, step)]


def _each(fn, jobs) -> None:
    for _ in thread_map(lambda job: fn(*job), jobs):
        pass


def make_chunks(C, W, bias: float, d: int, nr_dense: int) -> Chunks:
    """Lay a level out.

    Args:
        C: canonical csc [nodes, parents], at most one parent a node.
        W: canonical csc float32 [d + 1 (the bias) or d, nodes].
        bias: value of the constant feature.
        d: number of features without it.
        nr_dense: the last so many features are dense in the queries.
    """
    span, has_bias = _weight_spans(W, d)
    weights = W.indices.astype(np.int32, copy=False).view(np.uint32)  # unsigned: no tests for negative ones
    intercept = np.zeros(W.shape[1], np.float32)
    intercept[has_bias] = np.float32(bias) * W.data[span[has_bias, 1]]
    child, first_dense, jobs = C.indices.astype(np.int32), np.empty(C.shape[1], np.int64), _jobs(C.shape[1])
    ptr = np.zeros((C.shape[1] + 1, 5), np.int64)
    ptr[:, CHILD] = C.indptr
    given = {"span": span, "indices": weights, "ptr": ptr, "child": child, "first_dense": first_dense, "d": d}
    _each(partial(_measure, nr_dense=nr_dense, **given), jobs)
    np.cumsum(ptr[:, SLOT:], axis=0, out=ptr[:, SLOT:])
    slot, start, entry = (np.zeros(ptr[-1, c], dtype) for c, dtype in enumerate(DTYPES[4:7], SLOT))
    if np.diff(ptr[:, ENTRY:], axis=0).max(initial=0) > MOST:
        raise ValueError(f"a cluster has more than {MOST} weights: train with a deeper tree or a higher threshold")
    line = aligned_lines.py_func(int(ptr[-1, LINE]))  # as plain Python: nothing to compile for one call
    _each(partial(_fill, data=W.data, slot=slot, start=start, entry=entry, line=line, **given), jobs)
    chunks = Chunks(ptr, child, intercept[child], first_dense, slot, start, entry, line)
    for array in chunks:
        array.flags.writeable = False  # as memory maps are, so that kernels are compiled once
    return chunks
