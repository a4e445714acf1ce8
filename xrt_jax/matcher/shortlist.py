"""Shortlists: which labels of a level an instance is trained on and scored against.

A shortlist is stated by clusters of the level above: its labels are the children of the instance's clusters, and in
training also its positives. The clusters travel to the device as a few integers an instance; the mask over the whole
level is made there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

SCHEMES = ("tfn", "man", "tfn+man")


class Packed(NamedTuple):
    """Rows of a CSR matrix at one fixed width, ready for static shapes; unused places hold an index past the end."""

    index: np.ndarray  # int32 [n, width]
    value: np.ndarray  # float32 [n, width]


def check_scheme(name: str) -> None:
    """ValueError for an unknown negative sampling scheme."""
    if name not in SCHEMES:
        raise ValueError(f"matcher.negative_sampling is {name!r}: choose one of {', '.join(SCHEMES)}")


def match_clusters(Y_parent: csr_matrix, M_pred: csr_matrix | None, scheme: str) -> csr_matrix:
    """Clusters whose labels an instance trains on, csr [n, clusters] of ones.

    tfn (teacher forcing) takes the clusters of the true labels, man (matcher-aware) those that the levels above
    predict, tfn+man both (XR-Transformer, section 3; as PECOS).
    """
    parts = [Y_parent] if "tfn" in scheme else []
    if "man" in scheme:
        parts.append(M_pred)
    M = sum(_pattern(part) for part in parts).tocsr()
    M.data[:] = 1.0
    return M


def _pattern(A: csr_matrix) -> csr_matrix:
    return csr_matrix((np.ones_like(A.data, np.float32), A.indices, A.indptr), A.shape)


def parent_of_label(C: csc_matrix) -> np.ndarray:
    """Parent cluster of each label, int32 [labels]; ValueError if a label has not exactly one."""
    rows = C.tocsr()
    if np.any(np.diff(rows.indptr) != 1):
        raise ValueError("every node of the label tree needs exactly one parent to be fine-tuned")
    return rows.indices.astype(np.int32)


def shortlist_width(M: csr_matrix, C: csc_matrix, Y: csr_matrix) -> int:
    """Number of labels in the longest training shortlist: children of the row's clusters, and its positives."""
    nr_children = np.asarray(C.sum(axis=0)).ravel()
    children = M @ nr_children  # [n]
    outside = np.diff(Y.indptr) - np.asarray(_pattern(Y).multiply(M @ C.T.tocsr() > 0).sum(axis=1)).ravel()
    return max(1, int(np.max(children + outside)))


def pack_rows(A: csr_matrix) -> Packed:
    """CSR rows at the width of the longest one; unused places hold an index that a scatter drops."""
    counts = np.diff(A.indptr)
    width = max(1, int(counts.max(initial=0)))
    used = np.arange(width) < counts[:, None]
    index = np.full(used.shape, A.shape[1] + 1, np.int32)
    value = np.zeros(used.shape, np.float32)
    index[used], value[used] = A.indices, A.data
    return Packed(index, value)


def unpack_rows(index_bk: jax.Array, value_bk: jax.Array, nr_columns: int) -> jax.Array:
    """Dense [b, nr_columns] on the device from packed rows; places past the end are dropped."""
    rows_b1 = jnp.arange(index_bk.shape[0])[:, None]
    dense = jnp.zeros((index_bk.shape[0], nr_columns), value_bk.dtype)
    return dense.at[rows_b1, index_bk].set(value_bk, mode="drop")
