"""What a data folder gives without training: TF-IDF nearest neighbours, and the most popular labels.

    python benchmarks/nearest_neighbours.py DIR [--neighbours=15] [--trn_rows=FILE] [--tst_rows=FILE]

Prints P@1/3/5 in percent on the test split. Neighbours vote for their labels with their cosine similarity. A folder
without texts is compared by its own sparse features.
"""

import argparse

import numpy as np
import scipy.sparse as sp
from sklearn.preprocessing import normalize

from xrt_jax.data.folders import Dataset, load_dataset
from xrt_jax.data.tfidf import fit_tfidf, transform
from xrt_jax.metrics import precision_recall


def features(dataset: Dataset) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Training and test features, rows of L2 norm 1."""
    if dataset.trn.texts is None:
        return normalize(dataset.trn.X), normalize(dataset.tst.X)
    tfidf, X = fit_tfidf(dataset.trn.texts)
    return X, transform(tfidf, dataset.tst.texts)


def vote(Z: sp.csr_matrix, Xt: sp.csr_matrix, Y: sp.csr_matrix, neighbours: int) -> sp.csr_matrix:
    """Label scores [len(Z), L] of queries Z from their nearest columns of Xt [features, n], with labels Y [n, L]."""
    similarity = (Z @ Xt).toarray()
    others = np.argpartition(-similarity, min(neighbours, Xt.shape[1]) - 1, axis=1)[:, neighbours:]
    np.put_along_axis(similarity, others, 0, axis=1)
    return sp.csr_matrix(sp.csr_matrix(similarity) @ Y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--neighbours", type=int, default=15)
    parser.add_argument("--trn_rows")
    parser.add_argument("--tst_rows")
    given = parser.parse_args()
    dataset = load_dataset(given.folder, trn_rows=given.trn_rows, tst_rows=given.tst_rows, dev_size=0)
    X, Z = features(dataset)
    Xt, Y, Y_tst = X.T.tocsr(), dataset.trn.Y, dataset.tst.Y

    blocks = range(0, Z.shape[0], 500)
    voted = sp.vstack([vote(Z[start : start + 500], Xt, Y, given.neighbours) for start in blocks], format="csr")
    counts = np.asarray(Y.sum(axis=0)).ravel()
    counts[np.argsort(-counts, kind="stable")[5:]] = 0
    popular = sp.csr_matrix(np.ones((Z.shape[0], 1))) @ sp.csr_matrix(counts)
    for name, P in ((f"{given.neighbours} nearest neighbours", voted), ("most popular labels", sp.csr_matrix(popular))):
        precision = 100 * precision_recall(Y_tst, P, 5)["prec"]
        print(f"{name:24}" + "  ".join(f"P@{k} {precision[k - 1]:5.2f}" for k in (1, 3, 5)))


if __name__ == "__main__":
    main()
