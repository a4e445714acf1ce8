import json

import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.tree.chain import aggregate_labels, complete_chain, load_chain, save_chain, tree_sizes


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
