"""DistilBERT (Sanh et al. 2019) as a Flax module: BERT without types, pooler and dropout on the attention's output."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from xrt_jax.encoders.attention import fused_lengths
from xrt_jax.encoders.dropout import Dropout
from xrt_jax.encoders.layers import (
    MASKED,
    PostNormLayer,
    check_length,
    config_of,
    first_token,
    layer_norm,
    make_module,
    mean_over,
    normal,
    rematerialised,
)

_FIELD_OF_KEY = {  # DistilBertConfig -> DistilBert
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "n_layers": "num_layers",
    "n_heads": "num_heads",
    "hidden_dim": "intermediate_size",
    "max_position_embeddings": "max_positions",
    "activation": "hidden_act",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "pad_token_id": "pad_id",
}
_LAYER_NAMES = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "attention_output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "intermediate": "ffn.lin1",
    "output": "ffn.lin2",
    "output_norm": "output_layer_norm",
}
_EPS = 1e-12


class DistilBert(nn.Module):
    """DistilBERT encoder with a pooled text embedding; the fields are those of a Hugging Face DistilBertConfig.

    `pooling`: "cls" (as PECOS) or "mean". For the rest see Bert.
    """

    POOLINGS = ("cls", "mean")
    PREFIX = "distilbert."

    vocab_size: int
    hidden_size: int = 768
    num_layers: int = 6
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    hidden_act: str = "gelu"
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    pad_id: int = 0
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
        bias_b11t = jnp.where(mask_bt, 0.0, MASKED)[:, None, None, :]
        lengths_b = fused_lengths(self, mask_bt, deterministic)

        embed = partial(nn.Embed, features=self.hidden_size, embedding_init=normal)
        words_btd = embed(self.vocab_size, name="word_embeddings")(ids_bt)
        positions_td = embed(self.max_positions, name="position_embeddings")(jnp.arange(t))
        x_btd = layer_norm(_EPS, name="embeddings_norm")(words_btd + positions_td)
        x_btd = Dropout(self.hidden_dropout)(x_btd, deterministic=deterministic)
        x_nd = x_btd.astype(self.dtype).reshape(b * t, self.hidden_size)
        for i in range(self.num_layers):
            x_nd = rematerialised(PostNormLayer, self.remat)(
                num_heads=self.num_heads,
                intermediate_size=self.intermediate_size,
                layer_norm_eps=_EPS,
                hidden_act=self.hidden_act,
                hidden_dropout=self.hidden_dropout,
                attention_dropout=self.attention_dropout,
                dtype=self.dtype,
                drops_attention=False,
                name=f"layer_{i}",
            )(x_nd, bias_b11t, deterministic, lengths_b)
        hidden_btd = x_nd.reshape(b, t, self.hidden_size)
        pooled_bd = mean_over(hidden_btd, mask_bt) if self.pooling == "mean" else first_token(hidden_btd)
        return hidden_btd, Dropout(self.hidden_dropout)(pooled_bd, deterministic=deterministic)

    @classmethod
    def from_config(cls, config: dict, **options: Any) -> "DistilBert":
        """The module of a DistilBertConfig's json; `options` are fields that win over it. ValueError as Bert's."""
        return make_module(cls, config, _FIELD_OF_KEY, options)

    def to_config(self) -> dict:
        """The DistilBertConfig json of this module."""
        names = {"architectures": ["DistilBertModel"], "model_type": "distilbert", "sinusoidal_pos_embds": False}
        return names | config_of(self, _FIELD_OF_KEY)

    @staticmethod
    def tensor_name(path: tuple[str, ...]) -> str:
        """The name in a DistilBertModel's state of the parameter at `path`."""
        *parents, leaf = path
        end = "bias" if leaf == "bias" else "weight"
        if parents[0].startswith("layer_"):
            return f"transformer.layer.{parents[0].removeprefix('layer_')}.{_LAYER_NAMES[parents[1]]}.{end}"
        return f"embeddings.{'LayerNorm' if parents[0] == 'embeddings_norm' else parents[0]}.{end}"
