"""Labels in the forms that scikit-learn's users give them."""

import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.estimators.targets import CLASSES, DENSE, NAMES, SPARSE, indicator, read_target

ROWS = [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
NAMED = [["a", "c"], ["b"], []]


@pytest.mark.parametrize(
    ("y", "kind", "classes"),
    [
        (np.array(ROWS), DENSE, [0, 1, 2]),
        (ROWS, DENSE, [0, 1, 2]),
        (sp.csr_matrix(ROWS), SPARSE, [0, 1, 2]),
        (sp.csc_array(0.5 * np.array(ROWS)), SPARSE, [0, 1, 2]),
        (NAMED, NAMES, ["a", "b", "c"]),
        ([set(names) for names in NAMED], NAMES, ["a", "b", "c"]),
        ([[], ("a", "c", "a"), np.array(["b"])][1:] + [[]], NAMES, ["a", "b", "c"]),
    ],
)
def test_every_form_is_one_indicator_matrix(y, kind, classes):
    target, Y = read_target(y)
    assert target.kind == kind and target.classes.tolist() == classes
    assert Y.dtype == np.float32 and Y.toarray().tolist() == ROWS
    assert (indicator(target, y) != Y).nnz == 0


@pytest.mark.parametrize("y", [["x", "z", "y", "x"], np.array([3, 9, 5, 3]), np.array([[0], [2], [1], [0]])])
def test_a_class_a_row(y):
    target, Y = read_target(np.asarray(y).ravel())
    assert target.kind == CLASSES
    assert Y.toarray().tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_what_fit_did_not_see_is_left_out():
    target, _ = read_target(NAMED)
    assert indicator(target, [["c", "new"], ["new"]]).toarray().tolist() == [[0, 0, 1], [0, 0, 0]]
    target, _ = read_target(["a", "b"])
    assert indicator(target, ["b", "new"]).toarray().tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "the target y is None"),
        ([["a"], "b"], r"row 1 is 'b'; each row must be a list of label names"),
        ([["a"], [3]], "row 1 is"),
        ([[0, 2], [1, 0]], "an indicator matrix of zeros and ones"),
        (sp.csr_matrix([[1, -1]]), "a negative value"),
        (np.zeros((2, 3)), "no row has a label"),
        (np.array([0.1, 0.2]), "Unknown label type"),
        (np.array([0.0, np.nan]), "NaN"),
    ],
)
def test_what_is_refused(y, message):
    with pytest.raises(ValueError, match=message):
        read_target(y)


def test_another_form_than_fitted_is_refused():
    target, _ = read_target(NAMED)
    with pytest.raises(ValueError, match="y is an indicator matrix, but the estimator was fitted on a list of names"):
        indicator(target, np.array(ROWS))
    target, _ = read_target(np.array(ROWS))
    with pytest.raises(ValueError, match="y has 2 columns, but the estimator was fitted on 3"):
        indicator(target, np.array(ROWS)[:, :2])
