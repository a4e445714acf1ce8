"""BERT (Devlin et al. 2019) and RoBERTa (Liu et al. 2019) as Flax modules."""

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


class Bert(nn.Module):
    """BERT encoder with a pooled text embedding; the fields are those of a Hugging Face BertConfig.

    `pooling` makes the embedding: "pooler" is a tanh dense layer on the first token (as PECOS), "cls" the last hidden
    state of the first token, "mean" the mean of the last hidden states over the mask; each followed by hidden dropout.
    Parameters are float32; `dtype` is the type of the matrix products. Softmax, LayerNorm and the pooling are float32.
    `remat` recomputes each layer in the backward pass: less memory for about a third more time. `attention`: "xla", or
    "cudnn" (see with_attention), which wants every text's real tokens at the start of its row.
    """

    POOLINGS = ("pooler", "cls", "mean")
    PREFIX = "bert."  # of tensors' names in task models

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
    attention: str = "xla"

    @nn.compact
    def __call__(
        self, ids_bt: jax.Array, mask_bt: jax.Array, type_ids_bt: jax.Array | None = None, *, deterministic: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Token states [b, t, d] in `dtype` and text embeddings [b, d] float32.

        ids_bt int32; mask_bt bool or int, non-zero for real tokens; type_ids_bt int32, None for zeros.
        With deterministic=False a "dropout" rng is needed. ValueError if t > max_positions.
        """
        b, t = ids_bt.shape
        check_length(self, t)
        mask_bt = mask_bt.astype(bool)
        bias_b11t = jnp.where(mask_bt, 0.0, MASKED)[:, None, None, :]
        lengths_b = fused_lengths(self, mask_bt, deterministic)

        x_btd = self._embed(ids_bt, mask_bt, type_ids_bt)
        x_btd = Dropout(self.hidden_dropout)(x_btd, deterministic=deterministic)
        x_nd = x_btd.astype(self.dtype).reshape(b * t, self.hidden_size)
        for i in range(self.num_layers):
            x_nd = rematerialised(PostNormLayer, self.remat)(
                num_heads=self.num_heads,
                intermediate_size=self.intermediate_size,
                layer_norm_eps=self.layer_norm_eps,
                hidden_act=self.hidden_act,
                hidden_dropout=self.hidden_dropout,
                attention_dropout=self.attention_dropout,
                dtype=self.dtype,
                name=f"layer_{i}",
            )(x_nd, bias_b11t, deterministic, lengths_b)
        hidden_btd = x_nd.reshape(b, t, self.hidden_size)
        pooled_bd = self._pool(hidden_btd, mask_bt)
        return hidden_btd, Dropout(self.hidden_dropout)(pooled_bd, deterministic=deterministic)

    @property
    def nr_rows_of_positions(self) -> int:
        """Rows of the table of position embeddings."""
        return self.max_positions

    def _positions(self, mask_bt):
        """Row of the position table for each token, [b, t] or [t]."""
        return jnp.arange(mask_bt.shape[1])

    def _embed(self, ids_bt, mask_bt, type_ids_bt):
        embed = partial(nn.Embed, features=self.hidden_size, embedding_init=normal)
        words_btd = embed(self.vocab_size, name="word_embeddings")(ids_bt)
        positions = embed(self.nr_rows_of_positions, name="position_embeddings")(self._positions(mask_bt))
        types = embed(self.type_vocab_size, name="type_embeddings")
        types_btd = types(jnp.zeros((1, 1), jnp.int32) if type_ids_bt is None else type_ids_bt)
        return layer_norm(self.layer_norm_eps, name="embeddings_norm")(words_btd + positions + types_btd)

    def _pool(self, hidden_btd, mask_bt):
        if self.pooling == "mean":
            return mean_over(hidden_btd, mask_bt)
        first_bd = first_token(hidden_btd)
        if self.pooling == "cls":
            return first_bd
        return jnp.tanh(nn.Dense(self.hidden_size, kernel_init=normal, name="pooler")(first_bd))

    @classmethod
    def from_config(cls, config: dict, **options: Any) -> "Bert":
        """The module of a BertConfig's json; `options` are fields that win over it. ValueError where unsupported."""
        position = config.get("position_embedding_type", "absolute")
        if position != "absolute":
            raise ValueError(f"position_embedding_type {position!r} is not supported: only absolute")
        return make_module(cls, config, _FIELD_OF_KEY, options)

    def to_config(self) -> dict:
        """The BertConfig json of this module."""
        names = {"architectures": ["BertModel"], "model_type": "bert", "position_embedding_type": "absolute"}
        return names | config_of(self, _FIELD_OF_KEY)

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


class Roberta(Bert):
    """RoBERTa: BERT whose positions are counted over the mask, from pad_id + 1 on.

    The rows of the position table up to pad_id stand for padding, so that it has pad_id + 1 more than max_positions.
    """

    PREFIX = "roberta."
    MODEL_TYPE, ARCHITECTURE = "roberta", "RobertaModel"

    pad_id: int = 1
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5

    @property
    def nr_rows_of_positions(self) -> int:
        """Rows of the table of position embeddings."""
        return self.max_positions + self.pad_id + 1

    def _positions(self, mask_bt):
        return self.pad_id + jnp.cumsum(mask_bt, axis=1) * mask_bt

    @classmethod
    def from_config(cls, config: dict, **options: Any) -> "Roberta":
        """The module of a RobertaConfig's json; `options` are fields that win over it."""
        pad_id = 1 if config.get("pad_token_id") is None else config["pad_token_id"]
        positions = {"max_position_embeddings": config.get("max_position_embeddings", 514) - pad_id - 1}
        return super().from_config(config | positions | {"pad_token_id": pad_id}, **options)

    def to_config(self) -> dict:
        """The RobertaConfig json of this module."""
        names = {"architectures": [self.ARCHITECTURE], "model_type": self.MODEL_TYPE}
        return super().to_config() | names | {"max_position_embeddings": self.nr_rows_of_positions}


class XlmRoberta(Roberta):
    """XLM-RoBERTa (Conneau et al. 2020): RoBERTa with another vocabulary."""

    MODEL_TYPE, ARCHITECTURE = "xlm-roberta", "XLMRobertaModel"
