"""What ranking scores mean: monotone maps from scores to probabilities, fitted on documents that were not trained on.

Two places to fit, which go together:

- the final map takes the score of a label, whatever made it, to the share of labels with such a score that were right:
  "isotonic", a rising line through points (pool adjacent violators), or "platt", a sigmoid;
- per level, a map takes the margin of a node to the probability that it is relevant if its parent is. A label's
  probability is then the product along its path (a probabilistic label tree: Jasinska et al. 2016), by which it is also
  ranked. With "platt" the rankers stay as they are: a scaled copy with the post-processor "sigmoid" does the same.

An isotonic map is flat over stretches of scores. That leaves the order alone where it comes last. Per level it would
not: products of equal numbers are equal, and a node at 0 makes equals of all labels below it. So an isotonic map per
level is 99 parts of itself and one part (LEAN) of the level's sigmoid, which rises everywhere: equal scores are as rare
as elsewhere, and where float32 still finds some, the label of the lower number comes first, as in all rankings.

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
from xrt_jax.ensemble import by_rank, first_entries
from xrt_jax.sparse import Features, as_features, canonical, find_entries, nr_rows, row_ids
from xrt_jax.threads import tracked
from xrt_jax.xlinear.postprocess import HINGE, SIGMOID, parse
from xrt_jax.xlinear.predict import advance, predict, predict_selected, prepare, root_beam, search_settings

METHODS = ("isotonic", "platt")
FILE = "calibration.json"
LEAN = 0.01  # share of the sigmoid in an isotonic map per level, see above
ROWS_AT_ONCE = 4096  # of a search by isotonic maps, which holds all children of a beam
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
        level_points: isotonic maps of each level, [margins, rising; probabilities]; empty: sigmoids alone.
    """

    method: str
    scores: list[float]
    probabilities: list[float]
    sigmoid: list[float]
    of_log_odds: bool
    levels: list[list[float]]
    documents: int
    level_points: list[list[list[float]]]


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


def fit_isotonic(x: np.ndarray, right: np.ndarray) -> list[list[float]]:
    """The rising map that tells `right` from x with the least squared error: the points of a line, [x, probabilities].

    Args:
        x: float [m].
        right: bool [m].
    """
    from sklearn.isotonic import IsotonicRegression  # a second to import

    points = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(x, right)
    return [points.X_thresholds_.tolist(), points.y_thresholds_.tolist()]


def fit(method: str, P, Y, *, post_processor: str, levels=(), level_points=()) -> Calibration:
    """Fits the final map on predictions and their truth.

    Args:
        method: one of METHODS.
        P: csr [n, L], ranking scores; the stored entries are what it is fitted on.
        Y: csr [n, L].
        post_processor: that made the scores.
        levels, level_points: what fit_levels found, if P was made by predict_by_levels.
    """
    P = canonical(P, "csr")
    scores = P.data.astype(np.float64)
    right = find_entries(canonical(Y, "csr"), row_ids(P), P.indices) >= 0
    if right.all() or not right.any():
        found = "none" if len(right) and not right.any() else f"all {len(right):,}"
        raise ValueError(f"{found} of the predicted labels are right: a calibration needs right and wrong ones")
    unfitted = Calibration(method, [], [], [], False, list(levels), P.shape[0], list(level_points))
    if method == "isotonic":
        scores, points = fit_isotonic(scores, right)
        return unfitted._replace(scores=scores, probabilities=points)
    of_log_odds = parse(post_processor).kind in (SIGMOID, HINGE)
    sigmoid = fit_sigmoid(_log_odds(scores) if of_log_odds else scores, right)
    if sigmoid[0] <= 0:
        raise ValueError("higher scores are not right more often than lower ones: there is nothing to calibrate")
    return unfitted._replace(sigmoid=sigmoid, of_log_odds=of_log_odds)


def _log_odds(scores: np.ndarray) -> np.ndarray:
    return logit(np.clip(scores, SMALLEST, 1 - SMALLEST))


def fit_levels(method: str, ranker, X, Y) -> tuple[list[list[float]], list[list[list[float]]]]:
    """A map for each level's margins, fitted on the children of the nodes that are relevant for a row.

    Args:
        method: one of METHODS.
        ranker: list of Level.
        X: features [n, d].
        Y: csr [n, L].

    Returns:
        (levels, level_points) of a Calibration; the latter is empty for "platt".
    """
    if method == "platt" and any(level.bias <= 0 for level in ranker):
        raise ValueError("per level: the rankers were trained without a bias (ranker.bias), which the offsets need")
    relevant = [canonical(Y, "csr")]
    for level in ranker[::-1]:
        relevant.insert(0, canonical(relevant[0] @ level.C, "csr"))
    relevant[0] = sp.csr_matrix(np.ones(relevant[0].shape, np.float32))  # the root, also of rows without a label
    sigmoids, points = [], []
    for depth, (level, above, here) in enumerate(zip(ranker, relevant[:-1], relevant[1:], strict=True), 1):
        margins = predict_selected(ranker[:depth], X, above @ level.C.T, post_processor="noop")
        right = find_entries(here, row_ids(margins), margins.indices) >= 0
        sigmoids.append(fit_sigmoid(margins.data.astype(np.float64), right))
        if method == "isotonic":
            points.append(fit_isotonic(margins.data.astype(np.float64), right))
            if sigmoids[-1][0] <= 0:
                raise ValueError(f"per level: higher margins of level {depth} are not right more often than lower ones")
    return sigmoids, points


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


