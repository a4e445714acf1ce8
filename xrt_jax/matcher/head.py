"""The XMC head of one level: one row of weights and one bias a tree node, and how they start.

From the second level on the head is bootstrapped from the level above, so that fine-tuning starts where the easier
task ended (XR-Transformer, section 3; as PECOS).
"""

import jax.numpy as jnp
import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

from xrt_jax.xlinear.level import train_dense_head

BOOTSTRAPS = ("linear", "weighted-linear", "inherit", "none")


def check_bootstrap(field: str, name: str) -> None:
    """ValueError for an unknown bootstrap method in a field of the matcher."""
    if name not in BOOTSTRAPS:
        raise ValueError(f"matcher.{field} is {name!r}: choose one of {', '.join(BOOTSTRAPS)}")


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
    return {name: np.asarray(value)[:nr_labels] for name, value in head.items()}
