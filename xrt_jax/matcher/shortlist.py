"""Shortlists: which labels of a level an instance is trained on and scored against.

A shortlist is stated by clusters of the level above: its labels are the children of the instance's clusters, and in
training also its positives. For a head that is computed whole the clusters travel to the device as a few integers an
instance, and the mask over the whole level is made there (Packed). Otherwise the host lists the labels (Listed).
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


class Listed(NamedTuple):
    """The shortlists of one batch, label by label; unused places hold an index past the end."""

    rows_u: np.ndarray  # int32, the labels that any of the shortlists holds, ascending
    slots_bw: np.ndarray  # int32, where in rows_u the labels of each shortlist are
    values_bw: np.ndarray  # float32, the label's value in Y for a positive, 0 for a negative


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


def children(C: csc_matrix) -> csr_matrix:
    """csr [clusters, labels]: the labels of each cluster."""
    return _pattern(C.T.tocsr())


def list_labels(
    Y: csr_matrix, M: csr_matrix, children_kl: csr_matrix, rows: np.ndarray, *, most: int, nr_rows: int, seed
) -> Listed:
    """Shortlists of the instances `rows`, of at most `most` labels each (0: of all).

    A longer one keeps its positives and a random draw of the others, which `seed` (of numpy's default_rng) decides.
    nr_rows: rows of the head, from which on an index means none. Widths are powers of two: few shapes, to be compiled.
    """
    A, Y = M[rows] @ children_kl, Y[rows].copy()
    A.data[:] = 1.0
    Y.sort_indices()
    values, Y.data = Y.data, np.full_like(Y.data, 2.0)
    A = (A + Y).tocsr()
    A.sort_indices()
    is_positive = A.data > 1
    A.data[:] = 0.0
    A.data[is_positive] = values
    if most and A.nnz and np.diff(A.indptr).max() > most:
        A = _thinned(A, is_positive, most, seed)
    rows_u, slots = np.unique(A.indices, return_inverse=True)
    width_u, width = min(_power_of_two(len(rows_u)), nr_rows), _power_of_two(np.diff(A.indptr).max(initial=1))
    used = np.arange(width) < np.diff(A.indptr)[:, None]
    slots_bw = np.full(used.shape, width_u, np.int32)
    values_bw = np.zeros(used.shape, np.float32)
    slots_bw[used], values_bw[used] = slots, A.data
    return Listed(np.pad(rows_u, (0, width_u - len(rows_u)), constant_values=nr_rows), slots_bw, values_bw)


def _thinned(A: csr_matrix, is_positive: np.ndarray, most: int, seed) -> csr_matrix:
    """A with at most `most` entries a row: the positives, even if more, and a random draw of the others."""
    row = np.repeat(np.arange(A.shape[0]), np.diff(A.indptr))
    rank = np.where(is_positive, -1.0, np.random.default_rng(seed).random(A.nnz))
    order = np.lexsort((rank, row))
    place = np.empty(A.nnz, np.int64)
    place[order] = np.arange(A.nnz) - A.indptr[row[order]]
    kept = is_positive | (place < most)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row[kept], minlength=A.shape[0]))])
    return csr_matrix((A.data[kept], A.indices[kept], indptr), A.shape)


def _power_of_two(n: int) -> int:
    """The smallest one that is n or more."""
    return 1 << max(0, int(n) - 1).bit_length()


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
