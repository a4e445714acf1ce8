"""Labels as scikit-learn's users give them, as an indicator matrix and back."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, column_or_1d

# ways to give labels
CLASSES = "classes"  # 1-D, a class a row
DENSE = "dense"  # indicator matrix, ndarray
SPARSE = "sparse"  # indicator matrix, scipy sparse
NAMES = "names"  # a list of names a row


class Target(NamedTuple):
    """The labels that an estimator was fitted on.

    Attributes:
        kind: CLASSES, DENSE, SPARSE or NAMES.
        classes: ndarray [L], the label of each column: sorted unique classes or names (object), or column numbers.
    """

    kind: str
    classes: np.ndarray


def read_target(y) -> tuple[Target, sp.csr_matrix]:
    """What labels these are, and the indicator matrix, csr float32 [n, L].

    Args:
        y: 1-D, a class (number or string) a row; an indicator matrix [n, L], dense of zeros and ones with L ≥ 2, or
            sparse with values above 0; or a collection of names (str) a row.

    Raises:
        ValueError: anything else, or no row has a label.
    """
    kind, y = _kind_of(y)
    if kind == NAMES:
        classes = np.array(sorted({name for names in y for name in names}), dtype=object)
    elif kind == CLASSES:
        check_classification_targets(y)
        classes = np.unique(y)
    else:
        classes = np.arange(y.shape[1])
    Y = indicator(Target(kind, classes), y)
    if Y.nnz == 0:
        raise ValueError("y: no row has a label; there is nothing to learn")
    return Target(kind, classes), Y


def indicator(target: Target, y) -> sp.csr_matrix:
    """Labels as csr float32 [n, L] in the columns of a fitted target; classes and names that it lacks are left out.

    Raises:
        ValueError: labels of another form than those fitted, or another number of columns.
    """
    kind, y = _kind_of(y)
    forms = {CLASSES: "a class a row", NAMES: "a list of names a row"}
    given, fitted = (forms.get(each, "an indicator matrix") for each in (kind, target.kind))
    if given != fitted:
        raise ValueError(f"y is {given}, but the estimator was fitted on {fitted}: give the labels in that form")
    if kind in (DENSE, SPARSE):
        if y.shape[1] != len(target.classes):
            raise ValueError(f"y has {y.shape[1]} columns, but the estimator was fitted on {len(target.classes)}")
        return sp.csr_matrix(y > 0, dtype=np.float32)
    column = {label: j for j, label in enumerate(target.classes.tolist())}
    rows = y if kind == NAMES else [[label] for label in y.tolist()]
    known = [sorted({column[label] for label in labels if label in column}) for labels in rows]
    indptr = np.concatenate([[0], np.cumsum([len(columns) for columns in known], dtype=np.int64)])
    indices = np.array([j for columns in known for j in columns], np.int64)
    return sp.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=(len(rows), len(column)))


def _kind_of(y) -> tuple[str, object]:
    """How labels are given, and they as csr, ndarray or a list of collections, checked."""
    if y is None:
        raise ValueError("this classifier requires y to be passed, but the target y is None")
    if sp.issparse(y):
        y = check_array(y, accept_sparse="csr", input_name="y")
        if y.nnz and y.data.min() < 0:
            raise ValueError("y holds a negative value; labels must be values above 0")
        return SPARSE, y
    if _are_names(y):
        return NAMES, [_checked_names(row, names) for row, names in enumerate(y)]
    y = check_array(y, ensure_2d=False, dtype=None, input_name="y")
    if y.ndim < 2 or y.shape[1] == 1:
        return CLASSES, column_or_1d(y, warn=True)
    if y.ndim > 2 or y.dtype.kind not in "biuf" or not np.isin(y, (0, 1)).all():
        raise ValueError(
            "y with several columns must be an indicator matrix of zeros and ones; label names go into a list a row"
        )
    return DENSE, y


def _are_names(y) -> bool:
    """Whether y holds collections of which the first that is not empty begins with a string."""
    if getattr(y, "ndim", 1) != 1 or not hasattr(y, "__iter__"):
        return False
    first = next((row for row in y if _is_collection(row) and len(row)), None)
    return first is not None and isinstance(next(iter(first)), str)


def _is_collection(row) -> bool:
    return (isinstance(row, Collection) and not isinstance(row, (str, bytes))) or getattr(row, "ndim", 0) == 1


def _checked_names(row: int, names) -> list[str]:
    if not _is_collection(names) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"y: row {row} is {names!r}; each row must be a list of label names (str)")
    return [str(name) for name in names]
