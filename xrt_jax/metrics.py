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


def ranked_labels(P, k: int) -> np.ndarray:
    """The k best labels of each row, best first: int64 [n, k], -1 where a row has fewer."""
    P = canonical(P, "csr")
    row = row_ids(P)
    order = np.lexsort((P.indices, -P.data, row))
    rank = np.arange(P.nnz) - P.indptr[row]
    kept = rank < k
    label_nk = np.full((P.shape[0], k), -1, np.int64)
    label_nk[row[kept], rank[kept]] = P.indices[order][kept]
    return label_nk


def _ranked_hits(Y_true, P, k: int) -> tuple[np.ndarray, np.ndarray]:
    """hit [n, k]: 1 where the label at that rank is true; label [n, k]: its id (-1 where there is none)."""
    _check_shapes(Y_true, P)
    label_nk = ranked_labels(P, k)
    row, rank = np.nonzero(label_nk >= 0)
    hit_nk = np.zeros(label_nk.shape)
    hit_nk[row, rank] = find_entries(canonical(Y_true, "csr"), row, label_nk[row, rank]) >= 0
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


def by_frequency(Y_trn, Y_true, P, k: int = 5, nr_groups: int = 10) -> list[dict]:
    """Precision and recall at k of labels of about equal frequency, rare ones first.

    Args:
        Y_trn: csr [N, L], whose columns' stored entries are the frequencies.
        Y_true, P: csr [n, L].
        k: deepest rank.
        nr_groups: groups of labels, of equal size, by frequency; fewer where there are fewer labels.

    Returns:
        A dict a group: least, most (training rows a label), labels, true (entries of Y_true), prec (share of right ones
        among its labels in the top k) and recall (share of its true entries in the top k); nan where there are none.
    """
    count_l = np.diff(canonical(Y_trn, "csc").indptr)
    parts = [part for part in np.array_split(np.argsort(count_l, kind="stable"), nr_groups) if len(part)]
    group_l = np.empty(len(count_l), np.int64)
    for number, part in enumerate(parts):
        group_l[part] = number
    hit_nk, label_nk = _ranked_hits(Y_true, P, k)
    group_nk = group_l[label_nk[label_nk >= 0]]
    shown = np.bincount(group_nk, minlength=len(parts))
    right = np.bincount(group_nk, weights=hit_nk[label_nk >= 0], minlength=len(parts))
    true = np.bincount(group_l[canonical(Y_true, "csr").indices], minlength=len(parts))
    with np.errstate(invalid="ignore"):
        prec, recall = right / shown, right / true
    return [
        {
            "least": int(count_l[part].min()),
            "most": int(count_l[part].max()),
            "labels": len(part),
            "true": int(true[number]),
            "prec": float(prec[number]),
            "recall": float(recall[number]),
        }
        for number, part in enumerate(parts)
    ]


def format_table(rows: dict[str, dict[str, np.ndarray]]) -> str:
    """P@1..k of every model, then R@1..k, in percent; `rows` maps a model's name to precision_recall's result."""
    k = len(next(iter(rows.values()))["prec"])
    lines = [["percent", *(f"@{i}" for i in range(1, k + 1))]]
    for metric in ("prec", "recall"):
        initial = metric[0].upper()
        lines += [[f"{initial}  {name}", *(f"{100 * v:.2f}" for v in m[metric])] for name, m in rows.items()]
    width = max(len(line[0]) for line in lines)
    return "\n".join("  ".join([line[0].ljust(width), *(cell.rjust(6) for cell in line[1:])]) for line in lines)
