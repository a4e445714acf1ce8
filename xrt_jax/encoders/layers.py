"""What the encoders share: attention, transformer blocks, poolings, and fields read from a Hugging Face config."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from xrt_jax.encoders.attention import fused_attention
from xrt_jax.encoders.dropout import Dropout

ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
MASKED = float(jnp.finfo(jnp.float32).min)  # added to a logit that must not count

normal = nn.initializers.normal(0.02)


# ---- products -------------------------------------------------------------------------------------------------------


@jax.custom_vjp
def product(x_ni: jax.Array, w_io: jax.Array) -> jax.Array:
    """x @ w, whose gradient on CPU is faster than the one that JAX derives: [n, o] in the type of both."""
    return x_ni @ w_io


def _product_fwd(x_ni, w_io):
    return x_ni @ w_io, (x_ni, w_io)


def _product_bwd(kept, dy_no):
    x_ni, w_io = kept
    dw_io = jax.lax.platform_dependent(x_ni, dy_no, cpu=_transposed_first, default=lambda x_ni, dy_no: x_ni.T @ dy_no)
    return dy_no @ w_io.T, dw_io


def _transposed_first(x_ni, dy_no):
    """x' @ dy by way of x' in memory: left to itself XLA contracts the first axes, a third slower for wide layers."""
    return jax.lax.optimization_barrier(x_ni.T) @ dy_no


product.defvjp(_product_fwd, _product_bwd)


def dense(width: int, *, name: str, dtype: Any, use_bias: bool = True) -> nn.Dense:
    """A dense layer for rows [n, d], computed by `product`."""
    by_product = lambda x_ni, w_io, *_, **__: product(x_ni, w_io)  # noqa: E731
    return nn.Dense(width, use_bias=use_bias, dtype=dtype, kernel_init=normal, dot_general=by_product, name=name)


# ---- blocks ---------------------------------------------------------------------------------------------------------


def layer_norm(eps: float, name: str, *, use_bias: bool = True) -> nn.LayerNorm:
    """LayerNorm in float32 whatever its input; two passes, as the one-pass variance loses digits."""
    return nn.LayerNorm(epsilon=eps, dtype=jnp.float32, use_fast_variance=False, use_bias=use_bias, name=name)


def split_heads(x_nd: jax.Array, b: int, num_heads: int) -> jax.Array:
    """[b*t, d] -> [b, h, t, d/h], the layout in which attention is fastest on CPU."""
    n, d = x_nd.shape
    return x_nd.reshape(b, n // b, num_heads, d // num_heads).transpose(0, 2, 1, 3)


def join_heads(x_bhtd: jax.Array) -> jax.Array:
    """The inverse of split_heads."""
    b, h, t, d = x_bhtd.shape
    return x_bhtd.transpose(0, 2, 1, 3).reshape(b * t, h * d)


def attend(
    logits_bhts: jax.Array, bias: jax.Array, v_bhsd: jax.Array, dropout: float, deterministic: bool
) -> jax.Array:
    """Softmax in float32 over s of logits + bias, dropped out, times the values: [b, h, t, d] in the values' type."""
    biased_bhts = logits_bhts.astype(jnp.float32) + bias
    if not deterministic:
        weights_bhts = jax.nn.softmax(biased_bhts, axis=-1).astype(v_bhsd.dtype)
        return Dropout(dropout)(weights_bhts, deterministic=False) @ v_bhsd
    # Divided by the sum after the product: a pass less over [b, h, t, s]. The gradient of this would be slower.
    weights_bhts = jnp.exp(biased_bhts - biased_bhts.max(-1, keepdims=True))
    y_bhtd = weights_bhts.astype(v_bhsd.dtype) @ v_bhsd
    return (y_bhtd / weights_bhts.sum(-1, keepdims=True)).astype(v_bhsd.dtype)


def attention(
    q_bhtd: jax.Array,
    k_bhtd: jax.Array,
    v_bhtd: jax.Array,
    bias: jax.Array,
    lengths_b: jax.Array | None,
    dropout: float,
    deterministic: bool,
) -> jax.Array:
    """What each token takes from the others, [b*t, h*d]: by fused_attention over lengths_b, or where None by attend."""
    if lengths_b is None:
        logits_bhts = (q_bhtd @ k_bhtd.swapaxes(-1, -2)).astype(jnp.float32) * q_bhtd.shape[-1] ** -0.5
        return join_heads(attend(logits_bhts, bias, v_bhtd, dropout, deterministic))
    y_bthd = fused_attention(*(x_bhtd.swapaxes(1, 2) for x_bhtd in (q_bhtd, k_bhtd, v_bhtd)), lengths_b)
    return join_heads(y_bthd.swapaxes(1, 2))


