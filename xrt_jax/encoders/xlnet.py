"""XLNet (Yang et al. 2019) as a Flax module: attention by relative positions (Dai et al. 2019) and segments."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from xrt_jax.encoders.dropout import Dropout
from xrt_jax.encoders.layers import (
    ACTIVATIONS,
    MASKED,
    attend,
    check_length,
    config_of,
    dense,
    join_heads,
    last_token,
    layer_norm,
    make_module,
    mean_over,
    normal,
    rematerialised,
    split_heads,
)

_FIELD_OF_KEY = {  # XLNetConfig -> XlNet
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "d_inner": "intermediate_size",
    "clamp_len": "clamp_len",
    "layer_norm_eps": "layer_norm_eps",
    "ff_activation": "hidden_act",
    "dropout": "hidden_dropout",
    "pad_token_id": "pad_id",
}
_LAYER_NAMES = {
    "attention_norm": "rel_attn.layer_norm",
    "intermediate": "ff.layer_1",
    "output": "ff.layer_2",
    "output_norm": "ff.layer_norm",
}
_CLS_SEGMENT = 2


def position_waves(t: int, width: int, clamp_len: int) -> jax.Array:
    """Sines, then cosines of the relative positions t, t - 1, …, 1 - t: float32 [2t, width]."""
    distance = jnp.arange(t, -t, -1.0)
    if clamp_len > 0:
        distance = jnp.clip(distance, -clamp_len, clamp_len)
    angles = distance[:, None] * 10000.0 ** (-jnp.arange(0, width, 2) / width)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def shifted(x_bhtr: jax.Array) -> jax.Array:
    """[b, h, t, 2t] by relative position -> [b, h, t, t] by key: column t + j - i of row i becomes column j."""
    b, h, t, r = x_bhtr.shape
    return x_bhtr.reshape(b, h, r, t)[:, :, 1:].reshape(b, h, t, r - 1)[..., :t]


class XlNetLayer(nn.Module):
    """One post-norm block: token rows [b*t, d] in, [b*t, d] out."""

    num_heads: int
    intermediate_size: int
    layer_norm_eps: float
    hidden_act: str
    hidden_dropout: float
    attention_dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x_nd, bias, deterministic: bool, waves_rd, same_b1tt) -> jax.Array:
        """bias [b, 1, t, t]; waves_rd: position_waves; same_b1tt: whether two tokens are of one segment."""
        linear = partial(dense, dtype=self.dtype)
        norm = partial(layer_norm, self.layer_norm_eps)
        b, width, h = bias.shape[0], x_nd.shape[-1], self.num_heads
        head_shape = (h, width // h)

        def dropout(y_nd):
            return Dropout(self.hidden_dropout)(y_nd, deterministic=deterministic)

        def table(name, *shape):
            return self.param(name, normal, (*shape, *head_shape)).astype(self.dtype)

        def heads(y_nd, name, b):
            return split_heads(y_nd @ table(name, width).reshape(width, width), b, h)

        q, k, v = (heads(x_nd, name, b) for name in "qkv")  # [b, h, t, d]
        r_1hrd = heads(waves_rd, "r", 1)
        content, position, segment = (q + table(f"r_{name}_bias")[:, None] for name in "wrs")
        by_segment = jnp.einsum("bhtd,shd->bhts", segment, table("seg_embed", 2))  # of the same segment, of another
        logits_bhts = content @ k.swapaxes(-1, -2) + shifted(position @ r_1hrd.swapaxes(-1, -2))
        logits_bhts += jnp.where(same_b1tt, by_segment[..., :1], by_segment[..., 1:])
        logits_bhts = logits_bhts.astype(jnp.float32) * head_shape[1] ** -0.5
        y_nd = join_heads(attend(logits_bhts, bias, v, self.attention_dropout, deterministic))
        y_nd = dropout(y_nd @ table("o", width).reshape(width, width).T)
        x_nd = norm(name="attention_norm")(x_nd + y_nd).astype(self.dtype)

        y_nf = ACTIVATIONS[self.hidden_act](linear(self.intermediate_size, name="intermediate")(x_nd))
        y_nd = dropout(linear(width, name="output")(dropout(y_nf)))
        return norm(name="output_norm")(x_nd + y_nd).astype(self.dtype)


class XlNet(nn.Module):
    """XLNet encoder with a pooled text embedding; the fields are those of a Hugging Face XLNetConfig.

    `pooling`: "summary", tanh of the last token's state (as PECOS), or "mean". Texts are padded on the right here,
    which changes nothing, as positions are relative. For the rest see Bert.
    """

    POOLINGS = ("summary", "mean")
    PREFIX = "transformer."

    vocab_size: int
    hidden_size: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    intermediate_size: int = 4096
    clamp_len: int = -1
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    max_positions: int = 1 << 20  # relative positions have no limit
    pad_id: int = 5
    pooling: str = "summary"
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, ids_bt: jax.Array, mask_bt: jax.Array, type_ids_bt: jax.Array | None = None, *, deterministic: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Token states [b, t, d] in `dtype` and text embeddings [b, d] float32. As Bert.

        type_ids_bt int32; None: a text's last token, <cls>, is of a segment of its own, as the tokenizer has it.
        """
        b, t = ids_bt.shape
        check_length(self, t)
        mask_bt = mask_bt.astype(bool)
        if type_ids_bt is None:
            type_ids_bt = _CLS_SEGMENT * (jnp.arange(t) == mask_bt.sum(1, keepdims=True) - 1)
        same_b1tt = (type_ids_bt[:, :, None] == type_ids_bt[:, None, :])[:, None]
        bias = jnp.where(mask_bt[:, None, :] | jnp.eye(t, dtype=bool), 0.0, MASKED)[:, None]

        def dropout(y):
            return Dropout(self.hidden_dropout)(y, deterministic=deterministic)

        self.param("mask_emb", normal, (1, 1, self.hidden_size))  # of pre-training; kept for those who load the folder
        x_btd = nn.Embed(self.vocab_size, self.hidden_size, embedding_init=normal, name="word_embedding")(ids_bt)
        x_nd = dropout(x_btd).astype(self.dtype).reshape(b * t, self.hidden_size)
        waves_rd = dropout(position_waves(t, self.hidden_size, self.clamp_len)).astype(self.dtype)
        for i in range(self.num_layers):
            x_nd = rematerialised(XlNetLayer, self.remat)(
                num_heads=self.num_heads,
                intermediate_size=self.intermediate_size,
                layer_norm_eps=self.layer_norm_eps,
                hidden_act=self.hidden_act,
                hidden_dropout=self.hidden_dropout,
                attention_dropout=self.attention_dropout,
                dtype=self.dtype,
                name=f"layer_{i}",
            )(x_nd, bias, deterministic, waves_rd, same_b1tt)
        hidden_btd = dropout(x_nd).reshape(b, t, self.hidden_size)
        is_mean = self.pooling == "mean"
        pooled_bd = mean_over(hidden_btd, mask_bt) if is_mean else jnp.tanh(last_token(hidden_btd, mask_bt))
        return hidden_btd, dropout(pooled_bd)

    @classmethod
    def from_config(cls, config: dict, **options: Any) -> "XlNet":
        """The module of an XLNetConfig's json; `options` are fields that win over it. ValueError where unsupported."""
        if config.get("attn_type", "bi") != "bi" or config.get("bi_data"):
            raise ValueError("attn_type other than 'bi' and bi_data are not supported")
        module = make_module(cls, config, _FIELD_OF_KEY, options)
        return module if "attention_dropout" in options else module.clone(attention_dropout=module.hidden_dropout)

    def to_config(self) -> dict:
        """The XLNetConfig json of this module."""
        names = {"architectures": ["XLNetModel"], "model_type": "xlnet", "attn_type": "bi", "untie_r": True}
        return names | config_of(self, _FIELD_OF_KEY)

    @staticmethod
    def tensor_name(path: tuple[str, ...]) -> str:
        """The name in an XLNetModel's state of the parameter at `path`."""
        if len(path) == 1:
            return path[0]
        if path[0] == "word_embedding":
            return "word_embedding.weight"
        layer = f"layer.{path[0].removeprefix('layer_')}"
        if len(path) == 2:
            return f"{layer}.rel_attn.{path[1]}"
        return f"{layer}.{_LAYER_NAMES[path[1]]}.{'bias' if path[2] == 'bias' else 'weight'}"
