"""ModernBERT (Warner et al. 2024) as a Flax module: pre-norm, rotary positions, gated MLPs, mostly local attention."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from xrt_jax.encoders.attention import fused_lengths
from xrt_jax.encoders.dropout import Dropout
from xrt_jax.encoders.layers import (
    ACTIVATIONS,
    MASKED,
    attention,
    check_length,
    config_of,
    dense,
    first_token,
    layer_norm,
    make_module,
    mean_over,
    normal,
    rematerialised,
    split_heads,
)

_FIELD_OF_KEY = {  # ModernBertConfig -> ModernBert
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_positions",
    "global_attn_every_n_layers": "global_every",
    "local_attention": "window",
    "global_rope_theta": "global_theta",
    "local_rope_theta": "local_theta",
    "norm_eps": "layer_norm_eps",
    "norm_bias": "norm_bias",
    "attention_bias": "attention_bias",
    "mlp_bias": "mlp_bias",
    "hidden_activation": "hidden_act",
    "mlp_dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "pad_token_id": "pad_id",
}
_LAYER_NAMES = {
    "attention_norm": "attn_norm",
    "qkv": "attn.Wqkv",
    "attention_output": "attn.Wo",
    "mlp_norm": "mlp_norm",
    "gated": "mlp.Wi",
    "output": "mlp.Wo",
}


def rotated(x_bhtd: jax.Array, theta: float) -> jax.Array:
    """Rotary position embedding (Su et al. 2021): the halves of each head are turned by position / theta^(2i/d)."""
    t, d = x_bhtd.shape[-2:]
    angles = jnp.arange(t)[:, None] * theta ** (-jnp.arange(0, d, 2) / d)  # [t, d/2]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = jnp.split(x_bhtd.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_bhtd.dtype)


class ModernBertLayer(nn.Module):
    """One pre-norm block: token rows [b*t, d] in, [b*t, d] out. The first layer has no norm before its attention."""

    is_first: bool
    num_heads: int
    intermediate_size: int
    theta: float
    layer_norm_eps: float
    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool
    hidden_act: str
    hidden_dropout: float
    attention_dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x_nd: jax.Array, bias: jax.Array, deterministic: bool, lengths_b: jax.Array | None) -> jax.Array:
        """lengths_b: fused_lengths, None in a layer whose window leaves tokens out."""
        b, width = bias.shape[0], x_nd.shape[-1]
        linear = partial(dense, dtype=self.dtype)
        norm = partial(layer_norm, self.layer_norm_eps, use_bias=self.norm_bias)

        y_nd = x_nd if self.is_first else norm(name="attention_norm")(x_nd).astype(self.dtype)
        qkv = jnp.split(linear(3 * width, use_bias=self.attention_bias, name="qkv")(y_nd), 3, axis=-1)
        q, k, v = (split_heads(part, b, self.num_heads) for part in qkv)  # [b, h, t, d]
        q, k = rotated(q, self.theta), rotated(k, self.theta)
        y_nd = attention(q, k, v, bias, lengths_b, self.attention_dropout, deterministic)
        y_nd = linear(width, use_bias=self.attention_bias, name="attention_output")(y_nd)
        x_nd = x_nd + Dropout(self.attention_dropout)(y_nd, deterministic=deterministic)

        y_nd = norm(name="mlp_norm")(x_nd).astype(self.dtype)
        y_nf, gate_nf = jnp.split(
            linear(2 * self.intermediate_size, use_bias=self.mlp_bias, name="gated")(y_nd), 2, axis=-1
        )
        y_nf = Dropout(self.hidden_dropout)(ACTIVATIONS[self.hidden_act](y_nf) * gate_nf, deterministic=deterministic)
        return x_nd + linear(width, use_bias=self.mlp_bias, name="output")(y_nf)


class ModernBert(nn.Module):
    """ModernBERT encoder with a pooled text embedding; the fields are those of a Hugging Face ModernBertConfig.

    Every `global_every`-th layer sees the whole text, the others `window` // 2 tokens to both sides. `pooling`: "cls"
    or "mean". hidden_dropout acts on the embeddings, in the MLPs and on the pooled embedding. For the rest see Bert.
    """

    POOLINGS = ("cls", "mean")
    PREFIX = "model."

    vocab_size: int
    hidden_size: int = 768
    num_layers: int = 22
    num_heads: int = 12
    intermediate_size: int = 1152
    max_positions: int = 8192
    global_every: int = 3
    window: int = 128
    global_theta: float = 160000.0
    local_theta: float = 10000.0
    layer_norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_act: str = "gelu"
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    pad_id: int = 50283
    pooling: str = "cls"
    dtype: Any = jnp.float32
    remat: bool = False
    attention: str = "xla"

    @nn.compact
    def __call__(
        self, ids_bt: jax.Array, mask_bt: jax.Array, type_ids_bt: jax.Array | None = None, *, deterministic: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Token states [b, t, d] in `dtype` and text embeddings [b, d] float32; type_ids_bt is not read. As Bert."""
        b, t = ids_bt.shape
        check_length(self, t)
        mask_bt = mask_bt.astype(bool)
        near_tt = abs(jnp.arange(t)[:, None] - jnp.arange(t)) <= self.window // 2
        whole = jnp.where(mask_bt, 0.0, MASKED)[:, None, None, :]
        local = jnp.where(mask_bt[:, None, :] & near_tt, 0.0, MASKED)[:, None]  # [b, 1, t, t]

        lengths_b = fused_lengths(self, mask_bt, deterministic)
        sees_all = t - 1 <= self.window // 2  # else XLA's: cuDNN's windows, in JAX, reach to the left only

        norm = partial(layer_norm, self.layer_norm_eps, use_bias=self.norm_bias)
        words_btd = nn.Embed(self.vocab_size, self.hidden_size, embedding_init=normal, name="word_embeddings")(ids_bt)
        x_btd = Dropout(self.hidden_dropout)(norm(name="embeddings_norm")(words_btd), deterministic=deterministic)
        x_nd = x_btd.astype(self.dtype).reshape(b * t, self.hidden_size)
        for i in range(self.num_layers):
            is_global = i % self.global_every == 0
            x_nd = rematerialised(ModernBertLayer, self.remat)(
                is_first=i == 0,
                num_heads=self.num_heads,
                intermediate_size=self.intermediate_size,
                theta=self.global_theta if is_global else self.local_theta,
                layer_norm_eps=self.layer_norm_eps,
                norm_bias=self.norm_bias,
                attention_bias=self.attention_bias,
                mlp_bias=self.mlp_bias,
                hidden_act=self.hidden_act,
                hidden_dropout=self.hidden_dropout,
                attention_dropout=self.attention_dropout,
                dtype=self.dtype,
                name=f"layer_{i}",
            )(x_nd, whole if is_global else local, deterministic, lengths_b if is_global or sees_all else None)
        hidden_btd = norm(name="final_norm")(x_nd).astype(self.dtype).reshape(b, t, self.hidden_size)
        pooled_bd = mean_over(hidden_btd, mask_bt) if self.pooling == "mean" else first_token(hidden_btd)
        return hidden_btd, Dropout(self.hidden_dropout)(pooled_bd, deterministic=deterministic)

    @classmethod
    def from_config(cls, config: dict, **options: Any) -> "ModernBert":
        """The module of a ModernBertConfig's json, as transformers 4 or 5 writes it; `options` win over it."""
        rope = config.get("rope_parameters") or {}  # transformers 5
        for kind, key in (("full_attention", "global_rope_theta"), ("sliding_attention", "local_rope_theta")):
            if kind in rope:
                config = config | {key: rope[kind]["rope_theta"]}
        module = make_module(cls, config, _FIELD_OF_KEY, options)
        kinds = config.get("layer_types")
        if kinds is not None and (
            len(kinds) != module.num_layers
            or any((kind == "full_attention") != (i % module.global_every == 0) for i, kind in enumerate(kinds))
        ):
            raise ValueError(
                f"layer_types are not full attention at every {module.global_every}th layer: not supported"
            )
        return module

    def to_config(self) -> dict:
        """The ModernBertConfig json of this module."""
        names = {"architectures": ["ModernBertModel"], "model_type": "modernbert"}
        return names | config_of(self, _FIELD_OF_KEY) | {"embedding_dropout": self.hidden_dropout}

    @staticmethod
    def tensor_name(path: tuple[str, ...]) -> str:
        """The name in a ModernBertModel's state of the parameter at `path`."""
        *parents, leaf = path
        end = "bias" if leaf == "bias" else "weight"
        if parents[0].startswith("layer_"):
            return f"layers.{parents[0].removeprefix('layer_')}.{_LAYER_NAMES[parents[1]]}.{end}"
        names = {"word_embeddings": "embeddings.tok_embeddings", "embeddings_norm": "embeddings.norm"}
        return f"{names.get(parents[0], parents[0])}.{end}"
