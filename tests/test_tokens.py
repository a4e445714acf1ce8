import itertools

import numpy as np
import pytest

from xrt_jax.data import tokens as T
from xrt_jax.data.vocabulary import learn_wordpiece
from xrt_jax.encoders.huggingface import load_tokenizer


class Letters:
    """A tokenizer of letters, as tokenize calls it: [CLS] = 1, [SEP] = 2, a = 3, …"""

    pad_token_id = 0

    def __call__(self, texts, truncation, max_length, stride=0, return_overflowing_tokens=False):
        assert truncation and not stride
        step, found = max_length - 2, {"input_ids": [], "overflow_to_sample_mapping": []}
        for i, text in enumerate(texts):
            for start in range(0, max(1, len(text)) if return_overflowing_tokens else 1, step):
                found["input_ids"].append([1, *(ord(c) - 94 for c in text[start : start + step]), 2])
                found["overflow_to_sample_mapping"].append(i)
        return found


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


# -------------------------------------------------------------- windows


@pytest.fixture
def windowed(tmp_path):
    return T.tokenize(["ab", "", "abcdefghij", "c", "abcde"], Letters(), tmp_path / "w", truncate_length=6, windows=2)


def test_long_texts_are_cut_into_windows(windowed):
    assert windowed.text_offsets.tolist() == [0, 1, 2, 4, 5, 7]
    windows = [windowed.ids[a:b].tolist() for a, b in itertools.pairwise(windowed.offsets)]
    assert windows == [
        [1, 3, 4, 2],
        [1, 2],
        [1, 3, 4, 5, 6, 2],
        [1, 7, 8, 9, 10, 2],  # the rest, "ij", is dropped
        [1, 5, 2],
        [1, 3, 4, 5, 6, 2],
        [1, 7, 2],
    ]
    assert T.text_lengths(windowed).tolist() == [4, 2, 6, 3, 6]
    assert T.text_windows(windowed).tolist() == [1, 1, 2, 1, 2]


def test_one_window_writes_the_files_of_plain_truncation(tokens, tmp_path):
    same = T.tokenize(["ab", "", "abcdefgh", "c"], Letters(), tmp_path / "one", truncate_length=6, windows=1)
    assert (tmp_path / "one/ids.bin").read_bytes() == (tmp_path / "t/ids.bin").read_bytes()
    assert sorted(np.load(tmp_path / "one/offsets.npz").files) == ["offsets", "pad_id"]
    assert same.text_offsets is None and T.text_windows(same).tolist() == [1, 1, 1, 1]


