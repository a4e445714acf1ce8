"""The concat model of a level: linear classifiers on [X | embedding], whose beams join the head's or replace them.

PECOS's published settings hand the concat model's clusters to the next level; the head then only shapes the encoder.
"""

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

from xrt_jax.ensemble import combine, first_entries
from xrt_jax.sparse import Features
from xrt_jax.xlinear.level import Level, train_level
from xrt_jax.xlinear.predict import advance, prepare_level

ENSEMBLES = ("transformer-only", "concat-only", "average", "rank_average", "round_robin")


def check_ensemble(name: str) -> None:
    """ValueError for an unknown way to join the beams of head and concat model."""
    if name not in ENSEMBLES:
        raise ValueError(f"matcher.ensemble is {name!r}: choose one of {', '.join(ENSEMBLES)}")


def train_concat(
    X: Features,
    Y: csr_matrix,
    C: csc_matrix,
    M: csr_matrix,
    *,
    threshold: float,
    cost_sensitive: bool,
    only_topk: int,
    post_processor: str,
    progress=None,
) -> Level:
    """A level's linear classifiers on X = [features | unit embedding], with PECOS's fixed settings (Cp = Cn = 1).

    cost_sensitive: a positive costs its share of the instance's label counts, Y with rows of sum 1.
    """
    R = None
    if cost_sensitive:
        R = csr_matrix(Y, copy=True)
        R.data /= np.repeat(np.maximum(np.asarray(R.sum(axis=1)).ravel(), 1e-12), np.diff(R.indptr))
    W = train_level(X, Y, C, M, R=R, threshold=threshold, progress=progress)
    return Level(W, C, 1.0, only_topk, post_processor)


def join_beams(
    method: str, beam: csr_matrix, concat: Level, X: Features, beam_above: csr_matrix, *, is_first: bool, progress=None
) -> csr_matrix:
    """The beam handed on, csr [n, l]: the head's `beam`, the concat model's on X, or both joined as ENSEMBLES say.

    beam_above csr [n, clusters]: the beam of the level above, whose children the concat model scores.
    """
    level = prepare_level(concat, X.dense.shape[1])
    scored = advance(
        level, X, beam_above, concat.only_topk, concat.post_processor, is_first=is_first, progress=progress
    )
    if method == "concat-only":
        return scored
    return first_entries(combine(method, [beam, scored]), concat.only_topk)
