"""Model folders both ways: PECOS's are read and predicted with here, ours there, with the same scores."""

import shutil

import numpy as np
import pytest
import scipy.sparse as sp
from problems import L, assert_same_scores, data, queries, tree

from xrt_jax.xlinear.folder import load_ranker, save_ranker
from xrt_jax.xlinear.postprocess import POST_PROCESSORS
from xrt_jax.xlinear.predict import predict, predict_selected
from xrt_jax.xlinear.train import train_ranker, train_to_folder

BEAMS = (1, 2, 10, L)
LAYOUTS = ("BINARY_SEARCH_CHUNKED", "HASH_CHUNKED", "CSC")
# l3-hinge steers the beam, the leaves give raw margins: the setting that published XR-Transformer models have
PUBLISHED = [{"only_topk": 3}, {"only_topk": 5}, {"only_topk": 12, "post_processor": "noop"}]


def both_kinds():
    """The queries as csr and as ndarray."""
    return {"sparse": queries(), "dense": queries().toarray()}


@pytest.fixture(scope="module")
def theirs(pecos, tmp_path_factory):
    """A folder that PECOS trained and saved."""
    folder = tmp_path_factory.mktemp("theirs") / "model"
    X, Y = data()
    pecos("train", folder=folder, X=X, Y=Y, chain=tree(), beam=PUBLISHED)
    return folder


@pytest.fixture(scope="module")
def ours(pecos, tmp_path_factory):
    """Folders that we trained: kept in memory and saved, and straight to disk."""
    folder = tmp_path_factory.mktemp("ours")
    X, Y = data()
    settings = {"only_topk": (3, 5, 12), "post_processor": ("l3-hinge", "l3-hinge", "noop"), "bias": 0.5}
    save_ranker(folder / "saved", train_ranker(X, Y, tree(), **settings))
    train_to_folder(folder / "straight", X, Y, tree(), **settings)
    return folder


# ---------------------------------------------------------------------------- PECOS's, read here


@pytest.mark.parametrize("post_processor", POST_PROCESSORS)
@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_we_predict_as_pecos_with_its_model(pecos, theirs, post_processor, kind):
    X, ranker = both_kinds()[kind], load_ranker(theirs)
    assert len(ranker) == 3
    for beam in BEAMS:
        settings = {"beam_size": beam, "only_topk": 10, "post_processor": post_processor}
        expected = pecos("predict", folder=theirs, X=X, **settings)
        assert np.diff(expected.indptr).max() > 2
        assert_same_scores(predict(ranker, X, **settings), expected)


def test_each_level_has_its_own_settings(pecos, theirs):
    ranker = load_ranker(theirs)
    assert [(level.only_topk, level.post_processor) for level in ranker] == [
        (3, "l3-hinge"),
        (5, "l3-hinge"),
        (12, "noop"),
    ]
    for X in both_kinds().values():
        assert_same_scores(predict(ranker, X), pecos("predict", folder=theirs, X=X))


@pytest.mark.parametrize("bias", [1.0, 0.5, 0.0, -1.0])
def test_bias(pecos, tmp_path, bias):
    X, Y = data()
    pecos("train", folder=tmp_path / "model", X=X, Y=Y, chain=tree(), solver=[{"bias": bias}])
    ranker = load_ranker(tmp_path / "model")
    assert [level.W.shape[0] - X.shape[1] for level in ranker] == [int(bias > 0)] * 3
    assert_same_scores(predict(ranker, queries()), pecos("predict", folder=tmp_path / "model", X=queries()))


def test_the_first_level_without_its_clusters(pecos, theirs, tmp_path):
    whole = pecos("predict", folder=theirs, X=queries())
    shutil.copytree(theirs, tmp_path / "model")
    (tmp_path / "model" / "ranker" / "0.model" / "C.npz").unlink()
    assert_same_scores(predict(load_ranker(tmp_path / "model"), queries()), whole)
    for layout in LAYOUTS:
        assert_same_scores(pecos("predict", folder=tmp_path / "model", X=queries(), layout=layout), whole)


@pytest.mark.parametrize("post_processor", [None, *POST_PROCESSORS])
def test_selected_labels(pecos, theirs, post_processor):
    selected = sp.random(60, L, 0.2, format="csr", dtype=np.float32, random_state=3)
    selected.data[::7] = 0  # the pattern counts
    settings = {} if post_processor is None else {"post_processor": post_processor}
    for X in both_kinds().values():
        found = predict_selected(load_ranker(theirs), X, selected, **settings)
        assert_same_scores(found, pecos("predict", folder=theirs, X=X, selected=selected, **settings))
        assert found.nnz == selected.nnz


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("post_processor", ["l3-hinge", "log-sigmoid", "noop"])
def test_search_from_codes(pecos, theirs, tmp_path, first, post_processor):
    """The levels from `first` on as a model of their own; scores of codes are combined with the first one's."""
    ranker = load_ranker(theirs)[first:]
    save_ranker(tmp_path / "model", ranker)
    width = ranker[0].C.shape[1]
    codes = sp.random(60, width, 1.0 if width == 1 else 0.4, format="csr", dtype=np.float32, random_state=4)
    settings = {"codes": codes, "beam_size": 4, "only_topk": 8, "post_processor": post_processor}
    for X in both_kinds().values():
        expected = pecos("predict", folder=tmp_path / "model", X=X, **settings)
        assert_same_scores(predict(ranker, X, **settings), expected)


# ---------------------------------------------------------------------------- ours, read there


@pytest.mark.parametrize("layout", [None, *LAYOUTS])
@pytest.mark.parametrize("name", ["saved", "straight"])
def test_pecos_predicts_as_we_with_our_model(pecos, ours, name, layout):
    """A layout: PECOS's prediction-only model in C++; None: its model in Python."""
    ranker = load_ranker(ours / name)
    for kind, X in both_kinds().items():
        tol = 3e-6 if layout == "HASH_CHUNKED" and kind == "dense" else 1e-6
        for settings in (
            {},
            {"beam_size": 2, "only_topk": 7, "post_processor": "l4-hinge"},
            {"beam_size": L, "only_topk": L, "post_processor": "log-sigmoid"},
        ):
            found = pecos("predict", folder=ours / name, X=X, layout=layout, **settings)
            assert_same_scores(predict(ranker, X, **settings), found, tol)


def test_both_of_our_folders_hold_one_model(ours):
    for a, b in zip(load_ranker(ours / "saved"), load_ranker(ours / "straight"), strict=True):
        assert a.W.nnz > 100 and (a.W != b.W).nnz == 0 and a[2:] == b[2:] and a.bias == 0.5
