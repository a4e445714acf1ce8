import numpy as np
import pytest

from xrt_jax.data import tokens as T


class Letters:
    """A tokenizer of letters, as tokenize calls it: [CLS] = 1, [SEP] = 2, a = 3, …"""

    pad_token_id = 0

    def __call__(self, texts, truncation, max_length):
        assert truncation
        return {"input_ids": [[1, *(ord(c) - 94 for c in text)][: max_length - 1] + [2] for text in texts]}


@pytest.fixture
def tokens(tmp_path):
    return T.tokenize(["ab", "", "abcdefgh", "c"], Letters(), tmp_path / "t", truncate_length=6)


def test_tokenize_writes_ragged_ids(tokens):
    assert tokens.offsets.tolist() == [0, 4, 6, 12, 15]
    assert tokens.ids.tolist() == [1, 3, 4, 2, 1, 2, 1, 3, 4, 5, 6, 2, 1, 5, 2]
    assert isinstance(tokens.ids, np.memmap)


def test_pad_batch(tokens):
    ids, mask = T.pad_batch(tokens, T.Batch(np.array([3, 1]), 4), batch_size=3)
    assert ids.tolist() == [[1, 5, 2, 0], [1, 2, 0, 0], [0, 0, 0, 0]]
    assert mask.tolist() == [[True, True, True, False], [True, True, False, False], [True, False, False, False]]


@pytest.mark.parametrize(("longest", "expected"), [(1, [32]), (32, [32]), (33, [32, 64]), (128, [32, 64, 96, 128])])
def test_bucket_lengths(longest, expected):
    assert T.bucket_lengths(np.array([1, longest]), truncate_length=128, nr_buckets=4).tolist() == expected


def test_bucket_lengths_never_exceed_the_limit():
    assert T.bucket_lengths(np.array([50]), truncate_length=50, nr_buckets=4).tolist() == [13, 26, 39, 50]


def test_plan_epoch_holds_every_text_once_and_depends_on_seed_and_epoch_only():
    lengths = np.random.default_rng(0).integers(1, 65, 203)
    buckets = np.array([32, 64])
    plan = T.plan_epoch(lengths, buckets, batch_size=8, seed=1, epoch=0)
    assert sorted(np.concatenate([b.rows for b in plan]).tolist()) == list(range(203))
    assert sorted(len(b.rows) for b in plan) == [3] + [8] * 25
    for batch in plan:
        assert batch.length == buckets[buckets >= lengths[batch.rows].max()][0]
    again = T.plan_epoch(lengths, buckets, batch_size=8, seed=1, epoch=0)
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(plan, again, strict=True))
    other = T.plan_epoch(lengths, buckets, batch_size=8, seed=1, epoch=1)
    assert not all(np.array_equal(a.rows, b.rows) for a, b in zip(plan, other, strict=True))


def test_plan_pass_bounds_tokens_and_holds_every_text_once():
    lengths = np.random.default_rng(0).integers(1, 65, 203)
    plan = T.plan_pass(lengths, np.array([32, 64]), tokens_a_batch=640, multiple=2)
    assert sorted(np.concatenate([b.rows for b in plan]).tolist()) == list(range(203))
    for batch in plan:
        assert lengths[batch.rows].max() <= batch.length
        assert (
            len(batch.rows)
            <= T.pass_batch_size(batch.length, 203, tokens_a_batch=640, multiple=2)
            == 640 // batch.length
        )
    assert plan[0].length == 64


def test_a_pass_over_few_texts_makes_small_batches():
    assert T.pass_batch_size(32, 1, tokens_a_batch=4096) == 1
    assert T.pass_batch_size(32, 5, tokens_a_batch=4096) == 8
    assert T.pass_batch_size(32, 5, tokens_a_batch=4096, multiple=4) == 8


def test_stream_gives_full_batches_for_ever(tokens):
    batches = T.stream(tokens, np.array([6]), batch_size=3, seed=0)
    shapes = [next(batches)[0].shape for _ in range(5)]
    assert shapes == [(3, 6)] * 5
    with pytest.raises(ValueError, match="4 texts do not fill one batch of 5"):
        next(T.stream(tokens, np.array([6]), batch_size=5, seed=0))
