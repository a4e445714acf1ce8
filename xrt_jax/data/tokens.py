"""Texts as token ids: written once to a ragged memory-mapped file, read in batches of similar length.

Padding is added a batch at a time and only up to the batch's bucket, so that short texts cost little, while the few
bucket lengths keep the shapes static and the compilations few.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xrt_jax.disk import replace_folder


class Tokens(NamedTuple):
    """Token ids of n texts, one behind the other: text i owns ids[offsets[i]:offsets[i + 1]]."""

    ids: np.ndarray  # int32 [total number of tokens]
    offsets: np.ndarray  # int64 [n + 1]
    pad_id: int


class Batch(NamedTuple):
    """One planned batch: the texts' row numbers and the length to which they are padded."""

    rows: np.ndarray  # int64 [at most batch size]
    length: int


_CHUNK = 1024  # texts handed to the tokenizer at once; it works on them in parallel
_POOL = 50  # batches whose texts are sorted by length together, see plan_epoch


def tokenize(texts: list[str], tokenizer, folder: str | Path, *, truncate_length: int, progress=None) -> Tokens:
    """Tokenizes texts with the encoder's special tokens, truncated to truncate_length, and writes them to folder."""
    offsets = np.zeros(len(texts) + 1, np.int64)
    bar = progress(len(texts), "tokenize") if progress else None
    with replace_folder(folder) as tmp:
        with open(tmp / "ids.bin", "wb") as out:
            for start in range(0, len(texts), _CHUNK):
                chunk = texts[start : start + _CHUNK]
                rows = tokenizer(chunk, truncation=True, max_length=truncate_length)["input_ids"]
                np.concatenate([np.asarray(row, np.int32) for row in rows]).tofile(out)
                offsets[start + 1 : start + 1 + len(rows)] = [len(row) for row in rows]
                if bar:
                    bar.update(len(rows))
        np.cumsum(offsets, out=offsets)
        np.savez(tmp / "offsets.npz", offsets=offsets, pad_id=tokenizer.pad_token_id)
    if bar:
        bar.close()
    return load_tokens(folder)


def load_tokens(folder: str | Path) -> Tokens:
    """Opens what tokenize wrote; the ids stay on disk."""
    with np.load(Path(folder) / "offsets.npz", allow_pickle=False) as side:
        offsets, pad_id = side["offsets"], int(side["pad_id"])
    return Tokens(np.memmap(Path(folder) / "ids.bin", np.int32, "r"), offsets, pad_id)


def text_lengths(tokens: Tokens) -> np.ndarray:
    """Number of tokens of each text, int64 [n]."""
    return np.diff(tokens.offsets)


def bucket_lengths(lengths: np.ndarray, *, truncate_length: int, nr_buckets: int) -> np.ndarray:
    """The padded lengths in use: equal steps up to truncate_length, cut at the first that holds the longest text."""
    step = -(-truncate_length // nr_buckets)
    steps = np.minimum(np.arange(1, nr_buckets + 1) * step, truncate_length)
    return steps[: np.searchsorted(steps, lengths.max(initial=1)) + 1]


def plan_epoch(lengths: np.ndarray, buckets: np.ndarray, *, batch_size: int, seed: int, epoch: int) -> list[Batch]:
    """Shuffled batches of one epoch, a pure function of (seed, epoch); every text is in exactly one batch.

    Texts are shuffled, sorted by length within pools of _POOL batches, cut, and the batches shuffled again: batches
    are random enough for SGD and their texts similar in length. Only the last batch may be smaller.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    pools = [order[i : i + _POOL * batch_size] for i in range(0, len(order), _POOL * batch_size)]
    order = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    batches = _cut(order, lengths, buckets, batch_size)
    return [batches[i] for i in rng.permutation(len(batches))]


def plan_pass(lengths: np.ndarray, buckets: np.ndarray, *, tokens_a_batch: int, multiple: int = 1) -> list[Batch]:
    """Batches of one pass without gradients: all texts, longest first, about tokens_a_batch padded tokens a batch.

    Longest first shows at once whether the largest batch fits the device. Batch sizes are multiples of `multiple`.
    """
    order = np.argsort(-lengths, kind="stable")
    bucket_of = np.searchsorted(buckets, lengths[order])
    batches = []
    for k in range(len(buckets) - 1, -1, -1):
        rows = order[bucket_of == k]
        size = pass_batch_size(int(buckets[k]), len(order), tokens_a_batch=tokens_a_batch, multiple=multiple)
        batches += [Batch(rows[i : i + size], int(buckets[k])) for i in range(0, len(rows), size)]
    return batches


def pass_batch_size(length: int, nr_texts: int, *, tokens_a_batch: int, multiple: int = 1) -> int:
    """Texts a batch of plan_pass at one bucket length; few texts make a smaller batch, of 2^i * multiple rows."""
    most = 1 << max(0, -(-nr_texts // multiple) - 1).bit_length()
    return min(max(1, tokens_a_batch // (length * multiple)), most) * multiple


def _cut(order: np.ndarray, lengths: np.ndarray, buckets: np.ndarray, batch_size: int) -> list[Batch]:
    parts = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [Batch(rows, int(buckets[np.searchsorted(buckets, lengths[rows].max())])) for rows in parts]


def pad_batch(tokens: Tokens, batch: Batch, *, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids_bt int32, mask_bt bool) of shape [batch_size, batch.length]; a short batch is filled up with one-token rows.

    The filling rows see one pad token, so that no row's attention is empty; callers give them weight 0.
    """
    starts = tokens.offsets[batch.rows][:, None]
    ends = tokens.offsets[batch.rows + 1][:, None]
    where = starts + np.arange(batch.length)
    ids_bt = np.full((batch_size, batch.length), tokens.pad_id, np.int32)
    mask_bt = np.zeros((batch_size, batch.length), bool)
    mask_bt[:, 0] = True
    n = len(batch.rows)
    mask_bt[:n] = where < ends
    ids_bt[:n][mask_bt[:n]] = tokens.ids[where[mask_bt[:n]]]
    return ids_bt, mask_bt


def stream(
    tokens: Tokens, buckets: np.ndarray, *, batch_size: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless full batches (ids_bt, mask_bt), epoch after epoch; an epoch's incomplete batch is left out."""
    lengths = text_lengths(tokens)
    if len(lengths) < batch_size:
        raise ValueError(f"{len(lengths)} texts do not fill one batch of {batch_size}: lower the batch size")
    epoch = 0
    while True:
        for batch in plan_epoch(lengths, buckets, batch_size=batch_size, seed=seed, epoch=epoch):
            if len(batch.rows) == batch_size:
                yield pad_batch(tokens, batch, batch_size=batch_size)
        epoch += 1
