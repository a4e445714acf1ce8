"""Beam search through a trained XR-Linear tree.

chunks.py lays a level out by parent, search.py takes a block of rows one level down, postprocess.py turns raw scores
into ranking scores. Rows go through a level block by block, the blocks in parallel.
"""

import operator
from itertools import pairwise
from typing import NamedTuple

import numba
import numpy as np
import scipy.sparse as sp
from numba import njit

from xrt_jax.sparse import FeatureArrays, Features, as_features, canonical, feature_arrays, nr_features, row_ids
from xrt_jax.threads import thread_map, tracked
from xrt_jax.xlinear.chunks import CHILD, Chunks, make_chunks
from xrt_jax.xlinear.postprocess import PostProcessor, neutral, parse
from xrt_jax.xlinear.search import output_ptr, score_pairs, search_rows

ROWS_PER_BLOCK = 8192  # many rows share a chunk while it is in the cache; fewer where threads would be idle


# ---------------------------------------------------------------------------- layout


class PreparedLevel(NamedTuple):
    """A Level in the layout of the beam search (prepare).

    Attributes:
        chunks: the weights by parent.
        nr_features: features without the bias.
        nr_labels: nodes of the level.
        only_topk: nodes kept after this level.
        post_processor: a name that postprocess.parse knows.
    """

    chunks: Chunks
    nr_features: int
    nr_labels: int
    only_topk: int
    post_processor: str


def prepare_level(level, nr_dense: int = 0) -> PreparedLevel:
    """Lay a Level (xlinear/level.py) out for the beam search; arguments as of prepare."""
    C, W = canonical(level.C, "csc", "C"), canonical(level.W, "csc", "W")
    if C.nnz and np.bincount(C.indices).max() > 1:
        raise ValueError("a label has more than one parent in C: the beam search needs one")
    if W.shape[1] != C.shape[0]:
        raise ValueError(f"W has {W.shape[1]} columns, C {C.shape[0]} rows: both must be the nodes of the level")
    d = int(W.shape[0] - (level.bias > 0))
    chunks = make_chunks(C, W, level.bias, d, min(operator.index(nr_dense), d))
    return PreparedLevel(chunks, d, C.shape[0], level.only_topk, level.post_processor)


def prepare(ranker, nr_dense: int = 0) -> list[PreparedLevel]:
    """Lay a ranker out for the beam search once; predict takes the result in the ranker's place.

    Args:
        ranker: list of Level; what is laid out already stays as it is.
        nr_dense: columns of the dense part of the queries' features. Their weights are kept as matrices, which is many
            times as fast on dense columns. Any queries can be answered with any number.
    """
    return [level if isinstance(level, PreparedLevel) else prepare_level(level, nr_dense) for level in ranker]


# ---------------------------------------------------------------------------- queries


@njit(cache=True, nogil=True)
def _fits(indptr, indices, data, d):
    """Whether these arrays are a csr matrix of d columns with finite values; indices are uint32."""
    if indptr[0] != 0 or indptr[-1] > min(len(indices), len(data)):
        return False
    for row in range(len(indptr) - 1):
        if indptr[row + 1] < indptr[row]:
            return False
    for k in range(indptr[-1]):
        if indices[k] >= d or not abs(data[k]) <= np.float32(np.inf) or abs(data[k]) == np.float32(np.inf):
            return False
    return True


def _is_plain(X) -> bool:
    """A csr matrix of the usual types: the search takes its entries in any order, and repeated ones add up."""
    return (
        sp.issparse(X)
        and X.format == "csr"
        and X.data.dtype == np.float32
        and X.indices.dtype == X.indptr.dtype == np.int32
        and X.data.ndim == X.indices.ndim == X.indptr.ndim == 1
        and len(X.indptr) == X.shape[0] + 1
        and X.data.flags.c_contiguous
        and X.indices.flags.c_contiguous
    )


def _query_arrays(X, d: int) -> FeatureArrays:
    """X, of d features, for compiled code; ValueError as of as_features and on another number of features."""
    if not isinstance(X, Features) and not (sp.issparse(X) or isinstance(X, np.ndarray)):
        X = np.asarray(X)
    if not isinstance(X, Features) and len(X.shape) != 2:
        raise ValueError(f"X must have two axes [rows, features], not the shape {X.shape}")
    if nr_features(X) != d:
        raise ValueError(f"X has {nr_features(X)} features, the model was trained on {d}")
    if _is_plain(X):
        indptr, indices = X.indptr.astype(np.int64), X.indices.view(np.uint32)
        if _fits(indptr, indices, X.data, d):
            return FeatureArrays(indptr, indices, X.data, np.empty((X.shape[0], 0), np.float32), d)
    return feature_arrays(as_features(X))  # tells what is wrong with it


# ---------------------------------------------------------------------------- one level


class _Beam(NamedTuple):
    """Rows of nodes with their scores, the best first: csr arrays, int64, int32 and float32."""

    ptr: np.ndarray
    node: np.ndarray
    score: np.ndarray