def test_windows_of_a_fast_tokenizer_hold_the_text_in_order(tmp_path):
    words = [f"{a}{b}" for a in "abcdefg" for b in "hijkl"]
    tokenizer = load_tokenizer(learn_wordpiece([" ".join(words)] * 3, vocab_size=80, out_folder=tmp_path / "v"))
    rng = np.random.default_rng(0)
    texts = ["", "ah", *(" ".join(rng.choice(words, n)) for n in rng.integers(0, 40, 1500))]  # more than one chunk
    cut = T.tokenize(texts, tokenizer, tmp_path / "cut", truncate_length=9, windows=3)
    plain = T.tokenize(texts, tokenizer, tmp_path / "plain", truncate_length=9)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    for i, text in enumerate(texts):
        whole = tokenizer(text, add_special_tokens=False)["input_ids"]
        nr_windows = min(3, max(1, -(-len(whole) // 7)))
        expected = [[cls, *whole[7 * k : 7 * k + 7], sep] for k in range(nr_windows)]
        of_text = range(cut.text_offsets[i], cut.text_offsets[i + 1])
        assert [cut.ids[cut.offsets[j] : cut.offsets[j + 1]].tolist() for j in of_text] == expected
        assert plain.ids[plain.offsets[i] : plain.offsets[i + 1]].tolist() == expected[0]
    assert set(T.text_windows(cut)) == {1, 2, 3}


def test_pad_batch_with_windows(windowed):
    ids, mask = T.pad_batch(windowed, T.Batch(np.array([4, 1]), 6, 2), batch_size=3)
    assert ids.tolist() == [
        [[1, 3, 4, 5, 6, 2], [1, 7, 2, 0, 0, 0]],
        [[1, 2, 0, 0, 0, 0], [0] * 6],
        [[0] * 6, [0] * 6],
    ]
    assert mask.sum(axis=2).tolist() == [[6, 3], [2, 0], [1, 0]]
    assert mask[..., 0].tolist() == [[True, True], [True, False], [True, False]]
    ids, mask = T.pad_batch(windowed, T.Batch(np.array([3, 0]), 4), batch_size=2)
    assert ids.tolist() == [[1, 5, 2, 0], [1, 3, 4, 2]]
    assert mask.tolist() == [[True, True, True, False], [True] * 4]


@pytest.mark.parametrize("windows", [None, np.ones(11, np.int64)])
def test_plans_of_single_windows_are_those_from_before_there_were_windows(windows):
    """The batches written out are those of the version that knew truncation only."""
    lengths, buckets = np.array([3, 8, 5, 1, 8, 2, 4, 7, 6, 3, 8]), np.array([4, 8])
    expected = [
        [([8, 7, 10], 8), ([9, 6, 2], 8), ([3, 5, 0], 4), ([4, 1], 8)],
        [([8, 7, 10], 8), ([3, 5, 0], 4), ([4, 1], 8), ([9, 6, 2], 8)],
        [([1, 4, 10], 8), ([7, 8, 2], 8), ([6, 0, 9, 5, 3], 4)],
    ]
    plans = [T.plan_epoch(lengths, buckets, batch_size=3, seed=2, epoch=epoch, windows=windows) for epoch in (0, 1)]
    plans.append(T.plan_pass(lengths, buckets, tokens_a_batch=24, windows=windows))
    assert [[(batch.rows.tolist(), batch.length) for batch in plan] for plan in plans] == expected
    assert {batch.windows for plan in plans for batch in plan} == {1}


def sizes_of_long_texts():
    """(lengths, windows) of 500 texts in up to 4 windows of 64 tokens."""
    total = np.random.default_rng(0).integers(1, 64 * 5, 500)
    return np.minimum(total, 64), np.minimum(-(-total // 64), 4)


def test_plan_epoch_groups_texts_by_windows():
    lengths, windows = sizes_of_long_texts()
    plan = T.plan_epoch(lengths, np.array([32, 64]), batch_size=8, seed=1, epoch=0, windows=windows)
    assert sorted(np.concatenate([b.rows for b in plan]).tolist()) == list(range(500))
    assert sorted(len(b.rows) for b in plan) == [4] + [8] * 62
    assert all(b.windows == windows[b.rows].max() and b.length >= lengths[b.rows].max() for b in plan)
    assert {(b.length, b.windows) for b in plan} == {(32, 1), (64, 1), (64, 2), (64, 3), (64, 4)}
    assert sum(len(set(windows[b.rows])) > 1 for b in plan) <= 2 * 3  # two pools, three steps from 1 to 4 in each


def test_plan_pass_keeps_to_one_number_of_windows_and_bounds_tokens():
    lengths, windows = sizes_of_long_texts()
    plan = T.plan_pass(lengths, np.array([32, 64]), tokens_a_batch=1280, multiple=2, windows=windows)
    assert sorted(np.concatenate([b.rows for b in plan]).tolist()) == list(range(500))
    shapes = [(b.length, b.windows) for b in plan]
    assert list(dict.fromkeys(shapes)) == [(64, 4), (64, 3), (64, 2), (64, 1), (32, 1)]
    for shape in set(shapes):
        *full, last = (batch for batch in plan if (batch.length, batch.windows) == shape)
        size = 1280 // (2 * shape[0] * shape[1]) * 2
        assert all(len(batch.rows) == size for batch in full) and 0 < len(last.rows) <= size
        assert size == T.pass_batch_size(shape[0] * shape[1], 500, tokens_a_batch=1280, multiple=2)
    for batch in plan:
        assert set(windows[batch.rows]) == {batch.windows} and lengths[batch.rows].max() <= batch.length


def test_stream_takes_each_window_as_a_text(windowed):
    batches = T.stream(windowed, np.array([6]), batch_size=7, seed=0)
    ids, mask = next(batches)
    found = sorted(row[seen].tolist() for row, seen in zip(ids, mask, strict=True))
    assert found == sorted(windowed.ids[a:b].tolist() for a, b in itertools.pairwise(windowed.offsets))


def test_a_process_reads_the_texts_of_its_own_rows():
    for windows in (1, 3):
        tokens = T.Tokens(
            np.arange(1, 61, dtype=np.int32),
            np.arange(0, 61, 3),
            0,
            None if windows == 1 else np.array([0, 1, 4, 6, 9, 10, 13, 20]),
        )
        batch = T.Batch(np.array([5, 0, 3, 2, 1]), 4, windows)
        whole = T.pad_batch(tokens, batch, batch_size=8)
        for own in (slice(0, 4), slice(4, 8), slice(2, 3), slice(6, 8)):
            for part, array in zip(T.pad_batch(tokens, batch, batch_size=8, own=own), whole, strict=True):
                np.testing.assert_array_equal(part[own], array[own])
                others = np.delete(part[:5], np.arange(8)[own][np.arange(8)[own] < 5], axis=0)
                assert not others.any()
