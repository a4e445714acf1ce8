"""Brings in the compiled kernels before they are needed: compiled on the first run, later read from numba's cache."""

import numpy as np
import scipy.sparse as sp

from xrt_jax.sparse import Features
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.label_embedding import pifa_product
from xrt_jax.xlinear.predict import predict
from xrt_jax.xlinear.train import train_ranker


def load_kernels(has_sparse: bool, has_dense: bool, progress=None) -> None:
    """Cluster, train and predict on a tiny problem with features that have these parts.

    progress: called as progress(total, description).
    """
    # Leaf clusters hold a sixteenth of the instances, so that their rows are copied, as most are in real problems.
    sparse = sp.csr_matrix(np.tile(np.eye(8, 4, dtype=np.float32), (4, 1)))
    tiny = Features(sparse if has_sparse else None, sparse.toarray() if has_dense else None)
    Y = sp.csr_matrix(np.eye(32, dtype=np.float32))
    bar = progress(3, "compiled code") if progress else None
    done = bar.update if bar else lambda n: None
    chain = hierarchical_kmeans(pifa_product(Y, tiny), nr_splits=2, max_leaf_size=2)
    done(1)
    ranker = train_ranker(tiny, Y, chain)
    done(1)
    predict(ranker, tiny)
    done(1)
    if bar:
        bar.close()
