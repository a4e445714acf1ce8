"""Rankers cut and joined: some labels only, upper and lower levels, the tree below a node.

A ranker is a list of Level (xlinear/level.py). Its weights are shared with the results wherever they stay the same.
"""

import operator

import numpy as np
import scipy.sparse as sp

from xrt_jax.sparse import canonical


def _integer(value, name: str, low: int, high: int) -> int:
    """value as an int in low:high; ValueError if it is none."""
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if not low <= number < high:
        raise ValueError(f"{name}={value!r} must be an integer from {low} to {high - 1}")
    return number


def _with_rows(C, mask: np.ndarray) -> sp.csc_matrix:
    """C [nodes, parents] with the rows in the mask only, the others empty."""
    kept = mask[C.indices]
    indptr = np.concatenate([[0], np.cumsum(kept)])[C.indptr]
    return canonical(sp.csc_matrix((C.data[kept], C.indices[kept], indptr), shape=C.shape), "csc")


def restrict_labels(ranker, labels) -> list:
    """The ranker with these labels alone; nodes without one below them leave the search (PECOS: set_output_constraint).

    Args:
        ranker: list of Level.
        labels: integers [m], may be empty.

    Returns:
        list of Level of the same sizes; with a full beam, scores of the labels are what they were.

    ValueError on labels that the ranker does not have.
    """
    labels, nr_labels = np.asarray(labels), ranker[-1].C.shape[0]
    if labels.size and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
        raise ValueError(f"labels must be a list of integers, not {labels.dtype} {list(labels.shape)}")
    if labels.size and not 0 <= labels.min() <= labels.max() < nr_labels:
        raise ValueError(f"labels must be from 0 to {nr_labels - 1}, not from {labels.min()} to {labels.max()}")
    mask = np.zeros(nr_labels, bool)
    mask[labels.astype(np.int64)] = True
    kept = []
    for level in ranker[::-1]:
        C = _with_rows(canonical(level.C, "csc"), mask)
        kept.insert(0, level._replace(C=C))
        mask = np.diff(C.indptr) > 0
    return kept


def split_at(ranker, depth: int) -> tuple[list, list]:
    """The first `depth` levels, and the others, which are searched with predict(..., codes=predict(upper, ...)).

    With nodes and scores of the upper levels as codes, the lower ones predict what the whole ranker predicts.
    """
    depth = _integer(depth, "depth", 1, len(ranker))
    return list(ranker[:depth]), list(ranker[depth:])


def join(upper, lower) -> list:
    """One ranker of the levels of both; ValueError unless `lower` starts from the nodes that `upper` ends in."""
    nr_nodes, nr_codes = upper[-1].C.shape[0], lower[0].C.shape[1]
    if nr_nodes != nr_codes:
        raise ValueError(f"the upper levels end in {nr_nodes} nodes, the lower ones start from {nr_codes}")
    d, d_lower = (part[0].W.shape[0] - (part[0].bias > 0) for part in (upper, lower))
    if d != d_lower:
        raise ValueError(f"the upper levels have {d} features, the lower ones {d_lower}")
    return [*upper, *lower]


def submodel(ranker, depth: int, node: int) -> tuple[list, np.ndarray]:
    """The tree below a node as a ranker of its own (PECOS: get_submodel_rooted_at with reindexing).

    Args:
        ranker: list of Level.
        depth: the level of the node's children; node: its number among the columns of ranker[depth].C. Depth 0 and
            node 0 are the root of a complete tree.

    Returns:
        list of Level from `depth` on, with the nodes below it only; labels int64 [m]: for each label of the new ranker,
        ascending, which one it was. Its scores do not hold those of the nodes above.

    ValueError on a node that does not exist or has no label below it.
    """
    depth = _integer(depth, "depth", 0, len(ranker))
    nodes, levels = np.array([_integer(node, "node", 0, ranker[depth].C.shape[1])]), []
    for level in ranker[depth:]:
        C = canonical(level.C, "csc")[:, nodes]
        nodes = np.unique(C.indices).astype(np.int64)
        if not len(nodes):
            raise ValueError(f"node {node} at depth {depth} has no label below it")
        levels.append(level._replace(C=canonical(C[nodes], "csc"), W=canonical(level.W, "csc")[:, nodes]))
    return levels, nodes
