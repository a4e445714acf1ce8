"""What ranking scores mean: monotone maps from scores to probabilities, fitted on documents that were not trained on.

Two places to fit, which go together:

- the final map takes the score of a label, whatever made it, to the share of labels with such a score that were right:
  "isotonic", a rising line through points (pool adjacent violators), or "platt", a sigmoid;
- per level, a sigmoid takes the margin of a node to the probability that it is relevant if its parent is. A label's
  probability is then the product along its path (a probabilistic label tree: Jasinska et al. 2016), by which it is also
  ranked. The rankers stay as they are: a scaled copy with the post-processor "sigmoid" does the same.

A model folder keeps both in calibration.json, as plain numbers.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit

from xrt_jax.disk import read_json, write_json
from xrt_jax.sparse import canonical, find_entries, row_ids
from xrt_jax.xlinear.postprocess import HINGE, SIGMOID, parse
from xrt_jax.xlinear.predict import predict, predict_selected

METHODS = ("isotonic", "platt")
FILE = "calibration.json"
SMALLEST = 1e-12  # scores between 0 and 1 are kept so far from both ends before their log-odds are taken


class Calibration(NamedTuple):
    """A fitted calibration; the fields of calibration.json.

    Attributes:
        method: one of METHODS, of the final map.
        scores: isotonic: scores of the points, rising; empty for platt.
        probabilities: isotonic: of the points.
        sigmoid: platt: slope and offset; empty for isotonic.
        of_log_odds: platt: of the score's log-odds, for scores between 0 and 1; else of the score itself.
        levels: slope and offset of each level's margins; empty: the model's own scores.
        documents: how many it was fitted on.
    """

    method: str
    scores: list[float]
    probabilities: list[float]
    sigmoid: list[float]
    of_log_odds: bool
    levels: list[list[float]]
    documents: int


# ---------------------------------------------------------------------------- fitting


def fit_sigmoid(x: np.ndarray, right: np.ndarray) -> list[float]:
    """Slope and offset of the sigmoid that tells `right` from x by maximum likelihood (Platt 1999).

    Targets are drawn in by one observation of either side, as Platt does, so that separable data have an optimum.

    Args:
        x: float [m].
        right: bool [m].
    """
    nr_right = np.count_nonzero(right)
    target = np.where(right, (nr_right + 1) / (nr_right + 2), 1 / (len(right) - nr_right + 2))
    centre, spread = float(np.mean(x)), float(np.std(x)) or 1.0
    z = (x - centre) / spread

    def loss(parameters):
        v = parameters[0] * z + parameters[1]
        slack = expit(v) - target
        value = -np.mean(target * log_expit(v) + (1 - target) * log_expit(-v))
        return value, np.array([np.mean(slack * z), np.mean(slack)])

    slope, offset = minimize(loss, np.array([1.0, float(logit(target.mean()))]), jac=True, method="BFGS").x
    return [float(slope / spread), float(offset - slope * centre / spread)]


def fit(method: str, P, Y, *, post_processor: str, levels=()) -> Calibration:
    """Fits the final map on predictions and their truth.

    Args:
        method: one of METHODS.
        P: csr [n, L], ranking scores; the stored entries are what it is fitted on.
        Y: csr [n, L].
        post_processor: that made the scores.
        levels: what fit_levels found, if P was made by with_sigmoids.
    """
    P = canonical(P, "csr")
    scores = P.data.astype(np.float64)
    right = find_entries(canonical(Y, "csr"), row_ids(P), P.indices) >= 0
    if right.all() or not right.any():
        found = "none" if len(right) and not right.any() else f"all {len(right):,}"
        raise ValueError(f"{found} of the predicted labels are right: a calibration needs right and wrong ones")
    unfitted = Calibration(method, [], [], [], False, list(levels), P.shape[0])
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression  # a second to import

        points = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, right)
        return unfitted._replace(scores=points.X_thresholds_.tolist(), probabilities=points.y_thresholds_.tolist())
    of_log_odds = parse(post_processor).kind in (SIGMOID, HINGE)
    sigmoid = fit_sigmoid(_log_odds(scores) if of_log_odds else scores, right)
    if sigmoid[0] <= 0:
        raise ValueError("higher scores are not right more often than lower ones: there is nothing to calibrate")
    return unfitted._replace(sigmoid=sigmoid, of_log_odds=of_log_odds)


def _log_odds(scores: np.ndarray) -> np.ndarray:
    return logit(np.clip(scores, SMALLEST, 1 - SMALLEST))


def fit_levels(ranker, X, Y) -> list[list[float]]:
    """Slope and offset of each level's margins, fitted on the children of the nodes that are relevant for a row.

    Args:
        ranker: list of Level.
        X: features [n, d].
        Y: csr [n, L].
    """
    if any(level.bias <= 0 for level in ranker):
        raise ValueError("per level: the rankers were trained without a bias (ranker.bias), which the offsets need")
    relevant = [canonical(Y, "csr")]
    for level in ranker[::-1]:
        relevant.insert(0, canonical(relevant[0] @ level.C, "csr"))
    relevant[0] = sp.csr_matrix(np.ones(relevant[0].shape, np.float32))  # the root, also of rows without a label
    sigmoids = []
    for depth, (level, above, here) in enumerate(zip(ranker, relevant[:-1], relevant[1:], strict=True), 1):
        margins = predict_selected(ranker[:depth], X, above @ level.C.T, post_processor="noop")
        right = find_entries(here, row_ids(margins), margins.indices) >= 0
        sigmoids.append(fit_sigmoid(margins.data.astype(np.float64), right))
    return sigmoids


def with_sigmoids(ranker, levels: list[list[float]]) -> list:
    """A copy of the ranker whose scores are products of sigmoid(slope * margin + offset) along the path."""
    scaled = []
    for level, (slope, offset) in zip(ranker, levels, strict=True):
        W = level.W.tocsc()
        bias = sp.csc_matrix(W[-1:].toarray() * slope + offset / level.bias)
        W = canonical(sp.vstack([W[:-1] * slope, bias], format="csc"), "csc")
        scaled.append(level._replace(W=W, post_processor="sigmoid"))
    return scaled


# ---------------------------------------------------------------------------- use


def probabilities(calibration: Calibration, scores: np.ndarray) -> np.ndarray:
    """The final map: float32, of the shape of the scores."""
    scores = np.asarray(scores, np.float64)
    if calibration.method == "isotonic":
        return np.interp(scores, calibration.scores, calibration.probabilities).astype(np.float32)
    slope, offset = calibration.sigmoid
    x = _log_odds(scores) if calibration.of_log_odds else scores
    return expit(slope * x + offset).astype(np.float32)


def predict_probabilities(calibration: Calibration, ranker, X, **settings) -> sp.csr_matrix:
    """As xlinear.predict.predict, which takes the settings, but scores are probabilities; order as of the ranking."""
    P = predict(with_sigmoids(ranker, calibration.levels) if calibration.levels else ranker, X, **settings)
    return sp.csr_matrix((probabilities(calibration, P.data), P.indices, P.indptr), shape=P.shape)


def save_calibration(folder: str | Path, calibration: Calibration) -> None:
    """Writes calibration.json into a model folder, in the place of an earlier one."""
    write_json(Path(folder) / FILE, calibration._asdict())


def _are_numbers(values, length: int | None = None) -> bool:
    """Whether it is a list of finite numbers, of that length."""
    if not isinstance(values, list) or length not in (None, len(values)):
        return False
    return all(isinstance(value, int | float) and abs(value) <= sys.float_info.max for value in values)


def _is_sound(calibration: Calibration) -> bool:
    method, scores, points, sigmoid, *_, levels, documents = calibration
    if method == "isotonic":
        fits = _are_numbers(scores) and scores and scores == sorted(scores) and _are_numbers(points, len(scores))
    else:
        fits = _are_numbers(sigmoid, 2)
    return bool(fits and isinstance(levels, list) and all(_are_numbers(level, 2) for level in levels)) and isinstance(
        documents, int
    )


def load_calibration(folder: str | Path, nr_levels: int) -> Calibration | None:
    """The calibration of a model folder, None where there is none; ValueError if it does not fit so many levels."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    fields = read_json(path)
    if not isinstance(fields, dict) or fields.keys() != set(Calibration._fields) or fields["method"] not in METHODS:
        raise ValueError(f"{path} is no calibration of this version: delete it, or run xrt-jax calibrate again")
    calibration = Calibration(**fields)
    if not _is_sound(calibration):
        raise ValueError(f"{path} holds values that no calibration has: delete it, or run xrt-jax calibrate again")
    if len(calibration.levels) not in (0, nr_levels):
        raise ValueError(
            f"{path} is of a model with {len(calibration.levels)} levels, this one has {nr_levels}: run xrt-jax "
            "calibrate again"
        )
    return calibration
