"""Writes bert_tiny/: a random BERT as a Hugging Face folder, and what torch computes with it.

Run with torch, transformers 4.49 and safetensors installed:  python tests/golden/make_bert_golden.py
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel

FOLDER = Path(__file__).with_name("bert_tiny")
LENGTHS = (7, 1, 4)


def main():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=16,
        initializer_range=0.3,  # wide, so that an error anywhere shows in the outputs
    )
    model = BertModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias") or "LayerNorm" in name:
                weight.add_(0.1 * torch.randn_like(weight))

    shutil.rmtree(FOLDER, ignore_errors=True)
    model.save_pretrained(FOLDER)
    torch.save(model.state_dict(), FOLDER / "pytorch_model.bin")

    ids = torch.randint(5, 100, (len(LENGTHS), max(LENGTHS)))
    mask = torch.arange(max(LENGTHS))[None, :] < torch.tensor(LENGTHS)[:, None]
    ids[~mask] = 0
    types = torch.randint(0, 2, ids.shape)
    outputs = {}
    with torch.no_grad():
        for name, token_types in (("", None), ("_types", types)):
            result = model(ids, mask.long(), token_types)
            outputs[f"hidden{name}"] = result.last_hidden_state.numpy()
            outputs[f"pooled{name}"] = result.pooler_output.numpy()
    arrays = {"ids": ids.int().numpy(), "mask": mask.numpy(), "types": types.int().numpy(), **outputs}
    np.savez_compressed(FOLDER / "outputs.npz", **arrays)


if __name__ == "__main__":
    main()
