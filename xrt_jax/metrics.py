"""Ranking metrics on CSR matrices: P@k, R@k, nDCG@k, PSP@k.

Everywhere `Y_true` [n, L] is the truth by its stored pattern and `P` [n, L] holds scores; a row of P is ranked by
descending score, ties by the lower label id, and need not be sorted. A row with fewer than k scores has no hit beyond
them.
"""

import numpy as np

from xrt_jax.sparse import canonical, find_entries, row_ids


def _check_shapes(Y_true, P) -> None:
    if Y_true.shape != P.shape:
        raise ValueError(
            f"truth has the shape {Y_true.shape}, predictions {P.shape}: both need the same rows and labels"
        )


def _ranked_hits(Y_true, P, k: int) -> tuple[np.ndarray, np.ndarray]:
    """hit [n, k]: 1 where the label at that rank is true; label [n, k]: its id (0 where there is none)."""
    _check_shapes(Y_true, P)
    Y, P = canonical(Y_true, "csr"), canonical(P, "csr")
    row = row_ids(P)
    order = np.lexsort((P.indices, -P.data, row))
    rank = np.arange(P.nnz) - P.indptr[row]
    kept = rank < k
    row, rank, label = row[kept], rank[kept], P.indices[order][kept]
    hit_nk, label_nk = np.zeros((P.shape[0], k)), np.zeros((P.shape[0], k), np.int64)
    hit_nk[row, rank] = find_entries(Y, row, label) >= 0
    label_nk[row, rank] = label
    return hit_nk, label_nk


def _nr_true(Y_true) -> np.ndarray:
    return np.diff(canonical(Y_true, "csr").indptr)


def precision_recall(Y_true, P, k: int = 10) -> dict[str, np.ndarray]:
    """P@1..k and R@1..k as fractions, as PECOS counts them.

    Args:
        Y_true: csr [n, L].
        P: csr [n, L].
        k: deepest rank.

    Returns:
        {"prec": float64 [k], "recall": float64 [k]}; recall divides by max(1, number of true labels).
    """
    hits_nk = _ranked_hits(Y_true, P, k)[0].cumsum(axis=1)
    true_n = np.maximum(1, _nr_true(Y_true))
    return {"prec": hits_nk.mean(axis=0) / np.arange(1, k + 1), "recall": (hits_nk / true_n[:, None]).mean(axis=0)}


def ndcg(Y_true, P, k: int = 10) -> np.ndarray:
    """nDCG@1..k float64 [k]: gain 1, discount 1 / log2(rank + 1), mean over rows; a row without labels counts 0."""
    hit_nk, _ = _ranked_hits(Y_true, P, k)
    discount_k = 1.0 / np.log2(np.arange(2, k + 2))
    ideal_nk = np.where(np.arange(k) < _nr_true(Y_true)[:, None], discount_k, 0.0).cumsum(axis=1)
    dcg_nk = (hit_nk * discount_k).cumsum(axis=1)
    return (dcg_nk / np.where(ideal_nk > 0, ideal_nk, 1.0)).mean(axis=0)


def inverse_propensity(Y_trn, A: float = 0.55, B: float = 1.5) -> np.ndarray:
    """1 / propensity of every label, float64 [L] (Jain, Prabhu and Varma 2016).

    It is 1 + C (N_l + B)^-A with C = (ln N - 1)(B + 1)^A;
    N rows and N_l positives are those of the training labels `Y_trn` [N, L].
    """
    count_l = np.diff(canonical(Y_trn, "csc").indptr)
    C = (np.log(Y_trn.shape[0]) - 1) * (B + 1) ** A
    return 1 + C * (count_l + B) ** -A


def psp(Y_true, P, k: int, inverse_propensity: np.ndarray) -> np.ndarray:
    """Propensity-scored P@1..k float64 [k], normalised: the hits' inverse propensities over the best possible ones.

    Both are summed over all rows before the division.

    Args:
        Y_true: csr [n, L].
        P: csr [n, L].
        k: deepest rank.
        inverse_propensity: float [L], of training labels.
    """
    hit_nk, label_nk = _ranked_hits(Y_true, P, k)
    gained_k = (hit_nk * inverse_propensity[label_nk]).sum(axis=0).cumsum()
    Y = canonical(Y_true, "csr")
    ideal = Y.copy()
    ideal.data = inverse_propensity[Y.indices].astype(np.float64)
    hit_nk, label_nk = _ranked_hits(Y, ideal, k)
    best_k = (hit_nk * inverse_propensity[label_nk]).sum(axis=0).cumsum()
    return gained_k / np.where(best_k > 0, best_k, 1.0)


def format_table(rows: dict[str, dict[str, np.ndarray]]) -> str:
    """P@1..k of every model, then R@1..k, in percent; `rows` maps a model's name to precision_recall's result."""
    k = len(next(iter(rows.values()))["prec"])
    lines = [["percent", *(f"@{i}" for i in range(1, k + 1))]]
    for metric in ("prec", "recall"):
        initial = metric[0].upper()
        lines += [[f"{initial}  {name}", *(f"{100 * v:.2f}" for v in m[metric])] for name, m in rows.items()]
    width = max(len(line[0]) for line in lines)
    return "\n".join("  ".join([line[0].ljust(width), *(cell.rjust(6) for cell in line[1:])]) for line in lines)
