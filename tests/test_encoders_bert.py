"""The BERT module against torch's golden outputs, and dropout against its definition."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrt_jax.encoders.bert import Bert
from xrt_jax.encoders.dropout import Dropout, hashed_uniform_bits
from xrt_jax.encoders.huggingface import init_encoder, load_encoder
from xrt_jax.encoders.layers import product

TINY = Path(__file__).with_name("golden") / "bert_tiny"


def golden():
    return np.load(TINY / "outputs.npz")


def apply(module, params, *inputs):
    return jax.jit(lambda p: module.apply({"params": p}, *inputs, deterministic=True))(params)


@pytest.mark.parametrize("remat", [False, True])
def test_torch_gives_the_same_outputs(remat):
    module, params = load_encoder(TINY, remat=remat)
    expected = golden()
    mask = expected["mask"]
    assert mask.sum(1).tolist() == [7, 1, 4]
    for types, suffix in ((None, ""), (expected["types"], "_types")):
        hidden, pooled = apply(module, params, expected["ids"], mask, types)
        np.testing.assert_allclose(hidden[mask], expected[f"hidden{suffix}"][mask], atol=1e-5)
        np.testing.assert_allclose(pooled, expected[f"pooled{suffix}"], atol=1e-5)
        assert pooled.dtype == jnp.float32
    assert abs(expected["pooled"] - expected["pooled_types"]).max() > 0.1


def test_poolings_by_hand():
    expected = golden()
    hidden = expected["hidden"]
    means = np.stack([row[:n].mean(0) for row, n in zip(hidden, (7, 1, 4), strict=True)])
    for pooling, by_hand in (("cls", hidden[:, 0]), ("mean", means)):
        module, params = load_encoder(TINY, pooling=pooling)
        assert "pooler" not in params
        np.testing.assert_allclose(apply(module, params, expected["ids"], expected["mask"])[1], by_hand, atol=1e-5)


def test_padding_changes_nothing():
    module, params = load_encoder(TINY)
    ids = np.array([[2, 9, 8, 3]], np.int32)
    short = apply(module, params, ids, np.ones((1, 4), bool))[1]
    padded = np.concatenate([ids, [[7, 7, 7]]], axis=1)
    mask = np.array([[1, 1, 1, 1, 0, 0, 0]])
    np.testing.assert_allclose(apply(module, params, padded, mask)[1], short, atol=1e-5)


def test_row_without_tokens_is_finite_and_leaves_gradients_finite():
    module, params = load_encoder(TINY, pooling="mean")
    module = module.clone(num_layers=1)
    ids, mask = jnp.zeros((2, 3), jnp.int32), jnp.array([[1, 1, 0], [0, 0, 0]])
    grads = jax.jit(jax.grad(lambda p: apply(module, p, ids, mask)[1].sum()))(params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_bfloat16_is_close_and_keeps_float32_parameters():
    module, params = load_encoder(TINY, dtype=jnp.bfloat16)
    expected = golden()
    hidden, pooled = apply(module, params, expected["ids"], expected["mask"])
    assert hidden.dtype == jnp.bfloat16 and pooled.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    error = abs(pooled - expected["pooled"])
    assert 1e-5 < error.mean() < 0.05


def test_remat_gives_the_same_gradients_with_dropout():
    tiny, params = load_encoder(TINY)
    expected = golden()

    def gradient(remat):
        module = tiny.clone(num_layers=1, remat=remat)

        def loss(p):
            rngs = {"dropout": jax.random.key(3)}
            pooled = module.apply({"params": p}, expected["ids"], expected["mask"], deterministic=False, rngs=rngs)[1]
            return (pooled**2).sum()

        return jax.jit(jax.grad(loss))(params)

    for a, b in zip(jax.tree.leaves(gradient(False)), jax.tree.leaves(gradient(True)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("where", ["hidden_dropout", "attention_dropout"])
def test_each_dropout_acts_only_in_training(where):
    other = {"hidden_dropout", "attention_dropout"} - {where}
    module, params = load_encoder(TINY, **{where: 0.3, other.pop(): 0.0})
    ids, mask = jnp.arange(8)[None], jnp.ones((1, 8), bool)
    still = apply(module, params, ids, mask)[1]

    @jax.jit
    def embed(key):
        return module.apply({"params": params}, ids, mask, deterministic=False, rngs={"dropout": key})[1]

    train = [embed(jax.random.key(seed)) for seed in (0, 0, 1)]
    assert (train[0] == train[1]).all()
    assert (train[0] != train[2]).any() and (train[0] != still).any()


def test_dropout_keeps_the_mean_and_the_rate():
    x = jnp.ones((400, 500))
    y = Dropout(0.1).apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(0)})
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.9)}
    assert abs(float((y == 0).mean()) - 0.1) < 0.003  # 4.5 deviations
    assert (Dropout(0.1).apply({}, x, deterministic=True) == x).all()


def test_hashed_bits_are_uniform_and_independent():
    """Correlations of bits of neighbours, of bits of one word and of two keys: all within 5 deviations of none."""
    n = 1 << 14
    words = [np.asarray(hashed_uniform_bits(jax.random.key(seed), (n,))) for seed in (0, 1)]
    bits = [2.0 * ((w[:, None] >> np.arange(32, dtype=np.uint32)) & 1) - 1 for w in words]
    bound = 5 / np.sqrt(n)
    assert abs(bits[0].mean(0)).max() < bound
    for shift in (1, 12, 128):
        assert abs(bits[0][:-shift].T @ bits[0][shift:] / n).max() < bound
    within = bits[0].T @ bits[0] / n - np.eye(32)
    assert abs(within).max() < bound
    assert abs(bits[0].T @ bits[1] / n).max() < bound


def test_too_many_tokens_are_refused():
    module, params = load_encoder(TINY)
    with pytest.raises(ValueError, match="17 tokens, but this encoder has 16 positions"):
        apply(module, params, jnp.zeros((1, 17), jnp.int32), jnp.ones((1, 17), bool))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"hidden_act": "mish"}, "hidden_act 'mish' is not supported: one of gelu"),
        ({"num_attention_heads": 5}, "768 is not a multiple of num_heads 5"),
        ({"vocab_size": None}, "no vocab_size"),
    ],
)
def test_unsupported_configs_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        Bert.from_config({"vocab_size": 100} | config)


def test_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="pooling 'max' is not supported: one of pooler, cls, mean"):
        init_encoder(
            vocab_size=9, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8, max_positions=8, pooling="max"
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradient_of_dense_layers(dtype):
    rng = np.random.default_rng(0)
    x, w, dy = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in ((50, 7), (7, 9), (50, 9)))
    gradients = lambda f: jax.jit(lambda x, w: jax.vjp(f, x, w)[1](dy))  # noqa: E731
    found, expected = gradients(product)(x, w), gradients(jnp.matmul)(x, w)
    np.testing.assert_array_equal(product(x, w), x @ w)
    x64, w64, dy64 = (np.asarray(array, np.float64) for array in (x, w, dy))
    eps = float(jnp.finfo(dtype).eps)
    # The order of a sum is a machine's own: what it rounds off is a share of the sum of the terms' sizes.
    sizes = np.abs(dy64) @ np.abs(w64).T, np.abs(x64).T @ np.abs(dy64)
    for a, b, exact, size in zip(found, expected, (dy64 @ w64.T, x64.T @ dy64), sizes, strict=True):
        assert a.dtype == dtype
        for gradient in (a, b):
            assert (np.abs(np.asarray(gradient, np.float64) - exact) <= 2 * eps * size).all()
    for platform, transposes_first in (("cpu", True), ("cuda", False)):
        text = gradients(product).trace(x, w).lower(lowering_platforms=(platform,)).as_text()
        assert ("optimization_barrier" in text) == transposes_first
