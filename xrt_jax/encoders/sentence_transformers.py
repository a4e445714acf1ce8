"""What makes an encoder folder one of `sentence-transformers` too, which then gives the same embeddings."""

from pathlib import Path

import flax.linen as nn
import numpy as np

from xrt_jax.disk import replace_file, write_json

_MODES = {"mean": "mean_tokens", "cls": "cls_token", "pooler": "cls_token", "summary": "lasttoken"}


def save_modules(folder: str | Path, module: nn.Module, params: dict, *, truncate_length: int) -> None:
    """Writes modules.json and what it lists beside the encoder that save_encoder wrote.

    The poolings "pooler" and "summary" are the first or last token's state, a dense layer (of "summary", the identity)
    and tanh. Several windows a text cannot be expressed: there the embedding is that of the text's first window.
    """
    folder, parts = Path(folder), ["Transformer", "Pooling"]
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": truncate_length, "do_lower_case": False})
    modes = {f"pooling_mode_{mode}": mode == _MODES[module.pooling] for mode in sorted(set(_MODES.values()))}
    write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": module.hidden_size, **modes})
    if module.pooling in ("pooler", "summary"):
        parts.append("Dense")
        _save_dense(folder / "2_Dense", module, params)
    paths = ["", *(f"{number}_{part}" for number, part in enumerate(parts[1:], 1))]
    write_json(
        folder / "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{part}"}
            for number, (part, path) in enumerate(zip(parts, paths, strict=True))
        ],
    )


def _save_dense(folder: Path, module: nn.Module, params: dict) -> None:
    from safetensors.numpy import save

    size = module.hidden_size
    if module.pooling == "pooler":
        weight, bias = np.asarray(params["pooler"]["kernel"]).T, np.asarray(params["pooler"]["bias"])
    else:
        weight, bias = np.eye(size, dtype=np.float32), np.zeros(size, np.float32)
    activation = "torch.nn.modules.activation.Tanh"
    write_json(
        folder / "config.json",
        {"in_features": size, "out_features": size, "bias": True, "activation_function": activation},
    )
    with replace_file(folder / "model.safetensors") as path:
        path.write_bytes(save({"linear.weight": np.ascontiguousarray(weight), "linear.bias": bias}, {"format": "pt"}))
