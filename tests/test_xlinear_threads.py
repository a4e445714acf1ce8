"""The bits of everything that XR-Linear makes do not depend on the number of threads."""

import os
import subprocess
import sys

import pytest

# With few rows a thread's share is small, so that every number of threads cuts the work in other places.
PROGRAM = """
import sys, tempfile
from pathlib import Path
import numpy as np, scipy.sparse as sp
from xrt_jax.sparse import Features
from xrt_jax.tree import kmeans
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.label_embedding import pifa_product
from xrt_jax.xlinear.folder import load_ranker
from xrt_jax.disk import fingerprint
from xrt_jax.xlinear.predict import predict, predict_selected
from xrt_jax.xlinear.train import train_to_folder

kmeans.LARGE_NODE = 100  # nodes are split in both ways
rng = np.random.default_rng(0)
draw = lambda n, d, share: sp.random(n, d, share, format="csr", dtype=np.float32, random_state=rng)
X, Y = Features(draw(700, 300, 0.1), rng.random((700, 5), np.float32)), draw(700, 250, 0.02)
product = pifa_product(Y, X)
chain = hierarchical_kmeans(product, nr_splits=4, max_leaf_size=8)
with tempfile.TemporaryDirectory() as folder:
    train_to_folder(Path(folder) / "m", X, Y, chain, negative_sampling=("tfn+man",))
    ranker = load_ranker(Path(folder) / "m")
P, Q = predict(ranker, X), predict_selected(ranker, X, Y)
matrices = [product.Z.sparse, *chain, *(level.W for level in ranker), P, Q]
print(fingerprint(product.Z.dense, *(a for A in matrices for a in (A.indptr, A.indices, A.data))))
"""


def fingerprint_with(threads: int) -> str:
    environment = os.environ | {"NUMBA_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture(scope="module")
def with_one_thread() -> str:
    return fingerprint_with(1)


@pytest.mark.parametrize("threads", [2, 3, 5, 16])
def test_same_bits_for_any_number_of_threads(threads, with_one_thread):
    assert fingerprint_with(threads) == with_one_thread
