"""Label embeddings from which the label tree is clustered."""

import scipy.sparse as sp

from xrt_jax.sparse import (
    Features,
    as_features,
    canonical,
    inverse_or_one,
    normalize_rows,
    nr_rows,
    row_norms,
    scale_rows,
)


def pifa(Y, X, normalized_Y: bool = True):
    """Positive instance feature aggregation: unit rows of Z = Y^T X, with the rows of Y made unit first (as PECOS).

    Args:
        Y: sparse [n, L], values count.
        X: csr, ndarray or Features [n, d].
        normalized_Y: divide each row of Y by its L2 norm first.

    Returns:
        Z [L, d] of X's own type, float32; with two parts the norm is that of the whole row. A label without positives
        has a zero row.
    """
    parts = as_features(X)
    if Y.shape[0] != nr_rows(parts):
        raise ValueError(f"Y has {Y.shape[0]} rows, X has {nr_rows(parts)}: both need one row an instance")
    Yt = (normalize_rows(Y) if normalized_Y else canonical(Y, "csr")).T.tocsr()
    Z = Features(*(None if part is None else Yt @ part for part in parts))
    factor = inverse_or_one(row_norms(Z))
    Z = Features(*(None if part is None else scale_rows(part, factor) for part in Z))
    if isinstance(X, Features):
        return Z
    return canonical(Z.sparse, "csr") if sp.issparse(X) else Z.dense
