"""Ranking metrics on CSR matrices: P@k, R@k, nDCG@k, PSP@k, PSnDCG@k, coverage@k, ECE@k.

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


def _ranked(P, k: int) -> tuple[np.ndarray, np.ndarray]:
    """ranked_labels and their scores, float32 [n, k]; 0 where a row has fewer."""
    P = canonical(P, "csr")
    row = row_ids(P)
    order = np.lexsort((P.indices, -P.data, row))
    rank = np.arange(P.nnz) - P.indptr[row]
    kept = rank < k
    label_nk, score_nk = np.full((P.shape[0], k), -1, np.int64), np.zeros((P.shape[0], k), np.float32)
    label_nk[row[kept], rank[kept]] = P.indices[order][kept]
    score_nk[row[kept], rank[kept]] = P.data[order][kept]
    return label_nk, score_nk


def ranked_labels(P, k: int) -> np.ndarray:
    """The k best labels of each row, best first: int64 [n, k], -1 where a row has fewer."""
    return _ranked(P, k)[0]


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


def _weighted_gains(Y_true, P, k: int, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the hits at each rank, of P's ranking and of the best possible one: float64 [n, k] each."""
    Y = canonical(Y_true, "csr")
    ideal = Y.copy()
    ideal.data = weight[Y.indices].astype(np.float64)
    ranked = (_ranked_hits(Y, scores, k) for scores in (P, ideal))
    return tuple(hit_nk * weight[label_nk] for hit_nk, label_nk in ranked)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a / np.where(b > 0, b, 1.0)


def psp(Y_true, P, k: int, inverse_propensity: np.ndarray) -> np.ndarray:
    """Propensity-scored P@1..k float64 [k], normalised: the hits' inverse propensities over the best possible ones.

    Both are summed over all rows before the division, as pyxclib and AttentionXML do.

    Args:
        Y_true: csr [n, L].
        P: csr [n, L].
        k: deepest rank.
        inverse_propensity: float [L], of training labels.
    """
    gained_nk, best_nk = _weighted_gains(Y_true, P, k, inverse_propensity)
    return _ratio(gained_nk.sum(axis=0).cumsum(), best_nk.sum(axis=0).cumsum())


def psndcg(Y_true, P, k: int, inverse_propensity: np.ndarray) -> dict[str, np.ndarray]:
    """Propensity-scored nDCG@1..k, normalised, in the two definitions that are in use; arguments as of psp.

    Returns:
        {"psndcg_x": float64 [k], "psndcg_a": float64 [k]}. In pyxclib (x) a row's gain is divided by the discounts of
        as many ranks as it has labels, at most k, before rows are summed; in AttentionXML (a) it is not. Either sum is
        divided by that of the best possible ranking.
    """
    gained_nk, best_nk = _weighted_gains(Y_true, P, k, inverse_propensity)
    discount_k = 1.0 / np.log2(np.arange(2, k + 2))
    gained_nk, best_nk = ((part * discount_k).cumsum(axis=1) for part in (gained_nk, best_nk))
    rows = _nr_true(Y_true) > 0  # others gain nothing
    ranks_nk = np.minimum(np.arange(1, k + 1), _nr_true(Y_true)[rows, None])
    ideal_nk = discount_k.cumsum()[ranks_nk - 1]
    return {
        "psndcg_x": _ratio((gained_nk[rows] / ideal_nk).sum(axis=0), (best_nk[rows] / ideal_nk).sum(axis=0)),
        "psndcg_a": _ratio(gained_nk.sum(axis=0), best_nk.sum(axis=0)),
    }


def coverage(Y_true, P, k: int = 10) -> np.ndarray:
    """Coverage@1..k float64 [k]: of the labels that some row has, the share found in the top k of a row that has it."""
    hit_nk, label_nk = _ranked_hits(Y_true, P, k)
    best_rank = np.full(P.shape[1], k)
    row, rank = np.nonzero(hit_nk)
    np.minimum.at(best_rank, label_nk[row, rank], rank)
    found_k = np.bincount(best_rank, minlength=k + 1)[:k].cumsum()
    return found_k / max(1, len(np.unique(canonical(Y_true, "csr").indices)))


