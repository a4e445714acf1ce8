"""Balanced hierarchical 2-means over label embeddings: the label tree (as PECOS's HierarchicalKMeans)."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from xrt_jax.processes import count, from_each
from xrt_jax.sharing import claim, write_array
from xrt_jax.threads import thread_map, tracked
from xrt_jax.tree.chain import binary_depth, complete_chain
from xrt_jax.tree.passes import Embeddings, embeddings_of, new_memory, without_parts
from xrt_jax.tree.two_means import Settings, split_large_node, split_node

# Nodes with more labels than this are split by all threads together, others by one thread each; the root, beside which
# other threads would have nothing to do, sooner.
LARGE_NODE, LARGE_ROOT = 16384, 4096
# The nodes of a layer are handed to threads in at most this many groups; a group shares its memory.
NR_GROUPS = 64


class Node(NamedTuple):
    """A node of the binary tree: number 1 is the root, and 2 i and 2 i + 1 are the children of i.

    Attributes:
        labels: int64, ascending.
        tries_parts: whether passes through the parts paid for its parent. If not they are not tried again, because
            smaller nodes share fewer instances.
    """

    number: int
    labels: np.ndarray
    tries_parts: bool


def _is_large(node: Node) -> bool:
    return len(node.labels) > (min(LARGE_ROOT, LARGE_NODE) if node.number == 1 else LARGE_NODE)


def _split_layer(E: Embeddings, rate: float, settings: Settings, nodes: list[Node], progress, desc: str) -> list[Node]:
    """The children of all nodes of a layer, in their order.

    Large nodes are split one after the other, with threads inside, small ones side by side.
    """
    if not any(node.tries_parts for node in nodes):
        E = without_parts(E)
    one_way = without_parts(E)

    def split_group(group: list[Node]) -> list[Node]:
        memory, children = new_memory(E), []
        for node in group:
            split = split_large_node if _is_large(node) else split_node
            way = E if node.tries_parts else one_way
            side, used_parts = split(way, node.labels, rate, node.number, settings, memory)
            children += [Node(2 * node.number + i, node.labels[side == i], used_parts) for i in (0, 1)]
        return children

    is_large = any(map(_is_large, nodes))
    nr_groups = len(nodes) if is_large else min(len(nodes), NR_GROUPS)
    groups = [nodes[i * len(nodes) // nr_groups : (i + 1) * len(nodes) // nr_groups] for i in range(nr_groups)]
    sizes = [sum(len(node.labels) for node in group) for group in groups]
    results = map(split_group, groups) if is_large else thread_map(split_group, groups)
    return [child for children in tracked(results, sizes, progress, desc) for child in children]


def _split_together(
    folder: Path, work: Path, layers: list[Callable], nodes: list[Node], name: str, progress
) -> list[Node]:
    """As the layers (nodes -> children) one after the other, with the nodes shared out among the processes.

    work: folder for what they find, kept for the next start of a run that is broken off.
    """
    paths = [work / f"{node.number}.{len(layers)}.npy" for node in nodes]
    sizes = [len(node.labels) for node in nodes]
    bar = progress(sum(sizes) // count(), name) if progress else None
    for i in claim(folder, name, sizes):
        if not paths[i].is_file():
            children = [nodes[i]]
            for split in layers:
                children = split(children)
            ends = np.cumsum([len(child.labels) for child in children])
            tries = [child.tries_parts for child in children]
            write_array(paths[i], np.concatenate([ends, tries, *(child.labels for child in children)]))
        if bar:
            bar.update(sizes[i])
    if bar:
        bar.total = bar.n  # others may have done more or less than their part
        bar.close()
    from_each()
    return [child for node, path in zip(nodes, paths, strict=True) for child in _read_children(path, node, len(layers))]


def _read_children(path: Path, node: Node, nr_layers: int) -> list[Node]:
    """What _split_together wrote."""
    found, n = np.load(path, allow_pickle=False), 2**nr_layers
    labels = np.split(found[2 * n :], found[: n - 1])
    first = node.number * n
    return [Node(first + i, labels[i], bool(found[n + i])) for i in range(n)]


def layers_above(nr_nodes: int) -> int:
    """Binary layers until there are at least so many nodes."""
    return max(0, nr_nodes - 1).bit_length()


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
    top=None,
    nr_subtrees: int = 16,
    folder: Path | None = None,
    work: Path | None = None,
    progress=None,
) -> list[sp.csc_matrix]:
    """Cluster labels into a complete balanced tree.

    Args:
        Z: csr, ndarray or Features [L, d]: label embeddings; or a Product of them, for the same tree sooner; or
            Embeddings.
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
        top: other embeddings, for the layers above the first one with nr_subtrees nodes; None: Z for all layers.
        nr_subtrees: see top; and several processes share out so many parts, or a few more.
        folder, work: shared_folder of several processes (sharing.py), which all call this, and a folder where what is
            found stays for the next start of a run that is broken off. The tree is that of one process.
        progress: called as progress(total labels, description) for every binary layer.

    Returns:
        Chain of csc float32, top first (tree/chain.py); sizes as tree_sizes says. Leaves differ by at most one label.
    """
    if seed < 0 or kmeans_max_iter < 1:
        raise ValueError(f"seed={seed} must be at least 0 and kmeans_max_iter={kmeans_max_iter} at least 1")
    E = embeddings_of(Z)
    nr_labels = len(E.norms)
    if max_leaf_size >= nr_labels:
        return [sp.csc_matrix(np.ones((nr_labels, 1), np.float32))]
    depth = binary_depth(nr_labels, max_leaf_size)
    nr_top = min(depth, layers_above(nr_subtrees))
    rates = _sample_rates(depth, max_sample_rate, min_sample_rate, warmup_ratio)
    rates = rates if do_sample else [1.0] * depth
    settings = Settings(seed, spherical, kmeans_max_iter)
    above = E if top is None else embeddings_of(top)

    def layer(number: int, progress=progress) -> Callable:
        desc = f"clustering, layer {number + 1} of {depth}"
        which = above if number < nr_top else E
        return lambda nodes: _split_layer(which, rates[number], settings, nodes, progress, desc)

    nodes = [Node(1, np.arange(nr_labels), True)]
    if folder is None:
        for number in range(depth):
            nodes = layer(number)(nodes)
    else:
        for number in range(nr_top):
            name = f"clustering, layer {number + 1} of {depth}"
            nodes = _split_together(folder, work, [layer(number, None)], nodes, name, progress)
        below = [layer(number, None) for number in range(nr_top, depth)]
        if below:
            nodes = _split_together(folder, work, below, nodes, "clustering, sub-trees", progress)
    indptr = np.concatenate([[0], np.cumsum([len(node.labels) for node in nodes])])
    ones = np.ones(nr_labels, np.float32)
    leaves = np.concatenate([node.labels for node in nodes])
    C_leaf = sp.csc_matrix((ones, leaves, indptr), shape=(nr_labels, len(nodes)))
    return complete_chain(C_leaf, nr_splits=nr_splits, min_codes=min_codes)
