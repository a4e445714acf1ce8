"""Beam search through a trained XR-Linear tree.

The classifiers of a parent's children form a chunk, stored by feature (chunked multiplication, Etter et al. 2022).
A block of rows goes through a level together: all its rows that visit a parent are scored while that chunk is at hand.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numba import njit

from xrt_jax.sparse import (
    FeatureArrays,
    Features,
    as_features,
    canonical,
    feature_arrays,
    nr_features,
    nr_rows,
    row_ids,
    thread_map,
    tracked,
)

ROWS_PER_BLOCK = 1024


# ---------------------------------------------------------------------------- ranking scores


def _log_hinge(p: int, v):
    return -(np.maximum(np.float32(0), 1 - v) ** p)


def _exp_hinge(p: int, v):
    return np.exp(_log_hinge(p, v))


def _sigmoid(v):
    return 0.5 * (1 + np.tanh(0.5 * v))


# name → (raw scores → ranking scores, how to combine (child, parent) scores); table of PECOS
POST_PROCESSORS = {
    "noop": (lambda v: v, lambda child, parent: child),
    "sigmoid": (_sigmoid, np.multiply),
    "log-sigmoid": (lambda v: -np.logaddexp(np.float32(0), -v), np.add),
    **{f"l{p}-hinge": (partial(_exp_hinge, p), np.multiply) for p in (1, 2, 3, 4)},
    **{f"log-l{p}-hinge": (partial(_log_hinge, p), np.add) for p in (1, 2, 3, 4)},
}


# ---------------------------------------------------------------------------- layout


class Chunks(NamedTuple):
    """A level's weights by parent; arrays for compiled code.

    Parent p has the children child[child_ptr[p]:child_ptr[p+1]] and weights in the features
    feature[feature_ptr[p]:feature_ptr[p+1]] (uint32; the bias is feature d). The i-th of all features has the entries
    entry_ptr[i]:entry_ptr[i+1] of offset (uint32, the child's place among its siblings) and value (float32).
    """

    child_ptr: np.ndarray
    child: np.ndarray
    feature_ptr: np.ndarray
    feature: np.ndarray
    entry_ptr: np.ndarray
    offset: np.ndarray
    value: np.ndarray


class PreparedLevel(NamedTuple):
    """A Level in the layout of the beam search (prepare)."""

    chunks: Chunks
    nr_features: int
    nr_labels: int
    bias: float
    only_topk: int
    post_processor: str


@njit(cache=True, nogil=True)
def _group_by_parent(indptr, indices, data, parent_of, offset_of, nr_parents):
    """Entries of W in CSR form, regrouped by the parent of their column, features ascending inside a parent."""
    entry_start = np.zeros(nr_parents + 1, np.int64)
    for column in indices:
        if parent_of[column] >= 0:
            entry_start[parent_of[column] + 1] += 1
    entry_start = np.cumsum(entry_start)
    fill = entry_start[:-1].copy()
    feature_of, offset, value = (
        np.empty(entry_start[-1], np.uint32),
        np.empty(entry_start[-1], np.uint32),
        np.empty(entry_start[-1], np.float32),
    )
    for row in range(len(indptr) - 1):
        for k in range(indptr[row], indptr[row + 1]):
            parent = parent_of[indices[k]]
            if parent >= 0:
                feature_of[fill[parent]] = row
                offset[fill[parent]] = offset_of[indices[k]]
                value[fill[parent]] = data[k]
                fill[parent] += 1
    return entry_start, feature_of, offset, value


def prepare_level(level) -> PreparedLevel:
    """Lay a Level (xlinear/train.py) out for the beam search."""
    C, W = canonical(level.C, "csc"), canonical(level.W, "csr")
    parent_of, offset_of = np.full(C.shape[0], -1, np.int64), np.zeros(C.shape[0], np.int64)
    if len(np.unique(C.indices)) < C.nnz:
        raise ValueError("a label has more than one parent in C: the beam search needs one")
    parent_of[C.indices] = row_ids(C)
    offset_of[C.indices] = np.arange(C.nnz) - C.indptr[row_ids(C)]
    start, feature_of, offset, value = _group_by_parent(
        W.indptr.astype(np.int64), W.indices.astype(np.int32, copy=False), W.data, parent_of, offset_of, C.shape[1]
    )
    is_first = np.ones(len(feature_of), bool)
    is_first[1:] = feature_of[1:] != feature_of[:-1]
    is_first[start[:-1][start[:-1] < len(feature_of)]] = True
    first = np.flatnonzero(is_first)
    chunks = Chunks(
        C.indptr.astype(np.int64),
        C.indices.astype(np.int32, copy=False),
        np.searchsorted(first, start),
        feature_of[first],
        np.append(first, len(feature_of)),
        offset,
        value,
    )
    return PreparedLevel(
        chunks, W.shape[0] - (level.bias > 0), C.shape[0], float(level.bias), level.only_topk, level.post_processor
    )


def prepare(ranker) -> list[PreparedLevel]:
    """Lay a ranker out for the beam search once; predict takes the result in the ranker's place."""
    return [level if isinstance(level, PreparedLevel) else prepare_level(level) for level in ranker]


# ---------------------------------------------------------------------------- one level


@njit(cache=True, nogil=True)
def _score_pairs(
    indptr,
    indices,
    data,
    dense,
    nr_sparse,
    pair_row,
    pair_parent,
    order,
    raw_ptr,
    feature_ptr,
    feature,
    entry_ptr,
    offset,
    value,
    bias,
    slot,
):
    """Raw scores x·w + bias·b of every child of every (row, parent) pair, pair after pair; float32.

    `order` visits the pairs parent by parent; `slot` is a zeroed int32 [features + 1] to work in.
    """
    raw = np.zeros(raw_ptr[-1], np.float32)
    current = -1
    for pair in order:
        parent, row = pair_parent[pair], pair_row[pair]
        if parent != current:
            if current >= 0:
                slot[feature[feature_ptr[current] : feature_ptr[current + 1]]] = 0
            for i in range(feature_ptr[parent], feature_ptr[parent + 1]):
                slot[feature[i]] = i - feature_ptr[parent] + 1
            current = parent
        scores = raw[raw_ptr[pair] : raw_ptr[pair + 1]]
        base = feature_ptr[parent] - 1
        for k in range(indptr[row], indptr[row + 1]):
            if slot[indices[k]] > 0:
                i = base + slot[indices[k]]
                for e in range(entry_ptr[i], entry_ptr[i + 1]):
                    scores[offset[e]] += data[k] * value[e]
        for j in range(dense.shape[1]):
            if slot[nr_sparse + j] > 0:
                i = base + slot[nr_sparse + j]
                for e in range(entry_ptr[i], entry_ptr[i + 1]):
                    scores[offset[e]] += dense[row, j] * value[e]
        if slot[-1] > 0:
            i = base + slot[-1]
            for e in range(entry_ptr[i], entry_ptr[i + 1]):
                scores[offset[e]] += bias * value[e]
    return raw


@njit(cache=True, nogil=True)
def _sift_down(key, item, i, size):
    """Restore the heap below i: on top the worst candidate (lowest score, of equals the latest)."""
    while 2 * i + 1 < size:
        c = 2 * i + 1
        if c + 1 < size and (key[c + 1] < key[c] or (key[c + 1] == key[c] and item[c + 1] > item[c])):
            c += 1
        if key[c] > key[i] or (key[c] == key[i] and item[c] < item[i]):
            return
        key[i], key[c] = key[c], key[i]
        item[i], item[c] = item[c], item[i]
        i = c


@njit(cache=True, nogil=True)
def _select_top(scores, ptr, k):
    """Positions of the k best scores of each span ptr[r]:ptr[r+1], best first, of equals the earlier; row pointers."""
    out_ptr = np.zeros(len(ptr), np.int64)
    for r in range(len(ptr) - 1):
        out_ptr[r + 1] = out_ptr[r] + min(k, ptr[r + 1] - ptr[r])
    out = np.empty(out_ptr[-1], np.int64)
    key = np.empty(out_ptr[-1], np.float32)
    for r in range(len(ptr) - 1):
        size = out_ptr[r + 1] - out_ptr[r]
        best, item = key[out_ptr[r] : out_ptr[r + 1]], out[out_ptr[r] : out_ptr[r + 1]]
        for j in range(size):
            best[j], item[j] = scores[ptr[r] + j], ptr[r] + j
        for j in range(size // 2 - 1, -1, -1):
            _sift_down(best, item, j, size)
        for position in range(ptr[r] + size, ptr[r + 1]):
            if scores[position] > best[0]:
                best[0], item[0] = scores[position], position
                _sift_down(best, item, 0, size)
        for j in range(size - 1, 0, -1):
            best[0], best[j] = best[j], best[0]
            item[0], item[j] = item[j], item[0]
            _sift_down(best, item, 0, j)
    return out, out_ptr


def _advance_block(
    level: PreparedLevel, X: FeatureArrays, beam, topk: int, post_processor: str, is_first: bool, block: slice
):
    """Beam of a block of rows one level further down: row sizes, labels, scores."""
    ptr = beam.indptr[block.start : block.stop + 1]
    pair_parent = beam.indices[ptr[0] : ptr[-1]].astype(np.int64)
    pair_row = np.repeat(np.arange(block.start, block.stop), np.diff(ptr))
    chunks = level.chunks
    children = chunks.child_ptr[pair_parent + 1] - chunks.child_ptr[pair_parent]
    raw_ptr = np.concatenate([[0], np.cumsum(children)])
    order = np.argsort(pair_parent, kind="stable")
    raw = _score_pairs(
        *X,
        pair_row,
        pair_parent,
        order,
        raw_ptr,
        *chunks[2:],
        np.float32(level.bias),
        np.zeros(level.nr_features + 1, np.int32),
    )
    transform, combine = POST_PROCESSORS[post_processor]
    scores = transform(raw)
    if not is_first:
        scores = combine(scores, np.repeat(beam.data[ptr[0] : ptr[-1]], children))
    top, top_ptr = _select_top(scores.astype(np.float32, copy=False), raw_ptr[ptr - ptr[0]], topk)
    pair = np.searchsorted(raw_ptr, top, side="right") - 1
    label = chunks.child[chunks.child_ptr[pair_parent[pair]] + top - raw_ptr[pair]]
    return np.diff(top_ptr), label, scores[top]


def _blocks(n: int) -> list[slice]:
    return [slice(first, min(first + ROWS_PER_BLOCK, n)) for first in range(0, n, ROWS_PER_BLOCK)]


def root_beam(n: int) -> sp.csr_matrix:
    """The beam above the first level: every one of n rows at the root."""
    return sp.csr_matrix(np.ones((n, 1), np.float32))


def advance(
    level: PreparedLevel,
    X: Features,
    beam: sp.csr_matrix,
    topk: int,
    post_processor: str,
    *,
    is_first: bool,
    progress=None,
) -> sp.csr_matrix:
    """One step of the beam search.

    Args:
        level: the level to enter.
        X: Features [n, d].
        beam: csr [n, nodes above], nodes kept and their scores; order within a row decides ties.
        topk: most children kept in a row.
        post_processor: name in POST_PROCESSORS.
        is_first: the root's score is not combined with.
        progress: called as progress(total rows, description).

    Returns:
        csr float32 [n, nodes], rows by descending score.
    """
    n = nr_rows(X)
    blocks = _blocks(n)
    step = partial(_advance_block, level, feature_arrays(X), beam, topk, post_processor, is_first)
    sizes = [block.stop - block.start for block in blocks]
    parts = list(tracked(thread_map(step, blocks), sizes, progress, f"scoring {level.nr_labels} nodes"))
    if not parts:
        return sp.csr_matrix((0, level.nr_labels), dtype=np.float32)
    size, label, score = (np.concatenate(piece) for piece in zip(*parts, strict=True))
    return sp.csr_matrix((score, label, np.concatenate([[0], np.cumsum(size)])), shape=(n, level.nr_labels))


# ---------------------------------------------------------------------------- the tree


def _search_settings(levels, beam_size, only_topk, post_processor) -> list[tuple[int, str]]:
    """(only_topk, post_processor) of every level after the overrides; ValueError on a bad one."""
    topk = [level.only_topk if beam_size is None else beam_size for level in levels]
    topk[-1] = levels[-1].only_topk if only_topk is None else only_topk
    post = [level.post_processor if post_processor is None else post_processor for level in levels]
    for name in post:
        if name not in POST_PROCESSORS:
            raise ValueError(f"post_processor={name!r} must be one of {', '.join(POST_PROCESSORS)}")
    if min(topk) < 1:
        raise ValueError(f"beam_size and only_topk must be at least 1, the levels have {topk}")
    return list(zip(topk, post, strict=True))


def predict(
    ranker,
    X,
    *,
    beam_size: int | None = None,
    only_topk: int | None = None,
    post_processor: str | None = None,
    progress=None,
) -> sp.csr_matrix:
    """Rank labels by beam search.

    Args:
        ranker: list of Level, or what prepare made of it (spares the layout in repeated calls).
        X: csr, ndarray or Features [n, d].
        beam_size: nodes kept at every level but the last; None: each level's own.
        only_topk: labels a row; None: the last level's own.
        post_processor: used at every level; None: each level's own.
        progress: called as progress(total rows, description) for every level.

    Returns:
        csr float32 [n, L], rows by descending score (indices are not sorted).
    """
    levels = prepare(ranker)
    settings = _search_settings(levels, beam_size, only_topk, post_processor)
    if nr_features(X) != levels[0].nr_features:
        raise ValueError(f"X has {nr_features(X)} features, the model was trained on {levels[0].nr_features}")
    X = as_features(X)
    beam = root_beam(nr_rows(X))
    if levels[0].chunks.child_ptr.size != 2:
        raise ValueError(
            "the first level has more than one cluster above it: only a complete tree can be searched from the root"
        )
    for t, (level, (topk, post)) in enumerate(zip(levels, settings, strict=True)):
        beam = advance(level, X, beam, topk, post, is_first=t == 0, progress=progress)
    return beam
