"""Writes a folder for each encoder but BERT: a random one as transformers saves it, and what torch computes with it.

Run with torch, transformers 4.49 and safetensors installed:  python tests/golden/make_encoder_goldens.py
"""

import shutil
from pathlib import Path

import numpy as np
import torch
import transformers as hf

HERE = Path(__file__).parent
LENGTHS = (24, 1, 9)
VOCAB, WIDE = 100, {"initializer_range": 0.3}  # wide, so that an error anywhere shows in the outputs
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
ROBERTA = {"vocab_size": VOCAB, "max_position_embeddings": 34, "type_vocab_size": 1, "pad_token_id": 1, **SIZES, **WIDE}
DISTIL = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 32, **WIDE}
XLNET = {"d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 48, "pad_token_id": 5, **WIDE}
MODERN = {"max_position_embeddings": 32, "local_attention": 8, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}
MODERN |= {"initializer_range": 0.2}  # its states are not normalised between layers and grow: float32 has fewer digits
MODERN |= {"bos_token_id": 1, "eos_token_id": 2, "attn_implementation": "eager", "reference_compile": False}
ENCODERS = {
    "roberta": (hf.RobertaConfig(**ROBERTA), hf.RobertaModel),
    "xlm_roberta": (hf.XLMRobertaConfig(**ROBERTA), hf.XLMRobertaModel),
    "distilbert": (hf.DistilBertConfig(vocab_size=VOCAB, **DISTIL), hf.DistilBertModel),
    "xlnet": (hf.XLNetConfig(vocab_size=VOCAB, **XLNET), hf.XLNetModel),
    "modernbert": (hf.ModernBertConfig(vocab_size=VOCAB, **SIZES, **MODERN), hf.ModernBertModel),
}


def layers_of(name: str, model):
    """The transformer blocks, and how to get [b, t, d] from what one returns."""
    if name == "xlnet":
        return model.layer, lambda out: out[0].transpose(0, 1)
    if name == "modernbert":
        return model.layers, lambda out: out[0]
    blocks = model.transformer.layer if name == "distilbert" else model.encoder.layer
    return blocks, lambda out: out[-1] if name == "distilbert" else out[0]


def write(name: str, config, cls) -> None:
    torch.manual_seed(0)
    model = cls(config).eval()
    with torch.no_grad():
        for parameter, weight in model.named_parameters():
            if parameter.endswith("bias") or "norm" in parameter.lower():
                weight.add_(0.1 * torch.randn_like(weight))
    folder = HERE / f"{name}_tiny"
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)

    mask = torch.arange(max(LENGTHS))[None, :] < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(6, VOCAB, mask.shape)
    ids[~mask] = config.pad_token_id
    inputs, arrays = {"attention_mask": mask.long()}, {"ids": ids.int().numpy(), "mask": mask.numpy()}
    if name == "xlnet":  # the last token is <cls>, of segment 2
        inputs["token_type_ids"] = 2 * (torch.arange(max(LENGTHS)) == torch.tensor(LENGTHS)[:, None] - 1).long()
    layers, states = layers_of(name, model)
    seen = []
    for layer in layers:
        layer.register_forward_hook(lambda module, args, out: seen.append(states(out).numpy()))
    with torch.no_grad():
        result = model(ids, **inputs)
        arrays["hidden"] = result.last_hidden_state.numpy()
        if getattr(result, "pooler_output", None) is not None:
            arrays["pooled"] = result.pooler_output.numpy()
        if name == "xlnet":
            other = {**inputs, "token_type_ids": torch.randint(0, 2, ids.shape)}
            arrays["types"] = other["token_type_ids"].int().numpy()
            nr_seen = len(seen)
            arrays["hidden_types"] = model(ids, **other).last_hidden_state.numpy()
            del seen[nr_seen:]
    np.savez_compressed(folder / "outputs.npz", layers=np.stack(seen), **arrays)


if __name__ == "__main__":
    for name, (config, cls) in ENCODERS.items():
        write(name, config, cls)
