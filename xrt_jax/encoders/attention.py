"""Which attention an encoder takes: XLA's everywhere, or cuDNN's fused one on NVIDIA GPUs, which keeps no logits."""

import functools
import logging

import flax.linen as nn
import jax
import jax.numpy as jnp

ATTENTIONS = ("auto", "xla", "cudnn")
_LARGEST_HEAD = 128  # GPUs before Hopper take no larger ones

_log = logging.getLogger(__name__)


def with_attention(module: nn.Module, wanted: str) -> nn.Module:
    """The encoder with the attention wanted, one of ATTENTIONS; "auto" is cuDNN's where it works, else XLA's.

    ValueError in one line for an unknown one, and where "cudnn" cannot be had. The first question whether it works is
    answered by running it, which takes a second; where a GPU should have it but fails, "auto" logs one line.
    """
    if wanted not in ATTENTIONS:
        raise ValueError(f"encoder.attention is {wanted!r}: choose one of {', '.join(ATTENTIONS)}")
    if wanted == "xla":
        return module
    obstacle = _obstacle(module)
    failure = None if obstacle else _failure(module.hidden_size // module.num_heads)
    if not obstacle and not failure:
        return module.clone(attention="cudnn")
    if wanted == "cudnn":
        raise ValueError(f"encoder.attention is 'cudnn', but {obstacle or failure}: choose auto or xla")
    if failure:
        _log.warning("attention by XLA: %s", failure)
    return module


def _obstacle(module: nn.Module) -> str | None:
    """Why cuDNN's attention is not for this encoder on this machine, None if it is."""
    if not hasattr(module, "attention"):
        return f"{type(module).__name__}'s logits are not a product of queries and keys alone"
    if "cuda" not in jax.devices()[0].client.platform_version:
        return "there is no NVIDIA GPU here"
    if module.dtype != jnp.bfloat16:
        return f"this encoder's products are {jnp.dtype(module.dtype).name}, not bfloat16"
    size = module.hidden_size // module.num_heads
    if size % 8 or size > _LARGEST_HEAD:
        return f"this encoder's heads have size {size}, not a multiple of 8 up to {_LARGEST_HEAD}"
    return None


@functools.cache
def _failure(head_size: int) -> str | None:
    """What goes wrong when cuDNN's attention and its gradient are run, None if nothing does."""

    def total(x_bthd):
        return fused_attention(x_bthd, x_bthd, x_bthd, jnp.array([64, 3], jnp.int32)).astype(jnp.float32).sum()

    try:
        jax.jit(jax.grad(total))(jnp.ones((2, 64, 1, head_size), jnp.bfloat16)).block_until_ready()
    except Exception as error:  # an old driver or library fails in ways of its own
        return f"cuDNN's does not work here ({(str(error).strip() or type(error).__name__).splitlines()[0]})"
    return None


def fused_attention(q_bthd: jax.Array, k_bthd: jax.Array, v_bthd: jax.Array, lengths_b: jax.Array) -> jax.Array:
    """cuDNN's softmax(q k' / sqrt(d)) v over the first lengths_b (int32, 1 or more) keys of each text: [b, t, h, d]."""
    return jax.nn.dot_product_attention(q_bthd, k_bthd, v_bthd, key_value_seq_lengths=lengths_b, implementation="cudnn")


def fused_lengths(module: nn.Module, mask_bt: jax.Array, deterministic: bool) -> jax.Array | None:
    """Keys of each text for fused_attention, int32 [b]; None where a pass of the encoder takes XLA's attention.

    That is the case in training with attention dropout, which cuDNN's does not have in JAX. The mask's real tokens
    come first in each text.
    """
    if module.attention != "cudnn" or not (deterministic or module.attention_dropout == 0):
        return None
    return jnp.maximum(mask_bt.sum(axis=1, dtype=jnp.int32), 1)
