"""From raw scores to ranking scores: PECOS's table of post-processors, as compiled code.

A ranking score is combine(transform(raw), score of the parent). Both are computed in float64 and rounded to float32
once; what float32 cannot hold becomes its largest or lowest number, never infinity or NaN.
"""

import math
import re
from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit

NOOP, SIGMOID, LOG_SIGMOID, HINGE, LOG_HINGE = range(5)
HIGHEST = float(np.finfo(np.float32).max)
KINDS = {"noop": NOOP, "sigmoid": SIGMOID, "log-sigmoid": LOG_SIGMOID}
# PECOS's names; other exponents work too
POST_PROCESSORS = (*KINDS, *(f"{log}l{p}-hinge" for log in ("", "log-") for p in (1, 2, 3, 4)))
OLD_NAMES = {True: "l3-hinge", "True": "l3-hinge", False: "noop", "False": "noop", None: "noop", "None": "noop"}


class PostProcessor(NamedTuple):
    """A post-processor for compiled code: one of the kinds above and the hinges' exponent p (else 0)."""

    kind: int
    power: int


@njit(cache=True, nogil=True)
def transform(v, kind, power):
    """A raw score as a ranking score, float64; rises with v."""
    if kind == SIGMOID:
        return 1 / (1 + math.exp(-v))
    if kind == LOG_SIGMOID:
        return -(max(-v, 0.0) + math.log1p(math.exp(-abs(v))))
    if kind == HINGE:
        return math.exp(-(max(0.0, 1 - v) ** power))
    if kind == LOG_HINGE:
        return -min(max(0.0, 1 - v) ** power, HIGHEST)
    return v


@njit(cache=True, nogil=True)
def combine(child, parent, kind):
    """The ranking score of a child below its parent's, finite float32."""
    if kind in (SIGMOID, HINGE):
        child = child * parent
    elif kind in (LOG_SIGMOID, LOG_HINGE):
        child = child + parent
    return np.float32(min(max(child, -HIGHEST), HIGHEST))


@njit(cache=True, nogil=True)
def finite(v):
    """A float32 sum as a finite float64; NaN, of sums that overflow in both directions, is the lowest number."""
    return min(float(v), HIGHEST) if v >= -HIGHEST else -HIGHEST


@njit(cache=True, nogil=True)
def neutral(kind):
    """The parent's score with which a transformed score stays as it is."""
    return np.float32(1 if kind in (SIGMOID, HINGE) else 0)


@njit(cache=True, nogil=True)
def upper_bound(parent, kind):
    """What no child of a parent with this score scores above: transformed scores are at most 1, logarithms 0."""
    if kind == NOOP:
        return math.inf
    return max(parent, 0.0) if kind in (SIGMOID, HINGE) else parent


@njit(cache=True, nogil=True)
def keeps_order(parent, kind):
    """Whether the children of a parent with this score rank as their raw scores do."""
    return parent >= 0 or kind not in (SIGMOID, HINGE)


# ---------------------------------------------------------------------------- names


HINGES = r"(log-)?l([1-9][0-9]{0,8})-hinge"


@cache
def _parse(name) -> PostProcessor | None:
    name = OLD_NAMES.get(name, name)
    if name in KINDS:
        return PostProcessor(KINDS[name], 0)
    hinge = re.fullmatch(HINGES, name) if isinstance(name, str) else None
    return PostProcessor(LOG_HINGE if hinge[1] else HINGE, int(hinge[2])) if hinge else None


def parse(name) -> PostProcessor:
    """The post-processor of this name, any p ≥ 1 in l{p}-hinge, or of PECOS's older values for it; else ValueError."""
    found = _parse(name) if isinstance(name, (str, bool, type(None))) else None
    if found is None:
        raise ValueError(f"post_processor={name!r} must be one of {', '.join(POST_PROCESSORS)}")
    return found
