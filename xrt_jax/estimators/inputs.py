"""Texts, features and seeds as scikit-learn's users give them."""

from numbers import Integral

import numpy as np
import scipy.sparse as sp
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from xrt_jax.estimators.targets import CLASSES, NAMES, Target
from xrt_jax.sparse import canonical, dense_float32


def are_texts(X) -> bool:
    """Whether X is a sequence that begins with a string."""
    if getattr(X, "ndim", 1) != 1 or sp.issparse(X) or not hasattr(X, "__len__") or not len(X):
        return False
    return isinstance(next(iter(X)), str)


def checked_texts(X) -> list[str]:
    """The texts as a list, each on one line; ValueError for anything but a sequence of strings."""
    if isinstance(X, str):
        raise ValueError("X is one string: give a list of texts")
    texts = list(X) if hasattr(X, "__iter__") and getattr(X, "ndim", 1) == 1 else None
    if texts is None:
        raise ValueError(f"X is no sequence of texts but {type(X).__name__}: give a list of strings")
    if not texts:
        raise ValueError("X holds no texts: give one or more")
    wrong = next((row for row, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise ValueError(f"X: row {wrong} is of the type {type(texts[wrong]).__name__}; each must be a text (str)")
    return [" ".join(text.splitlines()) for text in texts]


def checked_features(estimator, features, texts: list[str], *, reset: bool) -> sp.csr_matrix | np.ndarray:
    """Features [n, d] of n texts as csr or ndarray float32; ValueError if the rows are others than the texts.

    reset: as of scikit-learn's validate_data: whether the estimator is to remember number and names of the columns, or
    they must be those that it remembers.
    """
    features = validate_data(estimator, features, accept_sparse="csr", reset=reset)
    if features.shape[0] != len(texts):
        raise ValueError(
            f"features has {features.shape[0]} rows, but X {len(texts)} texts: row n must belong to text n"
        )
    if sp.issparse(features):
        return canonical(features, "csr", "features")
    return dense_float32(features, "features")


def refuse_features(features) -> None:
    """ValueError for features beside texts that an estimator has no use for."""
    if features is not None:
        raise ValueError("features are given, but the estimator predicts from the texts alone: leave them out")


def checked_validation(validation, features) -> tuple | None:
    """Validation data as (X, y, features or None); ValueError unless they have features just where fit has."""
    if validation is None:
        return None
    if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
        raise ValueError("validation must be (X, y), with features (X, y, features), or None")
    validation = (*validation, None)[:3]
    if (validation[2] is None) != (features is None):
        raise ValueError(
            "features are given for training or validation alone: give both, fit(X, y, features=F, "
            "validation=(X, y, F)), or none"
        )
    return validation


def check_label_texts(label_texts: str | None, target: Target, texts: list[str] | None, features) -> None:
    """ValueError unless label_texts is None, or "names" where labels have names and documents their texts alone."""
    if label_texts is None:
        return
    if label_texts != "names":
        raise ValueError(f"label_texts is {label_texts!r}: it must be 'names' or None")
    if texts is None or features is not None:
        raise ValueError("label_texts='names', but names of labels have no features: give texts alone, or None")
    if target.kind not in (NAMES, CLASSES) or not isinstance(target.classes[0], str):
        raise ValueError("label_texts='names', but the labels are numbers: give lists of names as y, or None")


def seed_of(random_state) -> int:
    """A seed for this package of what scikit-learn calls a random_state."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
