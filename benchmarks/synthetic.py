"""Made-up extreme multi-label data, from a seed, with the shape and about the difficulty of real sets.

Labels stand in topics and follow a power law. Each has a few dozen words, some of them its topic's, so that a label
tree has something to find. A document takes labels from one topic and from everywhere, a few words of each of them
and many that say nothing; some of its labels leave no word, so no model can find them all.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

ROWS_AT_A_TIME = 20_000
TOPIC_SIZE = 50  # labels
POOL, SHARED, OWN = 60, 16, 24  # words of a topic; words of a label among them, and others
SAME_TOPIC = 0.5  # chance that a label comes from the topic of the document's first one
SILENT = 0.4  # chance that a label leaves no word
FLATTEN = 8  # the label of rank r, from 0, has a weight of 1 / (r + FLATTEN)


class Preset(NamedTuple):
    """Size of a data set; `labels` (drawn, before duplicates go) and both numbers of words are averages."""

    trn: int
    tst: int
    features: int
    nr_labels: int
    labels: float
    words_per_label: int
    common_words: float


PRESETS = {
    "tiny": Preset(400, 100, 500, 300, 4.2, 8, 18),
    "wiki10": Preset(14_146, 6_616, 101_938, 30_938, 26, 5, 200),
    "amazoncat": Preset(200_000, 20_000, 203_882, 13_330, 6, 12, 120),
}


class Split(NamedTuple):
    """n documents: X csr float32 [n, d], rows of L2 norm 1; Y csr float32 [n, L], ones."""

    X: sp.csr_matrix
    Y: sp.csr_matrix


class Language(NamedTuple):
    """What documents are drawn from.

    Attributes:
        topic: int [L], topic of a label, ascending.
        cumulative: float [L + 1], frequency of all labels below l, from 0 to 1.
        words: int32 [L, SHARED + OWN], words of a label.
    """

    topic: np.ndarray
    cumulative: np.ndarray
    words: np.ndarray


def _zipf(preset: Preset, size, rng) -> np.ndarray:
    """Words of the frequency 1 / rank, int32."""
    return (preset.features ** rng.random(size) - 1).astype(np.int32)


def make_language(preset: Preset, rng) -> Language:
    """Frequencies and words of the labels."""
    L = preset.nr_labels
    topic = np.arange(L) // TOPIC_SIZE
    frequency = rng.permutation(1 / (np.arange(L) + FLATTEN))
    pool = rng.integers(0, preset.features, (topic[-1] + 1, POOL), dtype=np.int32)
    shared = pool[topic[:, None], rng.integers(0, POOL, (L, SHARED))]
    own = _zipf(preset, (L, OWN), rng)
    cumulative = np.concatenate([[0], np.cumsum(frequency)])
    return Language(topic, cumulative / cumulative[-1], np.hstack([shared, own]))


def _ones(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> sp.csr_matrix:
    """Number of times that each (row, column) occurs, csr float32."""
    return sp.csr_matrix((np.ones(len(row), np.float32), (row, column)), shape=shape)


def draw_labels(preset: Preset, language: Language, n: int, rng) -> sp.csr_matrix:
    """Labels of n documents, ones [n, L]: at least one each."""
    cumulative = language.cumulative
    size = np.maximum(1, rng.poisson(preset.labels, n))
    row = np.repeat(np.arange(n), size)
    first = np.searchsorted(cumulative[1:-1], rng.random(n), side="right")
    topic = language.topic[first]
    start, stop = (np.searchsorted(language.topic, topic, side) for side in ("left", "right"))
    near = rng.random(len(row)) < SAME_TOPIC
    low = np.where(near, cumulative[start][row], 0)
    high = np.where(near, cumulative[stop][row], 1)
    label = np.searchsorted(cumulative[1:-1], low + (high - low) * rng.random(len(row)), side="right")
    label[np.cumsum(size) - size] = first
    Y = _ones(row, label, (n, preset.nr_labels))
    Y.data[:] = 1
    return Y


def draw_counts(preset: Preset, language: Language, Y: sp.csr_matrix, rng) -> sp.csr_matrix:
    """How often each word stands in each document of Y, float32 [n, d]; words that say nothing follow Zipf's law."""
    heard = sp.coo_matrix(Y)
    speaks = rng.random(heard.nnz) >= SILENT
    row, label = (np.repeat(ids[speaks], preset.words_per_label) for ids in (heard.row, heard.col))
    telling = language.words[label, rng.integers(0, language.words.shape[1], len(label))]
    size = rng.poisson(preset.common_words, Y.shape[0])
    common = _zipf(preset, size.sum(), rng)
    row = np.concatenate([row, np.repeat(np.arange(Y.shape[0]), size)])
    return _ones(row, np.concatenate([telling, common]), (Y.shape[0], preset.features))


def _weighted(counts: sp.csr_matrix, idf: np.ndarray) -> sp.csr_matrix:
    """TF-IDF with a logarithmic TF, rows of L2 norm 1."""
    values = (1 + np.log(counts.data)) * idf[counts.indices]
    row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    norm = np.sqrt(np.bincount(row, values**2, minlength=counts.shape[0]))
    return sp.csr_matrix(((values / norm[row]).astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)


def _draw_split(preset: Preset, language: Language, n: int, rng) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Counts and labels of n documents, drawn in blocks that fit into memory."""
    Y = [draw_labels(preset, language, min(ROWS_AT_A_TIME, n - i), rng) for i in range(0, n, ROWS_AT_A_TIME)]
    counts = [draw_counts(preset, language, block, rng) for block in Y]
    return sp.vstack(counts, format="csr"), sp.vstack(Y, format="csr")


def make_dataset(name: str, seed: int = 0) -> tuple[Split, Split]:
    """The training and test split of PRESETS[name]; the same bits for the same seed."""
    preset, rng = PRESETS[name], np.random.default_rng(seed)
    language = make_language(preset, rng)
    counts, Y = _draw_split(preset, language, preset.trn, rng)
    counts_tst, Y_tst = _draw_split(preset, language, preset.tst, rng)
    idf = 1 + np.log((1 + preset.trn) / (1 + np.bincount(counts.indices, minlength=preset.features)))
    return Split(_weighted(counts, idf), Y), Split(_weighted(counts_tst, idf), Y_tst)