def predict_by_levels(ranker, X, levels, level_points=(), **settings) -> sp.csr_matrix:
    """As xlinear.predict.predict, which takes the settings, but scores are products of the levels' probabilities.

    levels, level_points: as of Calibration; without any, the scores are the ranker's own.
    """
    if level_points:
        return _search(ranker, X, levels, level_points, **settings)
    return predict(with_sigmoids(ranker, levels) if levels else ranker, X, **settings)


def _search(ranker, X, levels, level_points, *, beam_size=None, only_topk=None, progress=None) -> sp.csr_matrix:
    """predict_by_levels with isotonic maps, which the compiled search does not know: level by level, block by block."""
    X = as_features(X)
    prepared = prepare(ranker, 0 if X.dense is None else X.dense.shape[1])
    topk = [kept for kept, _ in search_settings(prepared, beam_size, only_topk, "noop")]
    spans = [slice(first, first + ROWS_AT_ONCE) for first in range(0, max(nr_rows(X), 1), ROWS_AT_ONCE)]
    blocks = [Features(*(part if part is None else part[span] for part in X)) for span in spans]

    def search(rows: Features) -> sp.csr_matrix:
        beam = root_beam(nr_rows(rows))
        for depth, level in enumerate(prepared):
            margins = canonical(advance(level, rows, beam, level.nr_labels, "noop", is_first=True), "csr")
            told = level_probabilities(margins.data, levels[depth], level_points[depth])
            above = _of_parents(canonical(beam, "csr"), ranker[depth].C, margins)
            scores = (told * above).astype(np.float32)
            scores = sp.csr_matrix((scores, margins.indices, margins.indptr), shape=margins.shape)
            beam = first_entries(by_rank(scores), topk[depth])
        return beam

    found = tracked(map(search, blocks), [nr_rows(rows) for rows in blocks], progress, "scoring by levels")
    return sp.vstack(list(found), format="csr")


def _of_parents(beam: sp.csr_matrix, C, children: sp.csr_matrix) -> np.ndarray:
    """The value in the beam of the parent, by C [nodes, nodes above], of each stored entry of children: float32."""
    C = C.tocoo()
    parent = np.zeros(C.shape[0], np.int64)
    parent[C.row] = C.col
    return beam.data[find_entries(beam, row_ids(children), parent[children.indices])]


def level_probabilities(margins: np.ndarray, sigmoid: list[float], points: list[list[float]]) -> np.ndarray:
    """What a level's margins mean, by its isotonic map with a little of its sigmoid (see the module): float64."""
    slope, offset = sigmoid
    return (1 - LEAN) * np.interp(margins, *points) + LEAN * expit(slope * margins.astype(np.float64) + offset)


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
    P = predict_by_levels(ranker, X, calibration.levels, calibration.level_points, **settings)
    return sp.csr_matrix((probabilities(calibration, P.data), P.indices, P.indptr), shape=P.shape)


def save_calibration(folder: str | Path, calibration: Calibration) -> None:
    """Writes calibration.json into a model folder, in the place of an earlier one."""
    write_json(Path(folder) / FILE, calibration._asdict())


def _are_numbers(values, length: int | None = None) -> bool:
    """Whether it is a list of finite numbers, of that length."""
    if not isinstance(values, list) or length not in (None, len(values)):
        return False
    return all(isinstance(value, int | float) and abs(value) <= sys.float_info.max for value in values)


def _are_points(points) -> bool:
    """Whether it is a pair of lists, numbers that rise and as many numbers."""
    if not isinstance(points, list) or len(points) != 2 or not _are_numbers(points[0]) or not points[0]:
        return False
    return points[0] == sorted(points[0]) and _are_numbers(points[1], len(points[0]))


def _is_sound(calibration: Calibration) -> bool:
    method, scores, points, sigmoid, _, levels, documents, level_points = calibration
    fits = _are_points([scores, points]) if method == "isotonic" else _are_numbers(sigmoid, 2)
    lists = isinstance(levels, list) and isinstance(level_points, list)
    return (
        fits
        and lists
        and all(_are_numbers(level, 2) for level in levels)
        and all(map(_are_points, level_points))
        and len(level_points) in (0, len(levels))
        and isinstance(documents, int)
    )


def load_calibration(folder: str | Path, nr_levels: int) -> Calibration | None:
    """The calibration of a model folder, None where there is none; ValueError if it does not fit so many levels."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    fields = read_json(path)
    if isinstance(fields, dict):
        fields = {"level_points": []} | fields  # which files had not before there were isotonic maps per level
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
