"""Texts as token ids: written once to a ragged memory-mapped file, read in batches of similar length.

Padding is added a batch at a time and only up to the batch's bucket, so that short texts cost little, while the few
bucket lengths keep the shapes static and the compilations few. A long text may be cut into several windows, each a
sequence with special tokens of its own; batches hold texts of about as many windows.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xrt_jax.disk import replace_folder


class Tokens(NamedTuple):
    """Token ids of n texts in m windows, one behind the other: window j owns ids[offsets[j]:offsets[j + 1]].

    Text i owns the windows text_offsets[i]:text_offsets[i + 1], at least one; all but its last are of full length.
    """

    ids: np.ndarray  # int32 [total number of tokens]
    offsets: np.ndarray  # int64 [m + 1]
    pad_id: int
    text_offsets: np.ndarray | None = None  # int64 [n + 1]; None: each text is one window


class Batch(NamedTuple):
    """One planned batch: the texts' row numbers, the length of a window and the number of windows, with padding."""

    rows: np.ndarray  # int64 [at most batch size]
    length: int
    windows: int = 1


_CHUNK = 1024  # texts handed to the tokenizer at once; it works on them in parallel
_POOL = 50  # batches whose texts are sorted by length together, see plan_epoch


def tokenize(
    texts: list[str], tokenizer, folder: str | Path, *, truncate_length: int, windows: int = 1, progress=None
) -> Tokens:
    """Tokenizes texts with the encoder's special tokens and writes them to folder.

    A text is cut into windows of truncate_length tokens, special ones included; what exceeds the number of windows
    allowed is dropped. More than one needs a fast tokenizer (transformers).
    """
    lengths, counts = [], []
    bar = progress(len(texts), "tokenize") if progress else None
    with replace_folder(folder) as tmp:
        with open(tmp / "ids.bin", "wb") as out:
            for start in range(0, len(texts), _CHUNK):
                chunk = texts[start : start + _CHUNK]
                rows, counts_of_chunk = _cut_texts(chunk, tokenizer, truncate_length, windows)
                np.concatenate([np.asarray(row, np.int32) for row in rows]).tofile(out)
                lengths += map(len, rows)
                counts += counts_of_chunk
                if bar:
                    bar.update(len(chunk))
        side = {"offsets": _offsets(lengths), "pad_id": tokenizer.pad_token_id}
        if windows > 1:
            side["text_offsets"] = _offsets(counts)
        np.savez(tmp / "offsets.npz", **side)
    if bar:
        bar.close()
    return load_tokens(folder)


def _cut_texts(texts: list[str], tokenizer, truncate_length: int, windows: int) -> tuple[list[list[int]], list[int]]:
    """(ids of each window, number of windows of each text)."""
    if windows == 1:
        rows = tokenizer(texts, truncation=True, max_length=truncate_length)["input_ids"]
        return rows, [1] * len(rows)
    # A text's windows come one after the other, in its order.
    found = tokenizer(texts, truncation=True, max_length=truncate_length, stride=0, return_overflowing_tokens=True)
    rows, counts = [], [0] * len(texts)
    for row, i in zip(found["input_ids"], found["overflow_to_sample_mapping"], strict=True):
        if counts[i] < windows:
            rows.append(row)
            counts[i] += 1
    return rows, counts


