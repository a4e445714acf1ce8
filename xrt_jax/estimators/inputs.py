"""Texts and seeds as scikit-learn's users give them."""

from numbers import Integral

import scipy.sparse as sp
from sklearn.utils import check_random_state


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


def check_validation(validation) -> None:
    if validation is not None and not (isinstance(validation, (tuple, list)) and len(validation) == 2):
        raise ValueError("validation must be a pair (X, y), or None")


def seed_of(random_state) -> int:
    """A seed for this package of what scikit-learn calls a random_state."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
