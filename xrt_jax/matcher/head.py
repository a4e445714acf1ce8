"""The XMC head of one level: one row of weights and one bias a tree node, and how they start.

From the second level on the head is bootstrapped from the level above, so that fine-tuning starts where the easier
task ended (XR-Transformer, section 3; as PECOS).
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

from xrt_jax.matcher.mesh import fetch
from xrt_jax.xlinear.level import train_dense_head

BOOTSTRAPS = ("linear", "weighted-linear", "inherit", "none")

# How a training step gets the logits of the shortlists: a product with all rows of the head and a mask; with the rows
# that the batch's shortlists hold together; or row by row for each instance.
STRATEGIES = ("whole", "union", "gather")
# FLOP that a device does in the time in which it moves a byte, roughly: a CPU's float32 products beside its memory, an
# accelerator's bfloat16 products beside its own.
FLOPS_A_BYTE = {"cpu": 8, "gpu": 200, "tpu": 200}


def check_bootstrap(field: str, name: str) -> None:
    """ValueError for an unknown bootstrap method in a field of the matcher."""
    if name not in BOOTSTRAPS:
        raise ValueError(f"matcher.{field} is {name!r}: choose one of {', '.join(BOOTSTRAPS)}")


def check_strategy(name: str) -> None:
    """ValueError for an unknown head strategy."""
    if name not in ("auto", *STRATEGIES):
        raise ValueError(f"matcher.head is {name!r}: choose one of auto, {', '.join(STRATEGIES)}")


def costs(
    nr_labels: int, hidden_size: int, *, batch_size: int, union: float, width: float, platform: str
) -> dict[str, float]:
    """Bytes that a training step on the head costs by each of STRATEGIES, its FLOP counted as bytes of equal time.

    union: labels in a batch's shortlists together; width: labels in the longest of them. A product with r rows is six
    FLOP a row, column and instance, its backward products counted; its logits are some six passes over [b, r]
    float32. Adam reads parameter, gradient and two moments of each row and writes three; rows that are taken out of
    the table and put back cost as much again. A gather moves [b, width, hidden] three times: read, used, scattered.
    """
    flops = FLOPS_A_BYTE.get(platform, FLOPS_A_BYTE["gpu"])

    def product(rows):
        return 6 * batch_size * rows * hidden_size / flops + 24 * batch_size * rows

    listed = 2 * 28 * union * hidden_size
    return {
        "whole": product(nr_labels) + 28 * nr_labels * hidden_size,
        "union": product(union) + listed,
        "gather": product(width) + 3 * 4 * batch_size * width * hidden_size + listed,
    }


def cheapest_strategy(lists: list, *, nr_labels: int, hidden_size: int, batch_size: int, thinned: bool) -> str:
    """The one of STRATEGIES with the least `costs` on this device; lists: Listed of some of the level's batches.

    thinned: the lists do not hold whole shortlists, so that the level cannot be computed whole under a mask.
    """
    union, width = (float(np.mean([a.shape[-1] for a in arrays])) for arrays in list(zip(*lists, strict=True))[:2])
    sizes = {"batch_size": batch_size, "union": union, "width": width}
    found = costs(nr_labels, hidden_size, platform=jax.default_backend(), **sizes)
    if thinned:
        del found["whole"]
    return min(found, key=found.get)


def random_head(nr_labels: int, hidden_size: int, *, seed: int) -> dict[str, np.ndarray]:
    """W ~ N(0, 0.02²) float32 [labels, hidden] and b = 0 [labels]."""
    rng = np.random.default_rng(seed)
    W = (0.02 * rng.standard_normal((nr_labels, hidden_size))).astype(np.float32)
    return {"W": W, "b": np.zeros(nr_labels, np.float32)}


def inherited_head(head: dict[str, np.ndarray], C: csc_matrix) -> dict[str, np.ndarray]:
    """Every label starts with the weights of its parent: W = C W_above, b = C b_above."""
    return {name: np.asarray(C @ value, np.float32) for name, value in head.items()}


def linear_head(
    emb_nd: np.ndarray, Y: csr_matrix, C: csc_matrix, M: csr_matrix, *, weighted: bool, progress=None
) -> dict[str, np.ndarray]:
    """Linear SVMs on the embeddings of the level above; `weighted`: a positive's cost is its value in Y."""
    W, b = train_dense_head(emb_nd, Y, C, M, R=Y if weighted else None, progress=progress)
    return {"W": W, "b": b}


def start_head(
    method: str,
    *,
    head_above: dict[str, np.ndarray] | None,
    emb_nd: np.ndarray | None,
    Y: csr_matrix,
    C: csc_matrix,
    M: csr_matrix,
    hidden_size: int,
    seed: int,
    progress=None,
) -> dict[str, np.ndarray]:
    """The head with which a level starts, by one of BOOTSTRAPS; inherit needs head_above, the linear ones emb_nd."""
    if method == "none":
        return random_head(Y.shape[1], hidden_size, seed=seed)
    if method == "inherit":
        return inherited_head(head_above, C)
    return linear_head(emb_nd, Y, C, M, weighted=method == "weighted-linear", progress=progress)


def pad_head(head: dict[str, np.ndarray], multiple: int) -> dict[str, jnp.ndarray]:
    """Rows of zeros up to a multiple of the mesh's label axis; no shortlist ever holds them."""
    extra = -len(head["b"]) % multiple
    return {"W": np.pad(head["W"], ((0, extra), (0, 0))), "b": np.pad(head["b"], (0, extra))}


def unpad_head(head, nr_labels: int) -> dict[str, np.ndarray]:
    """The head on the host, without the rows of pad_head."""
    return {name: value[:nr_labels] for name, value in fetch(head).items()}
