"""Counted operations against XLA's own count of the compiled programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrt_jax.encoders import ENCODERS
from xrt_jax.encoders.flops import forward_cost, forward_flops, matmul_ceiling, training_flops

B, T, WIDTH = 2, 256, 512
# So wide that products dominate, so long that a wrong factor of attention (8 % of BERT's operations here) shows.
FIELDS = {"vocab_size": 50, "hidden_size": WIDTH, "num_layers": 2, "num_heads": 4, "intermediate_size": 4 * WIDTH}


def encoder(name: str, **fields):
    """(module, shapes of its parameters, its deterministic forward pass over B whole texts of T tokens)."""
    cls = ENCODERS[name]
    module = cls(**FIELDS, hidden_dropout=0.0, attention_dropout=0.0, pooling=cls.POOLINGS[0], **fields)
    ids_bt, mask_bt = jnp.ones((B, T), jnp.int32), jnp.ones((B, T), bool)
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), ids_bt, mask_bt, deterministic=True))["params"]
    return module, params, lambda params: module.apply({"params": params}, ids_bt, mask_bt, deterministic=True)[1]


def xla_flops(function, *args) -> float:
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("name", ENCODERS)
def test_xla_counts_as_many(name):
    module, params, embed = encoder(name)
    cost = forward_cost(module, params)
    ours = forward_flops(cost, [T] * B)
    # XLA's count has the activations, norms and softmax too, so that it is never below; with work in proportion to
    # WIDTH beside products in proportion to its square, these are 1.5 to 2.4 % here.
    assert 1 < xla_flops(embed, params) / ours < 1.03
    # Beside them, the first layer's inputs that are no parameters, such as XLNet's positions, need no gradient: -1.2 %
    # there, and up to 1.2 % for the others.
    trained = training_flops(cost, [T] * B)
    assert trained == 3 * ours
    assert 0.98 < xla_flops(jax.grad(lambda params: embed(params).sum()), params) / trained < 1.02


def test_the_head_counts_as_xla_counts_it():
    module, params, embed = encoder("bert")
    head_ld = jax.ShapeDtypeStruct((3000, WIDTH), jnp.float32)
    more = xla_flops(lambda params, W: embed(params) @ W.T, params, head_ld) - xla_flops(embed, params)
    counted = [forward_flops(forward_cost(module, params, labels), [T] * B) for labels in (0, 3000)]
    assert counted[1] - counted[0] == 2 * 3000 * WIDTH * B == more


def test_a_batch_costs_what_its_texts_cost():
    module, params, _ = encoder("bert")
    cost = forward_cost(module, params, 10)
    alone = [forward_flops(cost, [length]) for length in (3, 40)]
    assert forward_flops(cost, np.array([3, 40])) == sum(alone)
    assert alone[0] == 3 * cost.token + 9 * cost.pair + cost.text
    kernels = FIELDS["num_layers"] * 12 * WIDTH**2  # 4 of attention, 8 between width and 4 times the width
    assert cost == (2 * kernels, FIELDS["num_layers"] * 4 * WIDTH, 2 * WIDTH * (WIDTH + 10), 0)
    module, params, _ = encoder("xlnet")
    cost = forward_cost(module, params)
    shared = sum(forward_flops(cost, [length]) for length in (3, 40)) - forward_flops(cost, [3, 40])
    assert shared == 3 * cost.position == 3 * FIELDS["num_layers"] * 4 * WIDTH**2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ceiling_is_of_large_products_of_the_type(dtype, monkeypatch):
    ticks = iter(np.arange(1000) * 0.5)
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    # By this clock a measurement of two products takes half a second, whatever the machine: the smallest will do.
    assert matmul_ceiling(jnp.dtype(dtype)) == 2 * 512**3 * jax.device_count() / 0.25


@pytest.mark.parametrize("name", ENCODERS)
def test_no_texts_need_no_operations(name):
    """Of a last, short batch, a process may have no text among its own rows."""
    module, params, _ = encoder(name)
    assert training_flops(forward_cost(module, params, 7), np.zeros(0, np.int64)) == 0
