"""Floating-point operations of a training step, counted from the parameters, and how many a second the devices reach.

A multiplication and an addition are two. Only matrix products count: activations, norms and softmax are a few per cent.
"""

import time
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

_DENSE = ("kernel", "q", "k", "v", "o", "seg_embed")  # leaves that every token is multiplied by; the latter are XLNet's
_OF_POSITIONS = "r"  # XLNet's, which the relative positions are multiplied by
_REPEATS = 5  # of a measurement of matmul_ceiling
_SMALLEST = 512  # its first matrices


class Cost(NamedTuple):
    """Operations of a forward pass."""

    token: int  # for each token: dense layers
    pair: (
        int  # for each pair of tokens of a text: attention, as it is computed here, also where it is masked to a window
    )
    text: int  # for each text: pooler and head
    position: int  # for each token of the batch's longest text, once a batch: XLNet's relative positions


def forward_cost(module: nn.Module, params: dict, nr_labels: int = 0) -> Cost:
    """Cost of an encoder of this package with these parameters (or their shapes) and a dense head on nr_labels."""
    sizes = {path: 2 * leaf.size for path, leaf in flatten_dict(params).items()}
    pooler = sum(size for path, size in sizes.items() if path == ("pooler", "kernel"))
    dense = sum(size for path, size in sizes.items() if path[-1] in _DENSE) - pooler
    # From t - 1 to -t there are 2t relative positions: twice the products of a token, both here and in attention.
    position = sum(2 * size for path, size in sizes.items() if path[-1] == _OF_POSITIONS)
    a_layer = (8 if position else 4) * module.hidden_size  # logits and weighted values, 2 each; by position, 4
    return Cost(dense, module.num_layers * a_layer, pooler + 2 * nr_labels * module.hidden_size, position)


def forward_flops(cost: Cost, lengths_b: np.ndarray) -> int:
    """Operations of the forward pass over a batch of texts of these lengths in tokens, int [b]; 0 for no texts."""
    lengths_b = np.asarray(lengths_b, np.int64)
    by_length = cost.token * lengths_b.sum() + cost.pair * (lengths_b**2).sum()
    return int(by_length + cost.text * len(lengths_b) + cost.position * lengths_b.max(initial=0))


def training_flops(cost: Cost, lengths_b: np.ndarray) -> int:
    """Operations of a training step: the backward pass has two products for each one of the forward pass.

    What a layer computes again to save memory (remat) does not count: it is no progress.
    """
    return 3 * forward_flops(cost, lengths_b)


def matmul_ceiling(dtype: Any) -> float:
    """Operations a second of large products of square matrices of a type, all devices together, as measured now.

    That of one device, times their number: a product for each, of arrays [device, n, n], is batched, and on CPU batched
    products reach a third of it. The median of a few measurements; less than a second. The matrices grow until their
    product takes its time.
    """
    product = jax.jit(jnp.matmul)
    drawn = np.random.default_rng(0).standard_normal((_SMALLEST, _SMALLEST), np.float32).astype(dtype)
    for times in (1, 2, 4, 8, 16):
        size = times * _SMALLEST
        x_nn = jax.device_put(np.tile(drawn, (times, times)), jax.local_devices()[0])
        product(x_nn, x_nn).block_until_ready()  # compiled
        seconds = float(np.median([_seconds(product, x_nn) for _ in range(_REPEATS)]))
        if seconds > 0.01:
            break
    return 2 * size**3 * jax.device_count() / seconds


def _seconds(product, x_nn) -> float:
    """Of one product when several follow each other, so that no device waits for the next."""
    start = time.perf_counter()
    jax.block_until_ready([product(x_nn, x_nn) for _ in range(2)])
    return (time.perf_counter() - start) / 2
