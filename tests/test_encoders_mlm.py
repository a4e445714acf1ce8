"""Masked language modelling: the recipe's shares, and a loss that falls below what word frequencies alone allow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xrt_jax.encoders.huggingface import init_encoder
from xrt_jax.encoders.mlm import MlmHead, mask_tokens, pretrain

CLS, SEP, MASK = 2, 3, 4
SPECIAL = (0, 1, CLS, SEP, MASK)

jitted_mask_tokens = jax.jit(mask_tokens, static_argnames=("mask_id", "vocab_size", "special_ids", "nr_masked"))


def tiny(vocab_size, **options):
    sizes = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64, "max_positions": 16}
    return init_encoder(vocab_size=vocab_size, **sizes, **options)


def masked(ids, mask, *, seed=0, rate=0.15, nr_masked=6):
    options = {"mask_id": MASK, "vocab_size": 1000, "special_ids": SPECIAL, "rate": rate, "nr_masked": nr_masked}
    return [np.asarray(a) for a in jitted_mask_tokens(jax.random.key(seed), ids, mask, **options)]


def texts(lengths, width, seed=0):
    """[CLS] words [SEP] padding, with ids 5 to 999."""
    ids = np.random.default_rng(seed).integers(5, 1000, (len(lengths), width)).astype(np.int32)
    ids[:, 0] = CLS
    mask = np.arange(width) < np.array(lengths)[:, None]
    ids[np.arange(len(lengths)), np.array(lengths) - 1] = SEP
    return np.where(mask, ids, 0), mask


def test_number_of_chosen_tokens_by_hand():
    ids, mask = texts([42, 22, 3, 2], 42)  # 40, 20, 1 and 0 ordinary tokens
    assert masked(ids, mask)[3].sum(1).tolist() == [6, 3, 1, 0]
    assert masked(ids, mask, nr_masked=4)[3].sum(1).tolist() == [4, 3, 1, 0]


def test_only_chosen_ordinary_tokens_change():
    ids, mask = texts([30, 12, 2, 25], 30)
    for seed in range(10):
        inputs, positions, targets, weights = masked(ids, mask, seed=seed)
        chosen = np.zeros_like(mask)
        for row in range(len(ids)):
            places = positions[row][weights[row] > 0]
            assert len(set(places)) == len(places)
            chosen[row, places] = True
        assert not chosen[np.isin(ids, SPECIAL)].any()
        assert (inputs[~chosen] == ids[~chosen]).all()
        np.testing.assert_array_equal(targets, np.take_along_axis(ids, positions, axis=1))
        assert inputs.dtype == np.int32 and targets.dtype == np.int32


def test_shares_of_the_recipe():
    ids, mask = texts([102] * 400, 102)
    inputs, positions, targets, weights = masked(ids, mask, nr_masked=15)
    assert weights.sum() == 6000
    seen = np.take_along_axis(inputs, positions, axis=1)
    share_masked, share_kept = (seen == MASK).mean(), (seen == targets).mean()
    assert abs(share_masked - 0.8) < 0.025 and abs(share_kept - 0.1) < 0.02  # 5 deviations
    assert len(np.unique(seen[(seen != MASK) & (seen != targets)])) > 300
    counts = np.bincount(positions.ravel(), minlength=102)
    assert counts[0] == counts[101] == 0 and counts[1:101].min() > 20


def topics(rng, batch, width):
    """Texts of one topic each: 4 topics of 4 words, so a word costs ln 16 nats alone and ln 4 among its neighbours."""
    topic = rng.integers(0, 4, (batch, 1))
    ids = np.full((batch, width), SEP, np.int32)
    ids[:, 0] = CLS
    ids[:, 1:-1] = 5 + 4 * topic + rng.integers(0, 4, (batch, width - 2))
    return ids, np.ones_like(ids, bool)


def test_loss_falls_below_the_entropy_of_the_words():
    rng = np.random.default_rng(0)
    module, params = tiny(21, hidden_dropout=0.0, attention_dropout=0.0)
    before = jax.tree.map(np.array, params)
    logs = []
    trained = pretrain(
        module,
        params,
        (topics(rng, 32, 12) for _ in range(400)),
        learning_rate=3e-3,
        warmup_steps=30,
        max_steps=300,
        mask_id=MASK,
        special_ids=SPECIAL,
        seed=0,
        log=logs.append,
    )
    entropy = np.log(16)
    losses = [entry["loss"] for entry in logs]
    assert abs(losses[0] - entropy) < 0.6
    assert np.mean(losses[-3:]) < 0.6 * entropy
    assert logs[-1]["step"] == 300 and logs[-1]["learning_rate"] < 1e-4
    for leaf, copy in zip(jax.tree.leaves(params), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(leaf, copy)  # what was passed in is still there, unchanged
    np.testing.assert_array_equal(trained["pooler"]["kernel"], before["pooler"]["kernel"])
    assert (trained["layer_0"]["query"]["kernel"] != before["layer_0"]["query"]["kernel"]).any()


def test_same_seed_same_bits_and_no_batch_beyond_max_steps():
    rng = np.random.default_rng(0)
    batches = [topics(rng, 4, 12) for _ in range(5)]
    bars = []

    class Bar:
        def __init__(self, total, desc):
            self.total, self.done, self.closed = total, 0, False
            bars.append(self)

        def update(self, n):
            self.done += n

        def close(self):
            self.closed = True

    def run():
        module, params = tiny(21)
        rest = iter(batches)
        schedule = {"learning_rate": 1e-3, "warmup_steps": 1, "max_steps": 3}
        ids = {"mask_id": MASK, "special_ids": SPECIAL}
        return pretrain(module, params, rest, **schedule, **ids, seed=0, progress=Bar), len(list(rest))

    (one, left), (same, _) = run(), run()
    assert left == 2
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(same), strict=True))
    assert [(bar.total, bar.done, bar.closed) for bar in bars] == [(3, 3, True)] * 2


def test_head_logits_are_tied_to_the_word_table():
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(7, 4)), jnp.float32)
    hidden = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
    head = MlmHead(jnp.float32)
    params = head.init(jax.random.key(0), hidden, table)
    once, twice = head.apply(params, hidden, table), head.apply(params, hidden, 2 * table)
    assert once.shape == (2, 3, 7)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)
    assert optax.tree.norm(jax.grad(lambda t: head.apply(params, hidden, t).std())(table)) > 0
