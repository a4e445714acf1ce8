import json

import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.tree.chain import (
    aggregate_labels,
    check_chain,
    complete_chain,
    load_chain,
    matching_chain,
    part_of_tree,
    save_chain,
    tree_sizes,
)


def sizes(nr_labels, nr_splits, max_leaf_size, min_codes=None):
    return tree_sizes(nr_labels, nr_splits=nr_splits, min_codes=min_codes, max_leaf_size=max_leaf_size)


def leaves(parent):
    return sp.csc_matrix((np.ones(len(parent), np.float32), (range(len(parent)), parent)))


def test_sizes_as_pecos():
    assert sizes(137, 16, 100) == [2, 137]
    assert sizes(137, 16, 10) == [16, 137]
    assert sizes(137, 2, 10) == [2, 4, 8, 16, 137]
    assert sizes(137, 3, 5) == [2, 4, 11, 32, 137]
    assert sizes(137, 16, 10, min_codes=4) == [16, 137]
    assert sizes(137, 16, 137) == [137]
    # trees of the published settings
    assert sizes(30938, 16, 16, 128) == [128, 2048, 30938]
    assert sizes(501070, 8, 16, 64) == [64, 512, 4096, 32768, 501070]
    assert sizes(2812281, 16, 32, 128) == [32, 512, 8192, 131072, 2812281]


def test_too_small_leaves_are_refused():
    with pytest.raises(ValueError, match="max_leaf_size=1"):
        sizes(5, 2, 1)
    with pytest.raises(ValueError, match="nr_splits=1"):
        sizes(50, 1, 2)


def test_complete_chain_merges_neighbours():
    chain = complete_chain(leaves([0, 1, 2, 3, 4]), nr_splits=2, min_codes=None)
    assert [C.shape for C in chain] == [(2, 1), (3, 2), (5, 3), (5, 5)]
    assert chain[-2].indices.tolist() == [0, 1, 2, 3, 4] and chain[-2].indptr.tolist() == [0, 2, 4, 5]


def test_chain_folder_round_trip(tmp_path):
    chain = complete_chain(leaves([0, 1, 1, 0]), nr_splits=2, min_codes=None)
    save_chain(tmp_path / "tree", chain)
    assert json.loads((tmp_path / "tree" / "config.json").read_text()) == {"len": 2}
    for C, D in zip(chain, load_chain(tmp_path / "tree"), strict=True):
        assert (C != D).nnz == 0 and D.dtype == np.float32


def test_load_chain_names_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_chain(tmp_path)
    save_chain(tmp_path / "tree", complete_chain(leaves([0, 1, 1, 0]), nr_splits=2, min_codes=None))
    sp.save_npz(tmp_path / "tree" / "C1.npz", leaves([0, 1, 2]))
    with pytest.raises(ValueError, match="C1 has 3 columns, but C0 has 2 rows"):
        load_chain(tmp_path / "tree")


def test_aggregate_labels_counts():
    chain = complete_chain(leaves([0, 1, 1, 0]), nr_splits=2, min_codes=None)
    Y = sp.csr_matrix(np.array([[1, 1, 1, 0], [0, 0, 0, 1]], np.float32))
    top, leaf = aggregate_labels(Y, chain)
    assert top.toarray().tolist() == [[1, 2], [1, 0]] and (leaf != Y).nnz == 0
    with pytest.raises(ValueError, match="3 labels"):
        aggregate_labels(Y[:, :3], chain)


def test_entries_out_of_range_are_refused(tmp_path):
    damaged = leaves([0, 1, 1, 0])
    damaged.indices[1] = 7
    chain = complete_chain(leaves([0, 1, 1, 0]), nr_splits=2, min_codes=None)
    with pytest.raises(ValueError, match="here: C1: the index 7 is outside of 0 to 3"):
        check_chain([chain[0], damaged], "here")
    sp.save_npz(tmp_path / "codes.npz", damaged)
    with pytest.raises(ValueError, match=r"codes\.npz.*the index 7 is outside"):
        load_chain(tmp_path / "codes.npz")
    chain[1].data[0] = np.nan
    with pytest.raises(ValueError, match="here: C1: row 0 holds NaN"):
        check_chain(chain, "here")


