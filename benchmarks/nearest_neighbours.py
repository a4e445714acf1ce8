"""What a data folder gives without training: TF-IDF nearest neighbours, and the most popular labels.

    python benchmarks/nearest_neighbours.py DIR [--neighbours=15]

Prints P@1/3/5 in percent on the test split. Neighbours vote for their labels with their cosine similarity.
"""

import argparse

import numpy as np
import scipy.sparse as sp

from xrt_jax.data.folders import load_dataset
from xrt_jax.data.tfidf import fit_tfidf, transform


def nearest_neighbour_scores(Z: sp.csr_matrix, X: sp.csr_matrix, Y: sp.csr_matrix, neighbours: int) -> np.ndarray:
    """Label scores [len(Z), L] of queries Z from training rows X with labels Y; rows of Z and X have norm 1."""
    similarity = (Z @ X.T).toarray()
    others = np.argpartition(-similarity, min(neighbours, X.shape[0]) - 1, axis=1)[:, neighbours:]
    np.put_along_axis(similarity, others, 0, axis=1)
    return sp.csr_matrix(similarity) @ Y


def precision(Y: sp.csr_matrix, scores: np.ndarray, ks: list[int]) -> list[float]:
    """P@k in percent of dense label scores [n, L]."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, : max(ks)]
    hits = np.take_along_axis(Y.toarray() > 0, order, axis=1)
    return [100 * hits[:, :k].mean() for k in ks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--neighbours", type=int, default=15)
    parser.add_argument("--trn_rows")
    parser.add_argument("--tst_rows")
    given = parser.parse_args()
    dataset = load_dataset(given.folder, trn_rows=given.trn_rows, tst_rows=given.tst_rows, dev_size=0)
    trn, tst, ks = dataset.trn, dataset.tst, [1, 3, 5]
    if trn.texts is None:
        X, Z = (split.X for split in (trn, tst))
        X, Z = (sp.diags(1 / np.maximum(sp.linalg.norm(matrix, axis=1), 1e-12)) @ matrix for matrix in (X, Z))
    else:
        tfidf, X = fit_tfidf(trn.texts)
        Z = transform(tfidf, tst.texts)

    results = []
    for start in range(0, Z.shape[0], 500):
        scores = nearest_neighbour_scores(Z[start : start + 500], X, trn.Y, given.neighbours).toarray()
        results.append((precision(tst.Y[start : start + 500], scores, ks), len(scores)))
    neighbours = np.average([found for found, _ in results], axis=0, weights=[size for _, size in results])
    popularity = np.asarray(trn.Y.sum(axis=0))
    popular = precision(tst.Y, np.repeat(popularity, tst.Y.shape[0], axis=0), ks)
    for name, found in ((f"{given.neighbours} nearest neighbours", neighbours), ("most popular labels", popular)):
        print(f"{name:24}" + "  ".join(f"P@{k} {value:5.2f}" for k, value in zip(ks, found, strict=True)))


if __name__ == "__main__":
    main()
