"""The files that sentence-transformers looks for; tests/peers has it read them."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from xrt_jax.encoders.huggingface import init_encoder
from xrt_jax.encoders.sentence_transformers import save_modules


@pytest.mark.parametrize(("pooling", "mode"), [("mean", "mean_tokens"), ("cls", "cls_token"), ("pooler", "cls_token")])
def test_files(tmp_path, pooling, mode):
    sizes = {"vocab_size": 30, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "intermediate_size": 12}
    module, params = init_encoder(**sizes, pooling=pooling)
    save_modules(tmp_path, module, params, truncate_length=12)
    content = {str(path.relative_to(tmp_path)): json.loads(path.read_text()) for path in tmp_path.rglob("*.json")}
    assert content["sentence_bert_config.json"] == {"max_seq_length": 12, "do_lower_case": False}
    pooled = content["1_Pooling/config.json"]
    assert pooled.pop("word_embedding_dimension") == 8
    assert [key for key, value in pooled.items() if value] == [f"pooling_mode_{mode}"]
    types = [module["type"].rpartition(".")[2] for module in content["modules.json"]]
    assert types == ["Transformer", "Pooling", "Dense"][: 3 if pooling == "pooler" else 2]
    assert (tmp_path / "2_Dense").exists() == (pooling == "pooler")
    if pooling == "pooler":
        tensors = load_file(tmp_path / "2_Dense/model.safetensors")
        np.testing.assert_array_equal(tensors["linear.weight"], np.asarray(params["pooler"]["kernel"]).T)
        assert content["2_Dense/config.json"]["activation_function"] == "torch.nn.modules.activation.Tanh"
