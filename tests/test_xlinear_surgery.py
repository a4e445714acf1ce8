import numpy as np
import pytest
import scipy.sparse as sp
from test_xlinear_predict import L, queries, random_ranker

from xrt_jax.xlinear.postprocess import POST_PROCESSORS
from xrt_jax.xlinear.predict import predict
from xrt_jax.xlinear.surgery import join, restrict_labels, split_at, submodel


def full(ranker, X, **more):
    nr_labels = ranker[-1].C.shape[0]
    return predict(ranker, X, beam_size=nr_labels + L, only_topk=nr_labels, **more).toarray()


@pytest.mark.parametrize("labels", [[], [7], [0, 5, 5, 39], list(range(L))])
def test_restricted_labels_keep_their_scores(labels):
    ranker, X = random_ranker(), queries()
    restricted = restrict_labels(ranker, labels)
    expected = np.zeros((25, L), np.float32)
    expected[:, labels] = full(ranker, X)[:, labels]
    np.testing.assert_allclose(full(restricted, X), expected, rtol=1e-5)
    assert [level.C.shape for level in restricted] == [level.C.shape for level in ranker]
    narrow = predict(restricted, X, beam_size=1, only_topk=L)
    assert set(narrow.indices) <= set(labels)
    assert narrow.nnz >= 25 * bool(labels)  # even a narrow beam ends in a label


def test_wrong_labels_are_refused():
    for labels in ([L], [-1], [0.5], [[1]], ["a"]):
        with pytest.raises(ValueError, match="labels must be"):
            restrict_labels(random_ranker(), labels)


@pytest.mark.parametrize("name", POST_PROCESSORS)
def test_split_and_join(name):
    ranker, X = random_ranker(post_processor=name), queries()
    for depth in (1, 2):
        upper, lower = split_at(ranker, depth)
        assert (len(upper), len(lower)) == (depth, 3 - depth)
        codes = predict(upper, X, beam_size=L, only_topk=L)
        np.testing.assert_allclose(full(lower, X, codes=codes), full(ranker, X), rtol=1e-6)
        np.testing.assert_array_equal(full(join(upper, lower), X), full(ranker, X))
    for depth in (0, 3, 1.0):
        with pytest.raises(ValueError, match="depth="):
            split_at(ranker, depth)
    with pytest.raises(ValueError, match="end in 9 nodes, the lower ones start from 3"):
        join(ranker[:2], ranker[1:])
    other = random_ranker()[2]._replace(W=sp.csc_matrix((12, L), dtype=np.float32))
    with pytest.raises(ValueError, match="30 features, the lower ones 11"):
        join(ranker[:2], [other])


def test_submodel():
    ranker, X = random_ranker(post_processor="noop"), queries()
    scores = full(ranker, X)
    for depth, nr_nodes in ((0, 1), (1, 3), (2, 9)):
        seen = []
        for node in range(nr_nodes):
            below, labels = submodel(ranker, depth, node)
            assert len(below) == 3 - depth and below[0].C.shape[1] == 1
            np.testing.assert_allclose(full(below, X), scores[:, labels], rtol=1e-6)
            seen += labels.tolist()
        assert sorted(seen) == list(range(L))


def test_submodel_steers_by_the_levels_below():
    ranker, X = random_ranker(), queries()
    node = 1
    below, labels = submodel(ranker, 1, node)
    above = predict(ranker[:1], X, only_topk=L).toarray()[:, [node]]
    np.testing.assert_allclose(full(below, X) * above, full(ranker, X)[:, labels], rtol=1e-5)


def test_wrong_nodes_are_refused():
    ranker = random_ranker()
    for depth, node in ((3, 0), (-1, 0), (0, 1), (1, 3), (1, -1), (1, 0.0)):
        with pytest.raises(ValueError, match="must be an integer from 0 to"):
            submodel(ranker, depth, node)
    with pytest.raises(ValueError, match="no label below"):
        submodel(restrict_labels(ranker, []), 1, 0)
