"""The cluster chain: the label tree as indicator matrices C_0 (top) … C_{D-1} (leaf), and labels pushed up it.

C_t is csc float32 [nodes of level t, nodes of level t-1]; entry (i, j) is 1 where node i has the parent j. C_0 has one
column, and the rows of the last matrix are the labels.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from xrt_jax.disk import read_json, replace_folder, write_json
from xrt_jax.npz import load_canonical, save_npz
from xrt_jax.sparse import canonical


def per_level(key: str, values, depth: int) -> tuple:
    """One value a level: a tuple of length 1 serves every level; ValueError naming `key` for any other wrong length."""
    values = tuple(values)
    if len(values) not in (1, depth):
        raise ValueError(f"{key} has {len(values)} values for {depth} levels: give 1 or {depth}")
    return values if len(values) == depth else values * depth


def binary_depth(nr_labels: int, max_leaf_size: int) -> int:
    """Binary splits, at least 1, until no leaf has more than max_leaf_size labels; ValueError if leaves stay empty."""
    depth = 1
    while max_leaf_size << depth < nr_labels:
        depth += 1
    if 1 << depth > nr_labels:
        raise ValueError(f"max_leaf_size={max_leaf_size} makes {1 << depth} leaves of {nr_labels} labels: raise it")
    return depth


def _node_counts(nr_leaves: int, nr_splits: int, min_codes: int | None) -> list[int]:
    """Nodes of the levels above the labels, leaf clusters first (sizing rule of PECOS)."""
    if nr_splits < 2:
        raise ValueError(f"nr_splits={nr_splits}: a node needs at least 2 children")
    counts = [nr_leaves]
    while counts[-1] > (nr_splits if min_codes is None else max(1, min_codes)):
        counts.append(-(-counts[-1] // nr_splits))
    return counts


def tree_sizes(nr_labels: int, *, nr_splits: int, min_codes: int | None, max_leaf_size: int) -> list[int]:
    """Number of nodes of every level, top first and labels last, without building the tree (as PECOS sizes it)."""
    if max_leaf_size >= nr_labels:
        return [nr_labels]
    counts = _node_counts(1 << binary_depth(nr_labels, max_leaf_size), nr_splits, min_codes)
    return [count for count in counts[::-1] if count > 1] + [nr_labels]


def _indicator(parent: np.ndarray, nr_parents: int) -> sp.csc_matrix:
    """csc [len(parent), nr_parents] with a one at (i, parent[i])."""
    ones, rows = np.ones(len(parent), np.float32), np.arange(len(parent))
    return canonical(sp.coo_matrix((ones, (rows, parent)), shape=(len(parent), nr_parents)), "csc")


def complete_chain(C_leaf, *, nr_splits: int, min_codes: int | None) -> list[sp.csc_matrix]:
    """Build the levels above the leaf clusters by merging nr_splits neighbours at a time.

    Args:
        C_leaf: sparse [L, leaves], one leaf cluster a column.
        nr_splits: neighbouring nodes that share a parent.
        min_codes: merge while a level has more nodes than this; None stands for nr_splits.

    Returns:
        Chain, top first; chain[0] has one column.
    """
    chain = [canonical(C_leaf, "csc")]
    counts = _node_counts(C_leaf.shape[1], nr_splits, min_codes)
    for below, above in pairwise(counts):
        chain.insert(0, _indicator(np.arange(below) // nr_splits, above))
    if counts[-1] > 1:
        chain.insert(0, _indicator(np.zeros(counts[-1], np.int64), 1))
    return chain


def check_fits(chain: list[sp.csc_matrix], source: str) -> None:
    """ValueError naming `source` unless entries are in range and each matrix fits the one above."""
    if not chain:
        raise ValueError(f"{source}: there is no matrix in it")
    for t, C in enumerate(chain):
        canonical(C, "csc", f"{source}: C{t}")  # entries in range, finite
    for t in range(1, len(chain)):
        if chain[t].shape[1] != chain[t - 1].shape[0]:
            raise ValueError(
                f"{source}: C{t} has {chain[t].shape[1]} columns, but C{t - 1} has {chain[t - 1].shape[0]} rows"
            )


def check_chain(chain: list[sp.csc_matrix], source: str) -> None:
    """As check_fits; and the top must have one column."""
    check_fits(chain, source)
    if chain[0].shape[1] != 1:
        raise ValueError(f"{source}: the first cluster matrix must have 1 column (the root); complete the chain first")


def save_chain(folder, chain: list[sp.csc_matrix]) -> None:
    """Write a PECOS chain folder: config.json and C0.npz …; it appears whole or not at all."""
    with replace_folder(folder) as tmp:
        for t, C in enumerate(chain):
            save_npz(tmp / f"C{t}.npz", C)
        write_json(tmp / "config.json", {"len": len(chain)})


def load_chain(path, *, nr_splits: int = 16, min_codes: int | None = None) -> list[sp.csc_matrix]:
    """Read a cluster chain.

    Args:
        path: PECOS chain folder (config.json with "len", C0.npz …), or an npz file with the leaf matrix [L, leaves].
        nr_splits, min_codes: how the levels above a lone leaf matrix are built (complete_chain); a folder has them.

    Returns:
        Chain, top first. FileNotFoundError or ValueError names what is wrong with the files.
    """
    if Path(path).is_file():
        return complete_chain(load_canonical(path, "csc"), nr_splits=nr_splits, min_codes=min_codes)
    config = Path(path) / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{path}: no cluster chain here (config.json is missing)")
    content = read_json(config)
    depth = content.get("len") if isinstance(content, dict) else None
    if not isinstance(depth, int) or isinstance(depth, bool):
        raise ValueError(f'{config}: the key "len" with the number of levels is missing')
    chain = [load_canonical(Path(path) / f"C{t}.npz", "csc") for t in range(depth)]
    check_chain(chain, str(path))
    return chain


def aggregate_labels(Y, chain: list[sp.csc_matrix]) -> list[sp.csr_matrix]:
    """Labels of every level, [Y_0, …, Y_{D-1}], csr float32 [n, nodes of level t]; Y_{t-1} = Y_t C_t (counts)."""
    if Y.shape[1] != chain[-1].shape[0]:
        raise ValueError(f"Y has {Y.shape[1]} labels, the cluster chain {chain[-1].shape[0]}")
    levels = [canonical(Y, "csr")]
    for C in chain[:0:-1]:
        levels.insert(0, canonical(levels[0] @ C, "csr"))
    return levels


def pattern(A) -> sp.csr_matrix:
    """csr float32 with a one wherever A stores an entry."""
    A = canonical(A, "csr")
    return sp.csr_matrix((np.ones(A.nnz, np.float32), A.indices, A.indptr), shape=A.shape)


def _check_matches(matches: dict, chain: list[sp.csc_matrix]) -> None:
    """ValueError for a height that the chain does not have, a wrong number of nodes, or unequal numbers of rows."""
    widths = [chain[-1].shape[0]] + [C.shape[1] for C in chain[::-1]]
    for height, M in matches.items():
        if height not in range(len(widths)):
            raise ValueError(f"matches for height {height}: the chain has the heights 0 (labels) to {len(chain)}")
        if M.shape[1] != widths[height]:
            raise ValueError(f"matches for height {height} have {M.shape[1]} columns, the chain {widths[height]} nodes")
    if len({M.shape[0] for M in matches.values()}) > 1:
        rows = ", ".join(f"{height}: {M.shape[0]}" for height, M in sorted(matches.items()))
        raise ValueError(f"matches have unequal numbers of rows ({rows}): each needs one row an instance")


def matching_chain(matches: dict, chain: list[sp.csc_matrix]) -> list[sp.csr_matrix | None]:
    """Clusters that each instance is trained on besides its own, pushed up the tree (as PECOS's user-supplied ones).

    Args:
        matches: height above the labels -> sparse [n, nodes of that height]: 0 for labels, 1 for leaf clusters …; any
            stored entry counts; None is as good as no entry.
        chain: C_0 … C_{D-1}.

    Returns:
        For each level t the pattern, csr float32 [n, nodes of level t-1], of what was given there or below; None where
        nothing was. Level 0 has the columns of C_0.
    """
    matches = {height: M for height, M in matches.items() if M is not None}
    _check_matches(matches, chain)
    below = pattern(matches[0]) if 0 in matches else None
    levels = []
    for height, C in enumerate(chain[::-1], start=1):
        found = [] if below is None else [below @ C]
        found += [pattern(matches[height])] if height in matches else []
        below = pattern(sum(found[1:], start=found[0])) if found else None
        levels.insert(0, below)
    return levels


def part_of_tree(mode: str, ranker_level: int, Y, chain: list[sp.csc_matrix]):
    """The part of a tree that is trained (as PECOS's XLinearModel modes).

    Args:
        mode: "full-model": all levels; "matcher": the top D - ranker_level levels; "ranker": the bottom ranker_level.
        ranker_level: levels of the ranker, 1 … D - 1; not read for the full model.
        Y: sparse [n, L].
        chain: C_0 … C_{D-1}.

    Returns:
        (Y, chain) of the part: a matcher's Y counts the labels of its last nodes; a ranker's first matrix has a column
        for each node above it, more than one.
    """
    if mode not in ("full-model", "matcher", "ranker"):
        raise ValueError(f"mode {mode!r} is unknown: choose full-model, matcher or ranker")
    if mode == "full-model":
        return Y, chain
    if not 0 < ranker_level < len(chain):
        raise ValueError(f"ranker_level={ranker_level}: a tree of {len(chain)} levels splits at 1 to {len(chain) - 1}")
    split = len(chain) - ranker_level
    if mode == "ranker":
        return Y, chain[split:]
    return aggregate_labels(Y, chain)[split - 1], chain[:split]