def _offsets(sizes: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def load_tokens(folder: str | Path) -> Tokens:
    """Opens what tokenize wrote; the ids stay on disk."""
    with np.load(Path(folder) / "offsets.npz", allow_pickle=False) as side:
        offsets, pad_id, text_offsets = side["offsets"], int(side["pad_id"]), side.get("text_offsets")
    return Tokens(np.memmap(Path(folder) / "ids.bin", np.int32, "r"), offsets, pad_id, text_offsets)


def text_lengths(tokens: Tokens) -> np.ndarray:
    """Number of tokens of each text's longest window, int64 [n]."""
    lengths = np.diff(tokens.offsets)
    return lengths if tokens.text_offsets is None else np.maximum.reduceat(lengths, tokens.text_offsets[:-1])


def text_windows(tokens: Tokens) -> np.ndarray:
    """Number of windows of each text, int64 [n]."""
    if tokens.text_offsets is None:
        return np.ones(len(tokens.offsets) - 1, np.int64)
    return np.diff(tokens.text_offsets)


def bucket_lengths(lengths: np.ndarray, *, truncate_length: int, nr_buckets: int) -> np.ndarray:
    """The padded lengths in use: equal steps up to truncate_length, cut at the first that holds the longest text."""
    step = -(-truncate_length // nr_buckets)
    steps = np.minimum(np.arange(1, nr_buckets + 1) * step, truncate_length)
    return steps[: np.searchsorted(steps, lengths.max(initial=1)) + 1]


def plan_epoch(
    lengths: np.ndarray,
    buckets: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    windows: np.ndarray | None = None,
) -> list[Batch]:
    """Shuffled batches of one epoch, a pure function of (seed, epoch); every text is in exactly one batch.

    Texts are shuffled, sorted by windows and length within pools of _POOL batches, cut, and the batches shuffled again:
    batches are random enough for SGD and their texts similar in size. Only the last batch may be smaller. windows
    int64 [n]: number of windows of each text; None: one.
    """
    windows = np.ones_like(lengths) if windows is None else windows
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    pools = [order[i : i + _POOL * batch_size] for i in range(0, len(order), _POOL * batch_size)]
    order = np.concatenate([pool[np.lexsort((lengths[pool], windows[pool]))] for pool in pools])
    batches = _cut(order, lengths, windows, buckets, batch_size)
    return [batches[i] for i in rng.permutation(len(batches))]


def plan_pass(
    lengths: np.ndarray,
    buckets: np.ndarray,
    *,
    tokens_a_batch: int,
    multiple: int = 1,
    windows: np.ndarray | None = None,
) -> list[Batch]:
    """Batches of one pass without gradients: all texts, longest first, about tokens_a_batch padded tokens a batch.

    Longest first shows at once whether the largest batch fits the device. Batch sizes are multiples of `multiple`. All
    texts of a batch have the same number of windows; windows int64 [n] holds it for each text, None: one.
    """
    windows = np.ones_like(lengths) if windows is None else windows
    order = np.lexsort((-lengths, -windows))
    bucket_of = np.searchsorted(buckets, lengths[order])
    batches = []
    for w in np.unique(windows)[::-1].tolist():
        for k in range(len(buckets) - 1, -1, -1):
            rows, length = order[(bucket_of == k) & (windows[order] == w)], int(buckets[k])
            size = pass_batch_size(length * w, len(order), tokens_a_batch=tokens_a_batch, multiple=multiple)
            batches += [Batch(rows[i : i + size], length, w) for i in range(0, len(rows), size)]
    return batches


def pass_batch_size(length: int, nr_texts: int, *, tokens_a_batch: int, multiple: int = 1) -> int:
    """Texts a batch of plan_pass where each takes `length` padded tokens, over its windows; few texts make a smaller
    batch, of 2^i * multiple rows.
    """
    most = 1 << max(0, -(-nr_texts // multiple) - 1).bit_length()
    return min(max(1, tokens_a_batch // (length * multiple)), most) * multiple


def _cut(
    order: np.ndarray, lengths: np.ndarray, windows: np.ndarray, buckets: np.ndarray, batch_size: int
) -> list[Batch]:
    parts = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    bucket_of = [np.searchsorted(buckets, lengths[rows].max()) for rows in parts]
    return [Batch(rows, int(buckets[k]), int(windows[rows].max())) for rows, k in zip(parts, bucket_of, strict=True)]


def pad_batch(
    tokens: Tokens, batch: Batch, *, batch_size: int, own: slice = slice(None)
) -> tuple[np.ndarray, np.ndarray]:
    """(ids_bt int32, mask_bt bool) of shape [batch_size, batch.length]; a short batch is filled up with one-token rows.

    The filling rows see one pad token, so that no row's attention is empty; callers give them weight 0. With
    batch.windows above 1 the shapes are [batch_size, batch.windows, batch.length]; the mask of a window that a text
    does not have is False throughout. Only the texts of the rows `own` are read; the others look empty.
    """
    texts_n = batch.rows[own]
    first_n, end_n = texts_n, texts_n + 1
    if tokens.text_offsets is not None:
        first_n, end_n = tokens.text_offsets[first_n], tokens.text_offsets[end_n]
    window_nw = first_n[:, None] + np.arange(batch.windows)
    exists_nw = window_nw < end_n[:, None]
    window_nw = np.where(exists_nw, window_nw, 0)
    where_nwt = tokens.offsets[window_nw][..., None] + np.arange(batch.length)
    ids_bwt = np.full((batch_size, batch.windows, batch.length), tokens.pad_id, np.int32)
    mask_bwt = np.zeros(ids_bwt.shape, bool)
    mask_bwt[len(batch.rows) :, 0, 0] = True
    start = own.indices(batch_size)[0]
    mask_nwt = exists_nw[..., None] & (where_nwt < tokens.offsets[window_nw + 1][..., None])
    mask_bwt[start : start + len(texts_n)] = mask_nwt
    ids_bwt[start : start + len(texts_n)][mask_nwt] = tokens.ids[where_nwt[mask_nwt]]
    return (ids_bwt[:, 0], mask_bwt[:, 0]) if batch.windows == 1 else (ids_bwt, mask_bwt)


def stream(
    tokens: Tokens, buckets: np.ndarray, *, batch_size: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless full batches (ids_bt, mask_bt), epoch after epoch; an epoch's incomplete batch is left out.

    Each window is a text of its own here.
    """
    tokens = tokens._replace(text_offsets=None)
    lengths = text_lengths(tokens)
    if len(lengths) < batch_size:
        raise ValueError(f"{len(lengths)} texts do not fill one batch of {batch_size}: lower the batch size")
    epoch = 0
    while True:
        for batch in plan_epoch(lengths, buckets, batch_size=batch_size, seed=seed, epoch=epoch):
            if len(batch.rows) == batch_size:
                yield pad_batch(tokens, batch, batch_size=batch_size)
        epoch += 1
