"""XR-Linear here against PECOS's, on the same TF-IDF features and tree parameters: P@1/3/5 and seconds.

    python benchmarks/xlinear_pecos.py DIR --pecos-python=PEERS/bin/python

PEERS is a virtual environment in which libpecos is installed; it is asked to train and predict in a process of its own.
Settings are PECOS's defaults: leaves of 100 labels, 16 splits, threshold 0.1, beam 10, 20 labels predicted.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.sparse import load_npz, save_npz

from xrt_jax.data.folders import load_dataset
from xrt_jax.data.tfidf import fit_tfidf, transform
from xrt_jax.metrics import precision_recall
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.label_embedding import pifa
from xrt_jax.xlinear.predict import predict
from xrt_jax.xlinear.train import train_ranker

BEAM, TOPK = 10, 20

PECOS = """
import json, sys, time
import numpy as np, scipy.sparse as sp
from pecos.xmc import Indexer, LabelEmbeddingFactory
from pecos.xmc.xlinear.model import XLinearModel
folder, beam, topk = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
X, Y, Xt = (sp.load_npz(f"{folder}/{name}.npz").astype(np.float32).tocsr() for name in ("X", "Y", "Xt"))
start = time.time()
chain = Indexer.gen(LabelEmbeddingFactory.create(Y, X, method="pifa"), nr_splits=16, max_leaf_size=100)
model = XLinearModel.train(X, Y, C=chain)
train = time.time() - start
model.save(f"{folder}/model")
model = XLinearModel.load(f"{folder}/model", is_predict_only=True, weight_matrix_type="HASH_CHUNKED")
start = time.time()
P = model.predict(Xt, beam_size=beam, only_topk=topk)
sp.save_npz(f"{folder}/P.npz", P)
print(json.dumps({"train": train, "predict": time.time() - start}))
"""


def train_here(X, Y, Xt):
    """(predictions, {"train": seconds, "predict": seconds})."""
    start = time.time()
    chain = hierarchical_kmeans(pifa(Y, X), nr_splits=16, max_leaf_size=100)
    ranker = train_ranker(X, Y, chain)
    trained = time.time()
    P = predict(ranker, Xt, beam_size=BEAM, only_topk=TOPK)
    return P, {"train": trained - start, "predict": time.time() - trained}


def train_pecos(python: str, X, Y, Xt):
    """As train_here, by PECOS."""
    with tempfile.TemporaryDirectory() as folder:
        for name, matrix in (("X", X), ("Y", Y), ("Xt", Xt)):
            save_npz(Path(folder) / f"{name}.npz", matrix)
        command = [python, "-c", PECOS, folder, str(BEAM), str(TOPK)]
        seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        return load_npz(Path(folder) / "P.npz"), json.loads(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="data-set folder in PECOS's layout")
    parser.add_argument("--pecos-python", required=True, help="python of an environment with libpecos")
    args = parser.parse_args()
    dataset = load_dataset(args.folder, dev_size=0)
    X, Xt = dataset.trn.X, dataset.tst.X
    if X is None:
        tfidf, X = fit_tfidf(dataset.trn.texts)
        Xt = transform(tfidf, dataset.tst.texts)
    Y, truth = dataset.trn.Y, dataset.tst.Y
    print(f"{X.shape[0]:,} x {X.shape[1]:,} features, {X.nnz / X.shape[0]:.0f} a row, {Y.shape[1]:,} labels")
    for name, run in (
        ("pecos", lambda: train_pecos(args.pecos_python, X, Y, Xt)),
        ("xrt_jax", lambda: train_here(X, Y, Xt)),
    ):
        P, seconds = run()
        prec = 100 * precision_recall(truth, P, 5)["prec"][[0, 2, 4]]
        shown = "  ".join(f"{value:5.2f}" for value in np.round(prec, 2))
        print(
            f"{name:8} P@1/3/5 {shown}   train {seconds['train']:7.1f} s  predict {seconds['predict']:6.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
