"""Balanced hierarchical 2-means over label embeddings: the label tree (as PECOS's HierarchicalKMeans)."""

from functools import partial
from itertools import pairwise

import numpy as np
import scipy.sparse as sp

from xrt_jax.sparse import nr_features, thread_map, tracked
from xrt_jax.tree.chain import binary_depth, complete_chain
from xrt_jax.tree.passes import Embeddings, Product, embeddings_of, new_memory
from xrt_jax.tree.two_means import Settings, split_large_node, split_node

# A node with more labels than this is split by all threads together, others by one thread each.
LARGE_NODE = 16384
# The nodes of a layer are handed to threads in at most this many groups; a group shares its memory.
NR_GROUPS = 64


def _split_nodes(E: Embeddings, nr_columns: int, rate: float, settings: Settings, jobs) -> list[np.ndarray]:
    """The halves, each ascending, of every node of the jobs (node, its label ids), one after the other."""
    memory, halves = new_memory(E, nr_columns), []
    for node, rows in jobs:
        split = split_large_node if len(rows) > LARGE_NODE else split_node
        side = split(E, rows, rate, node, settings, memory)
        halves += [rows[side == 0], rows[side == 1]]
    return halves


def _split_layer(split, jobs, progress, desc: str) -> list[np.ndarray]:
    """All halves of a layer: large nodes one after the other (threads inside), small ones side by side."""
    large = len(jobs[-1][1]) > LARGE_NODE  # the last node is never smaller than another
    nr_groups = len(jobs) if large else min(len(jobs), NR_GROUPS)
    bounds = [i * len(jobs) // nr_groups for i in range(nr_groups + 1)]
    groups = [jobs[a:b] for a, b in pairwise(bounds)]
    sizes = [sum(len(rows) for _, rows in group) for group in groups]
    results = map(split, groups) if large else thread_map(split, groups)
    return [half for halves in tracked(results, sizes, progress, desc) for half in halves]


def _sample_rates(depth: int, max_rate: float, min_rate: float, warmup_ratio: float) -> list[float]:
    """Share of a node's rows that its 2-means reads, a binary layer: min_rate, then in even steps to max_rate."""
    if not 0 < min_rate <= max_rate <= 1:
        raise ValueError(f"min_sample_rate={min_rate} and max_sample_rate={max_rate}: 0 < min <= max <= 1 is needed")
    if not 0 <= warmup_ratio <= 1:
        raise ValueError(f"warmup_ratio={warmup_ratio} must be between 0 and 1")
    first = int(warmup_ratio * depth)
    growth = [max(0, layer + 1 - first) / max(1, depth - first) for layer in range(depth)]
    return [min_rate + (max_rate - min_rate) * share for share in growth]


def hierarchical_kmeans(
    Z,
    *,
    nr_splits: int = 16,
    min_codes: int | None = None,
    max_leaf_size: int = 100,
    spherical: bool = True,
    seed: int = 0,
    kmeans_max_iter: int = 20,
    do_sample: bool = False,
    max_sample_rate: float = 1.0,
    min_sample_rate: float = 0.1,
    warmup_ratio: float = 0.4,
    progress=None,
) -> list[sp.csc_matrix]:
    """Cluster labels into a complete balanced tree.

    Args:
        Z: csr, ndarray or Features [L, d]: label embeddings; or a Product of them, for the same tree sooner.
        nr_splits: children of a node above the leaf clusters.
        min_codes: levels above are merged while they have more nodes than this; None stands for nr_splits.
        max_leaf_size: most labels in a leaf cluster; this many labels or fewer make no tree at all (one-versus-all).
        spherical: centres are scaled to unit length, else they are means.
        seed: non-negative; with the node id it seeds the first two centres of a node, and its sample.
        kmeans_max_iter: most rounds of 2-means in a node, at least 1.
        do_sample: run the 2-means of a node on a sample of its labels, then halve all of them once (as PECOS).
        max_sample_rate: share of a node's labels that is sampled in the lowest binary layer.
        min_sample_rate: the share in the top layers, above 0.
        warmup_ratio: share of the layers that count as top layers; below them the rate grows evenly.
        progress: called as progress(total labels, description) for every binary layer.

    Returns:
        Chain of csc float32, top first (tree/chain.py); sizes as tree_sizes says. Leaves differ by at most one label.
    """
    if seed < 0 or kmeans_max_iter < 1:
        raise ValueError(f"seed={seed} must be at least 0 and kmeans_max_iter={kmeans_max_iter} at least 1")
    E = embeddings_of(Z)
    nr_labels, nr_columns = len(E.norms), nr_features(Z.Z if isinstance(Z, Product) else Z)
    if max_leaf_size >= nr_labels:
        return [sp.csc_matrix(np.ones((nr_labels, 1), np.float32))]
    depth = binary_depth(nr_labels, max_leaf_size)
    rates = _sample_rates(depth, max_sample_rate, min_sample_rate, warmup_ratio)
    settings = Settings(seed, spherical, kmeans_max_iter)
    groups = [np.arange(nr_labels)]
    for layer in range(depth):
        jobs = [(2**layer + i, group) for i, group in enumerate(groups)]
        split = partial(_split_nodes, E, nr_columns, rates[layer] if do_sample else 1.0, settings)
        groups = _split_layer(split, jobs, progress, f"clustering, layer {layer + 1} of {depth}")
    indptr = np.concatenate([[0], np.cumsum([len(group) for group in groups])])
    ones = np.ones(nr_labels, np.float32)
    C_leaf = sp.csc_matrix((ones, np.concatenate(groups), indptr), shape=(nr_labels, len(groups)))
    return complete_chain(C_leaf, nr_splits=nr_splits, min_codes=min_codes)