def _root(n: int) -> _Beam:
    return _Beam(np.arange(n + 1), np.zeros(n, np.int32), np.ones(n, np.float32))


def _as_beam(A) -> _Beam:
    return _Beam(A.indptr.astype(np.int64), A.indices.astype(np.int32, copy=False), A.data)


def _as_csr(beam: _Beam, nr_labels: int) -> sp.csr_matrix:
    return sp.csr_matrix((beam.score, beam.node, beam.ptr), shape=(len(beam.ptr) - 1, nr_labels))


def _spans(n: int) -> list[tuple[int, int]]:
    size = max(1, min(ROWS_PER_BLOCK, -(-n // (2 * numba.get_num_threads()))))
    return [(first, min(first + size, n)) for first in range(0, n, size)]


def _each(fn, n: int, progress, desc: str) -> None:
    """fn(first, stop) for spans of 0:n, in parallel."""
    if n == 1 and not progress:
        fn(0, 1)
        return
    spans = _spans(n)
    for _ in tracked(thread_map(lambda span: fn(*span), spans), [b - a for a, b in spans], progress, desc):
        pass


def _step(level: PreparedLevel, X: FeatureArrays, beam: _Beam, topk: int, post: PostProcessor, is_first, progress):
    """The beam one level further down."""
    ptr = output_ptr(beam.ptr, beam.node, level.chunks.ptr, topk)
    below = _Beam(ptr, np.empty(ptr[-1], np.int32), np.empty(ptr[-1], np.float32))

    def search(first, stop):
        search_rows(first, stop, *X, *beam, is_first, *level.chunks, *post, *below)

    _each(search, len(ptr) - 1, progress, f"scoring {level.nr_labels} nodes")
    return below


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
        post_processor: a name that postprocess.parse knows.
        is_first: the root's score is not combined with.
        progress: called as progress(total rows, description).

    Returns:
        csr float32 [n, nodes], rows by descending score.
    """
    X = _query_arrays(X, level.nr_features)
    if beam.shape != (len(X.indptr) - 1, len(level.chunks.ptr) - 1):
        raise ValueError(f"beam: shape {beam.shape} does not fit {len(X.indptr) - 1} rows and the level's parents")
    below = _step(level, X, _as_beam(beam), _count(topk, "topk"), parse(post_processor), is_first, progress)
    return _as_csr(below, level.nr_labels)


# ---------------------------------------------------------------------------- the tree


def _count(value, name: str) -> int:
    """A number of nodes kept; ValueError unless it is an integer of at least 1."""
    try:
        count = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{name}={value!r} must be an integer of at least 1")
    return min(count, np.iinfo(np.int64).max)


def search_settings(levels, beam_size, only_topk, post_processor) -> list[tuple[int, PostProcessor]]:
    """(only_topk, post_processor) of every level after the overrides; ValueError on a bad one."""
    beam = None if beam_size is None else _count(beam_size, "beam_size")
    topk = [beam or _count(level.only_topk, f"only_topk of level {t}") for t, level in enumerate(levels)]
    topk[-1] = _count(levels[-1].only_topk if only_topk is None else only_topk, "only_topk")
    return list(zip(topk, _post_processors(levels, post_processor), strict=True))


def _post_processors(levels, post_processor) -> list[PostProcessor]:
    return [parse(level.post_processor if post_processor is None else post_processor) for level in levels]


def _first_beam(levels, n: int, codes) -> _Beam:
    """The root, or the codes of a partial chain."""
    nr_codes = len(levels[0].chunks.ptr) - 1
    if codes is not None:
        codes = canonical(codes, "csr", "codes")
        if codes.shape != (n, nr_codes):
            raise ValueError(f"codes: shape {codes.shape}, but X and the first level ask for {(n, nr_codes)}")
        return _as_beam(codes)
    if nr_codes != 1:
        raise ValueError(
            "the first level has more than one cluster above it: only a complete tree can be searched from the root, "
            "others from codes= [rows, clusters]"
        )
    return _root(n)


def _checked_levels(ranker, X) -> list[PreparedLevel]:
    nr_dense = X.dense.shape[1] if isinstance(X, Features) and X.dense is not None else 0
    levels = prepare(ranker, nr_dense)
    if not levels:
        raise ValueError("the ranker has no level")
    for t, (above, level) in enumerate(pairwise(levels)):
        if (above.nr_labels, above.nr_features) != (len(level.chunks.ptr) - 1, level.nr_features):
            raise ValueError(f"level {t + 1} does not start from the nodes of level {t}, or has other features")
    return levels


def predict(
    ranker,
    X,
    *,
    beam_size: int | None = None,
    only_topk: int | None = None,
    post_processor: str | None = None,
    codes=None,
    progress=None,
) -> sp.csr_matrix:
    """Rank labels by beam search.

    Args:
        ranker: list of Level, or what prepare or load_mapped made of it (spares the layout in repeated calls).
        X: csr, ndarray or Features [n, d].
        beam_size: nodes kept at every level but the last; None: each level's own.
        only_topk: labels a row; None: the last level's own.
        post_processor: used at every level; None: each level's own.
        codes: csr [n, nodes above the first level], where the search of a partial chain starts; its scores are combined
            with those of the first level.
        progress: called as progress(total rows, description) for every level.

    Returns:
        csr float32 [n, L], rows by descending score (indices are not sorted).

    ValueError on settings and features that do not fit.
    """
    levels = _checked_levels(ranker, X)
    settings = search_settings(levels, beam_size, only_topk, post_processor)
    X = _query_arrays(X, levels[0].nr_features)
    beam = _first_beam(levels, len(X.indptr) - 1, codes)
    for t, (level, (topk, post)) in enumerate(zip(levels, settings, strict=True)):
        beam = _step(level, X, beam, topk, post, t == 0 and codes is None, progress)
    return _as_csr(beam, levels[-1].nr_labels)


# ---------------------------------------------------------------------------- selected labels


def _parents(level: PreparedLevel) -> tuple[np.ndarray, np.ndarray]:
    """Parent (-1: none) and place among its siblings of every node: int64 [nodes]."""
    ptr, child = level.chunks.ptr[:, CHILD], level.chunks.child
    parent, offset = np.full(level.nr_labels, -1), np.zeros(level.nr_labels, np.int64)
    parent[child] = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
    offset[child] = np.arange(len(child)) - ptr[parent[child]]
    return parent, offset


def _pushed_up(levels, row: np.ndarray, node: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(row, node) of every level leading to the given ones, sorted and unique, without nodes that have no parent."""
    pairs = []
    for level in levels[::-1]:
        parent = _parents(level)[0][node]
        row, node, parent = row[parent >= 0], node[parent >= 0], parent[parent >= 0]
        pairs.insert(0, (row, node))
        width = len(level.chunks.ptr) - 1
        row, node = np.divmod(np.unique(row * width + parent), width)
    return pairs


def _place_in(beam: _Beam, width: int, row: np.ndarray, node: np.ndarray) -> np.ndarray:
    """Where (row, node) is in the beam, or -1."""
    stored = np.repeat(np.arange(len(beam.ptr) - 1), np.diff(beam.ptr)) * width + beam.node
    if not len(stored):
        return np.full(len(row), -1)
    order = np.argsort(stored)
    place = order[np.minimum(np.searchsorted(stored, row * width + node, sorter=order), len(stored) - 1)]
    return np.where(stored[place] == row * width + node, place, -1)


def _step_to(level: PreparedLevel, X, beam: _Beam, post: PostProcessor, row, node, is_first, progress) -> _Beam:
    """The beam one level further down at the given nodes only, if their parents are in the beam."""
    parent, offset = (of_all[node] for of_all in _parents(level))
    place = _place_in(beam, len(level.chunks.ptr) - 1, row, parent)
    order = np.lexsort((offset, place))[np.count_nonzero(place < 0) :]  # as the search meets them
    row, node, parent, offset, place = (of_all[order] for of_all in (row, node, parent, offset, place))
    above = np.full(len(row), neutral(post.kind)) if is_first else beam.score[place]
    score = np.empty(len(row), np.float32)
    weights = (level.chunks.ptr, *level.chunks[2:])

    def fill(first, stop):
        score_pairs(first, stop, *X, row, parent, offset, above, *weights, *post, score)

    _each(fill, len(row), progress, f"scoring selected of {level.nr_labels} nodes")
    best_first = np.lexsort((-score, row))
    ptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(beam.ptr) - 1))])
    return _Beam(ptr, node[best_first].astype(np.int32), score[best_first])


