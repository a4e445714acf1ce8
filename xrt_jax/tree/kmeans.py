"""Balanced hierarchical 2-means over label embeddings: the label tree (as PECOS's HierarchicalKMeans)."""

import numpy as np
import scipy.sparse as sp

from xrt_jax.sparse import nr_features, thread_map, tracked
from xrt_jax.tree.chain import binary_depth, complete_chain
from xrt_jax.tree.passes import Embeddings, Product, embeddings_of, new_memory, without_parts
from xrt_jax.tree.two_means import Settings, split_large_node, split_node

# Nodes with more labels than this are split by all threads together, others by one thread each; the root, beside which
# other threads would have nothing to do, sooner.
LARGE_NODE, LARGE_ROOT = 16384, 4096
# The nodes of a layer are handed to threads in at most this many groups; a group shares its memory.
NR_GROUPS = 64


def _split_layer(E: Embeddings, nr_columns: int, rate: float, settings: Settings, jobs, progress, desc: str):
    """The halves, each ascending, of all nodes of a layer, jobs (node, its label ids), one after the other.

    Large nodes are split one after the other, with threads inside, small ones side by side. Second result: whether
    parts paid for any of them.
    """
    # the last node is never smaller than another
    is_large = len(jobs[-1][1]) > (min(LARGE_ROOT, LARGE_NODE) if len(jobs) == 1 else LARGE_NODE)
    split = split_large_node if is_large else split_node

    def split_group(group) -> list[tuple[np.ndarray, np.ndarray, bool]]:
        memory, found = new_memory(E, nr_columns), []
        for node, rows in group:
            side, used_parts = split(E, rows, rate, node, settings, memory)
            found.append((rows[side == 0], rows[side == 1], used_parts))
        return found

    nr_groups = len(jobs) if is_large else min(len(jobs), NR_GROUPS)
    groups = [jobs[i * len(jobs) // nr_groups : (i + 1) * len(jobs) // nr_groups] for i in range(nr_groups)]
    sizes = [sum(len(rows) for _, rows in group) for group in groups]
    results = map(split_group, groups) if is_large else thread_map(split_group, groups)
    nodes = [node for found in tracked(results, sizes, progress, desc) for node in found]
    return [half for *halves, _ in nodes for half in halves], any(used_parts for *_, used_parts in nodes)


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
        rate, desc = rates[layer] if do_sample else 1.0, f"clustering, layer {layer + 1} of {depth}"
        groups, used_parts = _split_layer(E, nr_columns, rate, settings, jobs, progress, desc)
        if not used_parts:  # smaller nodes share fewer instances: it need not be tried again
            E = without_parts(E)
    indptr = np.concatenate([[0], np.cumsum([len(group) for group in groups])])
    ones = np.ones(nr_labels, np.float32)
    C_leaf = sp.csc_matrix((ones, np.concatenate(groups), indptr), shape=(nr_labels, len(groups)))
    return complete_chain(C_leaf, nr_splits=nr_splits, min_codes=min_codes)