class PostNormLayer(nn.Module):
    """One transformer block of BERT and its kin: token rows [b*t, d] in, [b*t, d] out.

    The rows stay flat because XLA's matrix products on CPU, above all their gradients, are about a tenth faster so.
    `drops_attention`: dropout on the attention's output too, which DistilBERT does without.
    """

    num_heads: int
    intermediate_size: int
    layer_norm_eps: float
    hidden_act: str
    hidden_dropout: float
    attention_dropout: float
    dtype: Any
    drops_attention: bool = True

    @nn.compact
    def __call__(
        self, x_nd: jax.Array, bias_b11t: jax.Array, deterministic: bool, lengths_b: jax.Array | None
    ) -> jax.Array:
        """lengths_b: fused_lengths."""
        linear = partial(dense, dtype=self.dtype)
        norm = partial(layer_norm, self.layer_norm_eps)
        b, width = bias_b11t.shape[0], x_nd.shape[-1]

        def dropout(y_nd):
            return Dropout(self.hidden_dropout)(y_nd, deterministic=deterministic)

        heads = (linear(width, name=name)(x_nd) for name in ("query", "key", "value"))
        q, k, v = (split_heads(y_nd, b, self.num_heads) for y_nd in heads)  # [b, h, t, d]
        y_nd = attention(q, k, v, bias_b11t, lengths_b, self.attention_dropout, deterministic)
        y_nd = linear(width, name="attention_output")(y_nd)
        y_nd = dropout(y_nd) if self.drops_attention else y_nd
        x_nd = norm(name="attention_norm")(x_nd + y_nd).astype(self.dtype)

        y_nf = ACTIVATIONS[self.hidden_act](linear(self.intermediate_size, name="intermediate")(x_nd))
        y_nd = dropout(linear(width, name="output")(y_nf))
        return norm(name="output_norm")(x_nd + y_nd).astype(self.dtype)


def rematerialised(layer: type[nn.Module], remat: bool) -> type[nn.Module]:
    """The layer (called with x, bias, deterministic), recomputed in the backward pass where `remat` says so."""
    return nn.remat(layer, static_argnums=(3,)) if remat else layer


# ---- poolings -------------------------------------------------------------------------------------------------------


def mean_over(hidden_btd: jax.Array, mask_bt: jax.Array) -> jax.Array:
    """Mean of the token states under the mask, float32 [b, d]; zeros where the mask is empty."""
    weights_bt = mask_bt / jnp.maximum(mask_bt.sum(1, keepdims=True), 1)
    return jnp.einsum("btd,bt->bd", hidden_btd.astype(jnp.float32), weights_bt)


def first_token(hidden_btd: jax.Array) -> jax.Array:
    """State of the first token, float32 [b, d]."""
    return hidden_btd[:, 0].astype(jnp.float32)


def last_token(hidden_btd: jax.Array, mask_bt: jax.Array) -> jax.Array:
    """State of the last token under the mask, float32 [b, d]; texts start at position 0."""
    last_b = jnp.maximum(mask_bt.sum(1) - 1, 0)
    return jnp.take_along_axis(hidden_btd, last_b[:, None, None], axis=1)[:, 0].astype(jnp.float32)


# ---- configs --------------------------------------------------------------------------------------------------------


def check_length(module: nn.Module, t: int) -> None:
    """ValueError if texts of t tokens are too long for the encoder."""
    if t > module.max_positions:
        raise ValueError(f"texts of {t} tokens, but this encoder has {module.max_positions} positions: truncate them")


def make_module(cls: type[nn.Module], config: dict, field_of_key: dict[str, str], options: dict) -> nn.Module:
    """The module whose fields a Hugging Face config gives under its own keys; `options` win over it.

    The pooling "auto" is the first of the class's own. ValueError where something is missing or not supported.
    """
    fields = {field: config[key] for key, field in field_of_key.items() if config.get(key) is not None} | options
    if "vocab_size" not in fields:
        raise ValueError(f"config.json has no vocab_size: not the config of a {cls.__name__} encoder")
    if fields.get("pooling", "auto") == "auto":
        fields["pooling"] = cls.POOLINGS[0]
    module = cls(**fields)
    for field, known in (("hidden_act", ACTIVATIONS), ("pooling", cls.POOLINGS)):
        if getattr(module, field) not in known:
            raise ValueError(f"{field} {getattr(module, field)!r} is not supported: one of {', '.join(known)}")
    if module.hidden_size % module.num_heads:
        raise ValueError(f"hidden_size {module.hidden_size} is not a multiple of num_heads {module.num_heads}")
    return module


def config_of(module: nn.Module, field_of_key: dict[str, str]) -> dict:
    """The inverse of make_module: the config's keys with the module's fields."""
    return {key: getattr(module, field) for key, field in field_of_key.items()}