def test_a_lone_leaf_matrix_is_completed(tmp_path):
    C = leaves(np.arange(40) % 20)
    sp.save_npz(tmp_path / "codes.npz", C.tocsr())
    assert [M.shape for M in load_chain(tmp_path / "codes.npz")] == [(2, 1), (20, 2), (40, 20)]
    chain = load_chain(tmp_path / "codes.npz", nr_splits=2, min_codes=8)
    for M, expected in zip(chain, complete_chain(C, nr_splits=2, min_codes=8), strict=True):
        assert M.format == "csc" and M.shape == expected.shape and (expected != M).nnz == 0


def binary_tree():
    """8 labels in 4 leaf clusters of 2 in 2 clusters under the root."""
    return complete_chain(leaves(np.arange(8) // 2), nr_splits=2, min_codes=None)


def slow_matching_chain(matches, chain):
    """Dense 0/1 matrices, bottom up."""
    current = np.zeros((5, 8)) if 0 not in matches else matches[0].toarray() != 0
    given, levels = 0 in matches, []
    for height in range(1, len(chain) + 1):
        current = (current @ chain[-height].toarray()) > 0
        if height in matches:
            current, given = current | (matches[height].toarray() != 0), True
        levels.insert(0, current if given else None)
    return levels


@pytest.mark.parametrize("heights", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 3), ()])
def test_matches_are_pushed_up_the_tree(heights):
    chain = binary_tree()
    widths = [8, 4, 2, 1]
    matches = {k: sp.random(5, widths[k], 0.3, format="csr", random_state=k) * -2 for k in heights}
    levels, expected = matching_chain(matches, chain), slow_matching_chain(matches, chain)
    assert len(levels) == len(chain) == 3
    for M, slow in zip(levels, expected, strict=True):
        assert (M is None) == (slow is None)
        if M is not None:
            assert M.format == "csr" and M.dtype == np.float32 and (M.toarray() == slow).all()


def test_matches_that_do_not_fit_are_refused():
    chain = binary_tree()
    assert matching_chain({0: None}, chain) == [None] * 3
    with pytest.raises(ValueError, match="height 4"):
        matching_chain({4: sp.csr_matrix((5, 8))}, chain)
    with pytest.raises(ValueError, match="height 1 have 8 columns, the chain 4"):
        matching_chain({1: sp.csr_matrix((5, 8))}, chain)
    with pytest.raises(ValueError, match="0: 5, 1: 6"):
        matching_chain({0: sp.csr_matrix((5, 8)), 1: sp.csr_matrix((6, 4))}, chain)


def test_parts_of_a_tree():
    chain = binary_tree()
    Y = sp.csr_matrix(np.array([[1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]], np.float32))
    assert part_of_tree("full-model", 1, Y, chain) == (Y, chain)
    Y_top, top = part_of_tree("matcher", 1, Y, chain)
    assert [C.shape for C in top] == [(2, 1), (4, 2)] and Y_top.toarray().tolist() == [[2, 1, 0, 0], [0, 0, 0, 1]]
    Y_top, top = part_of_tree("matcher", 2, Y, chain)
    assert [C.shape for C in top] == [(2, 1)] and Y_top.toarray().tolist() == [[3, 0], [0, 1]]
    Y_bottom, bottom = part_of_tree("ranker", 2, Y, chain)
    assert [C.shape for C in bottom] == [(4, 2), (8, 4)] and Y_bottom is Y
    for level in (0, 3):
        with pytest.raises(ValueError, match=f"ranker_level={level}"):
            part_of_tree("ranker", level, Y, chain)
    with pytest.raises(ValueError, match="'half'"):
        part_of_tree("half", 1, Y, chain)