def predict_selected(
    ranker, X, selected, *, post_processor: str | None = None, codes=None, progress=None
) -> sp.csr_matrix:
    """Score given labels, without a beam: as predict with a beam and a top k of everything does.

    Args:
        ranker, X, post_processor, codes, progress: as of predict.
        selected: csr [n, L], whose stored entries are the labels to score for each row.

    Returns:
        csr float32 [n, L], rows by descending score: the entries of `selected` but for those that no path leads to from
        the root or from the codes.

    ValueError on settings and features that do not fit.
    """
    levels = _checked_levels(ranker, X)
    posts = _post_processors(levels, post_processor)
    X, selected = _query_arrays(X, levels[0].nr_features), canonical(selected, "csr", "selected")
    shape = (len(X.indptr) - 1, levels[-1].nr_labels)
    if selected.shape != shape:
        raise ValueError(f"selected: shape {selected.shape}, but X and the ranker ask for {shape}")
    beam = _first_beam(levels, selected.shape[0], codes)
    pairs = _pushed_up(levels, row_ids(selected), selected.indices)
    for t, (level, post, (row, node)) in enumerate(zip(levels, posts, pairs, strict=True)):
        beam = _step_to(level, X, beam, post, row, node, t == 0 and codes is None, progress)
    return _as_csr(beam, levels[-1].nr_labels)