def all_metrics(Y_true, P, k: int, Y_trn=None, A: float = 0.55, B: float = 1.5) -> dict[str, np.ndarray]:
    """What precision_recall finds and nDCG, coverage and, with training labels, PSP and PSnDCG: name -> float64 [k].

    Y_trn, A, B: of inverse_propensity; usual are 0.5 and 0.4 for Wikipedia, 0.6 and 2.6 for Amazon.
    """
    found = precision_recall(Y_true, P, k) | {"ndcg": ndcg(Y_true, P, k), "coverage": coverage(Y_true, P, k)}
    if Y_trn is not None:
        weight = inverse_propensity(Y_trn, A, B)
        found |= {"psp": psp(Y_true, P, k, weight), **psndcg(Y_true, P, k, weight)}
    return found


def reliability(Y_true, P, k: int, told=np.asarray, nr_bins: int = 20) -> list[dict]:
    """How often labels told with a probability are right, of the k best of each row.

    Args:
        Y_true: csr [n, L].
        P: csr [n, L], scores that rank.
        k: deepest rank.
        told: what makes probabilities of an array of scores; what is outside of 0 to 1 is taken for the nearer end.
        nr_bins: bins of equal width between 0 and 1.

    Returns:
        A dict a bin that is not empty: count, told (mean probability), right (share of right ones).
    """
    hit_nk, label_nk = _ranked_hits(Y_true, P, k)
    told = np.clip(told(_ranked(P, k)[1][label_nk >= 0]), 0, 1)
    hit = hit_nk[label_nk >= 0]
    of_bin = np.minimum((told * nr_bins).astype(int), nr_bins - 1)
    count, told, right = (np.bincount(of_bin, weights, nr_bins) for weights in (np.ones(len(hit)), told, hit))
    return [
        {"count": int(count[b]), "told": told[b] / count[b], "right": right[b] / count[b]}
        for b in np.flatnonzero(count)
    ]


def ece(Y_true, P, k: int, told=np.asarray, nr_bins: int = 20) -> float:
    """Expected calibration error of the k best of each row; arguments as of reliability.

    It is the mean of |told - right| over the bins, weighted by their counts.
    """
    bins = reliability(Y_true, P, k, told, nr_bins)
    total = sum(b["count"] for b in bins)
    return sum(b["count"] * abs(b["told"] - b["right"]) for b in bins) / max(1, total)


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


NAMES = {"prec": "P", "recall": "R", "ndcg": "nDCG", "coverage": "coverage", "psp": "PSP"}
NAMES |= {"psndcg_x": "PSnDCG (pyxclib)", "psndcg_a": "PSnDCG (AttentionXML)"}


def format_table(rows: dict[str, dict[str, np.ndarray]]) -> str:
    """Each metric @1..k of every model in percent; `rows` maps a model's name to its metrics."""
    first = next(iter(rows.values()))
    lines = [["percent", *(f"@{i}" for i in range(1, len(first["prec"]) + 1))]]
    for metric in first:
        lines += [[f"{NAMES[metric]}  {name}", *(f"{100 * v:.2f}" for v in m[metric])] for name, m in rows.items()]
    return align(lines)


def align(lines: list[list[str]]) -> str:
    """Lines of cells in columns, the first to the left, the others to the right."""
    width = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(width[0]), *(cell.rjust(max(6, w)) for cell, w in zip(line[1:], width[1:], strict=True))]
        )
        for line in lines
    )


def format_pecos(metrics: dict[str, np.ndarray]) -> str:
    """A line a metric, prec and recall to the byte as PECOS prints them."""
    names = {"prec": "prec", "recall": "recall"}
    return "\n".join(
        f"{names.get(key, NAMES[key]):7}= {' '.join(f'{100 * value:4.2f}' for value in values)}"
        for key, values in metrics.items()
    )


def format_frequencies(groups: list[dict], k: int) -> str:
    """The table of by_frequency's groups, in percent."""
    lines = [["training documents", "labels", "true", f"precision@{k}", f"recall@{k}"]]
    for group in groups:
        shares = ("–" if np.isnan(group[key]) else f"{100 * group[key]:.2f}" for key in ("prec", "recall"))
        lines.append([f"{group['least']:,} – {group['most']:,}", f"{group['labels']:,}", f"{group['true']:,}", *shares])
    return align(lines)
