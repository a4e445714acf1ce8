"""BERT (Devlin et al. 2019) as a Flax module, and what its fields and weights are called in a Hugging Face folder."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from xrt_jax.encoders.dropout import Dropout

ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
POOLINGS = ("pooler", "cls", "mean")

_FIELD_OF_KEY = {  # BertConfig -> Bert
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_positions",
    "type_vocab_size": "type_vocab_size",
    "layer_norm_eps": "layer_norm_eps",
    "hidden_act": "hidden_act",
    "hidden_dropout_prob": "hidden_dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "pad_token_id": "pad_id",
}
_LAYER_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}

_normal = nn.initializers.normal(0.02)


class BertLayer(nn.Module):
    """One post-norm transformer block: token rows [b*t, d] in, [b*t, d] out.

    The rows stay flat because XLA's matrix products on CPU, above all their gradients, are about a tenth faster so.
    """

    num_heads: int
    intermediate_size: int
    layer_norm_eps: float
    hidden_act: str
    hidden_dropout: float
    attention_dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x_nd: jax.Array, bias_b11t: jax.Array, deterministic: bool) -> jax.Array:
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=_normal)
        norm = partial(_layer_norm, self.layer_norm_eps)
        width = x_nd.shape[-1]

        def dropout(y_nd):
            return Dropout(self.hidden_dropout)(y_nd, deterministic=deterministic)

        query, key, value = (dense(width, name=name)(x_nd) for name in ("query", "key", "value"))
        y_nd = self._attention(query, key, value, bias_b11t, deterministic)
        y_nd = dropout(dense(width, name="attention_output")(y_nd))
        x_nd = norm(name="attention_norm")(x_nd + y_nd).astype(self.dtype)

        y_nf = ACTIVATIONS[self.hidden_act](dense(self.intermediate_size, name="intermediate")(x_nd))
        y_nd = dropout(dense(width, name="output")(y_nf))
        return norm(name="output_norm")(x_nd + y_nd).astype(self.dtype)

    def _attention(self, q_nd, k_nd, v_nd, bias_b11t, deterministic):
        """Softmax attention laid out as [b, h, t, d]: the fastest on CPU, ahead of jax.nn.dot_product_attention."""
        b, t, d = bias_b11t.shape[0], bias_b11t.shape[-1], q_nd.shape[-1]

        def split_heads(x_nd):
            return x_nd.reshape(b, t, self.num_heads, d // self.num_heads).transpose(0, 2, 1, 3)

        q, k, v = split_heads(q_nd), split_heads(k_nd), split_heads(v_nd)  # [b, h, t, d]
        logits_bhts = (q @ k.swapaxes(-1, -2)).astype(jnp.float32) * (d // self.num_heads) ** -0.5
        weights_bhts = jax.nn.softmax(logits_bhts + bias_b11t, axis=-1).astype(self.dtype)
        weights_bhts = Dropout(self.attention_dropout)(weights_bhts, deterministic=deterministic)
        return (weights_bhts @ v).transpose(0, 2, 1, 3).reshape(b * t, d)


class Bert(nn.Module):
    """BERT encoder with a pooled text embedding; the fields are those of a Hugging Face BertConfig.

    `pooling` makes the embedding: "pooler" is a tanh dense layer on the first token (as PECOS), "cls" the last hidden
    state of the first token, "mean" the mean of the last hidden states over the mask; each followed by hidden dropout.
    Parameters are float32; `dtype` is the type of the matrix products. Softmax, LayerNorm and the pooling are float32.
    `remat` recomputes each layer in the backward pass: less memory for about a third more time.
    """

    vocab_size: int
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    pad_id: int = 0
    pooling: str = "pooler"
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, ids_bt: jax.Array, mask_bt: jax.Array, type_ids_bt: jax.Array | None = None, *, deterministic: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Token states [b, t, d] in `dtype` and text embeddings [b, d] float32.

        ids_bt int32; mask_bt bool or int, non-zero for real tokens; type_ids_bt int32, None for zeros.
        With deterministic=False a "dropout" rng is needed. ValueError if t > max_positions.
        """
        b, t = ids_bt.shape
        if t > self.max_positions:
            raise ValueError(f"texts of {t} tokens, but this encoder has {self.max_positions} positions: truncate them")
        mask_bt = mask_bt.astype(bool)
        bias_b11t = jnp.where(mask_bt, 0.0, jnp.finfo(jnp.float32).min)[:, None, None, :]

        x_btd = self._embed(ids_bt, type_ids_bt)
        x_btd = Dropout(self.hidden_dropout)(x_btd, deterministic=deterministic)
        x_nd = x_btd.astype(self.dtype).reshape(b * t, self.hidden_size)
        layer = nn.remat(BertLayer, static_argnums=(3,)) if self.remat else BertLayer
        for i in range(self.num_layers):
            x_nd = layer(
                num_heads=self.num_heads,
                intermediate_size=self.intermediate_size,
                layer_norm_eps=self.layer_norm_eps,
                hidden_act=self.hidden_act,
                hidden_dropout=self.hidden_dropout,
                attention_dropout=self.attention_dropout,
                dtype=self.dtype,
                name=f"layer_{i}",
            )(x_nd, bias_b11t, deterministic)
        hidden_btd = x_nd.reshape(b, t, self.hidden_size)
        pooled_bd = self._pool(hidden_btd, mask_bt)
        return hidden_btd, Dropout(self.hidden_dropout)(pooled_bd, deterministic=deterministic)

    def _embed(self, ids_bt, type_ids_bt):
        embed = partial(nn.Embed, features=self.hidden_size, embedding_init=_normal)
        words_btd = embed(self.vocab_size, name="word_embeddings")(ids_bt)
        positions_td = embed(self.max_positions, name="position_embeddings")(jnp.arange(ids_bt.shape[1]))
        types = embed(self.type_vocab_size, name="type_embeddings")
        types_btd = types(jnp.zeros((1, 1), jnp.int32) if type_ids_bt is None else type_ids_bt)
        return _layer_norm(self.layer_norm_eps, name="embeddings_norm")(words_btd + positions_td + types_btd)

    def _pool(self, hidden_btd, mask_bt):
        if self.pooling == "mean":
            weights_bt = mask_bt / jnp.maximum(mask_bt.sum(1, keepdims=True), 1)
            return jnp.einsum("btd,bt->bd", hidden_btd.astype(jnp.float32), weights_bt)
        first_bd = hidden_btd[:, 0].astype(jnp.float32)
        if self.pooling == "cls":
            return first_bd
        return jnp.tanh(nn.Dense(self.hidden_size, kernel_init=_normal, name="pooler")(first_bd))

    @classmethod
    def from_config(cls, config: dict, **options: Any) -> "Bert":
        """The module of a BertConfig's json; `options` are fields that win over it. ValueError where unsupported."""
        position = config.get("position_embedding_type", "absolute")
        if position != "absolute":
            raise ValueError(f"position_embedding_type {position!r} is not supported: only absolute")
        fields = {field: config[key] for key, field in _FIELD_OF_KEY.items() if config.get(key) is not None} | options
        if "vocab_size" not in fields:
            raise ValueError("config.json has no vocab_size: not the config of a BERT encoder")
        module = cls(**fields)
        for field, known in (("hidden_act", ACTIVATIONS), ("pooling", POOLINGS)):
            if getattr(module, field) not in known:
                raise ValueError(f"{field} {getattr(module, field)!r} is not supported: one of {', '.join(known)}")
        if module.hidden_size % module.num_heads:
            raise ValueError(f"hidden_size {module.hidden_size} is not a multiple of num_heads {module.num_heads}")
        return module

    def to_config(self) -> dict:
        """The BertConfig json of this module."""
        fields = {key: getattr(self, field) for key, field in _FIELD_OF_KEY.items()}
        return {"architectures": ["BertModel"], "model_type": "bert", "position_embedding_type": "absolute", **fields}

    @staticmethod
    def tensor_name(path: tuple[str, ...]) -> str:
        """The name in a BertModel's state of the parameter at `path`, such as ("layer_0", "query", "kernel")."""
        *parents, leaf = path
        end = "bias" if leaf == "bias" else "weight"
        if parents[0] == "pooler":
            return f"pooler.dense.{end}"
        if parents[0].startswith("layer_"):
            return f"encoder.layer.{parents[0].removeprefix('layer_')}.{_LAYER_NAMES[parents[1]]}.{end}"
        names = {"type_embeddings": "token_type_embeddings", "embeddings_norm": "LayerNorm"}
        return f"embeddings.{names.get(parents[0], parents[0])}.{end}"


def _layer_norm(eps: float, name: str) -> nn.LayerNorm:
    """LayerNorm in float32 whatever its input; two passes, as the one-pass variance loses digits."""
    return nn.LayerNorm(epsilon=eps, dtype=jnp.float32, use_fast_variance=False, name=name)
