import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.sparse import Features, as_features, feature_arrays
from xrt_jax.xlinear.instances import gather, stay_in_place


@pytest.mark.parametrize("rows", [[7, 2, 11], list(range(9)), list(range(15))])
@pytest.mark.parametrize("least", [1, 2])
@pytest.mark.parametrize("density, nr_common", [(0.1, 0), (0.02, 4)])
def test_gathered_rows_are_the_rows(rows, least, density, nr_common):
    """Shared and own entries together make the rows; own features occur in one row, frequent ones come first."""
    A = sp.random(50, 60, density, format="lil", dtype=np.float32, random_state=0)
    A[:, 10 : 10 + nr_common] = np.arange(1, 51)[:, None]  # few features with many entries: rows come in blocks
    A = A.tocsr()
    X = feature_arrays(as_features(Features(A, np.ones((50, 2)))))
    group = gather(X, np.array(rows), least)
    feature_at, own_feature = np.full(group.nr_places, -1), np.full(len(group.own_values), -1)
    for feature, place in zip(group.features, group.place, strict=True):
        if place >= 0:
            feature_at[place] = feature
        else:
            own_feature[-1 - place] = feature
    shown = np.zeros((len(rows), 60), np.float32)
    for i in range(len(rows)):
        span, own = slice(group.start[i], group.stop[i]), slice(group.own_ptr[i], group.own_ptr[i + 1])
        shown[i, feature_at[group.indices[span]]] = group.values[span]
        shown[i, own_feature[own]] = group.own_values[own]
    np.testing.assert_array_equal(shown, A[rows].toarray())
    assert (np.diff(group.features.astype(int)) > 0).all() and group.rows.tolist() == rows
    counts = (A[rows].toarray() != 0).sum(axis=0)
    if stay_in_place(len(rows), 50):
        assert len(own_feature) == 0 and group.nr_places == 60
        return
    assert set(group.features) == set(np.flatnonzero(counts)) and (np.diff(counts[feature_at]) <= 0).all()
    assert (
        counts[feature_at].min() >= least
        and (counts[own_feature] == 1).all()
        and (least == 1) == (len(own_feature) == 0)
    )
