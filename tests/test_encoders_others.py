"""RoBERTa, XLM-RoBERTa, DistilBERT, XLNet and ModernBERT against what torch computes with the same weights."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from xrt_jax.encoders import ENCODERS
from xrt_jax.encoders.huggingface import load_encoder, load_tokenizer, save_encoder

GOLDEN = Path(__file__).with_name("golden")
NAMES = ("roberta", "xlm_roberta", "distilbert", "xlnet", "modernbert")


def apply(module, params, *inputs, **more):
    return jax.jit(lambda p: module.apply({"params": p}, *inputs, deterministic=True, **more))(params)


def load(name, **options):
    return *load_encoder(GOLDEN / f"{name}_tiny", **options), np.load(GOLDEN / f"{name}_tiny" / "outputs.npz")


def expected_pooling(name, expected):
    """What PECOS takes as the embedding."""
    hidden, lengths = expected["hidden"], expected["mask"].sum(1)
    if name in ("roberta", "xlm_roberta"):
        return expected["pooled"]
    return np.tanh(hidden[range(3), lengths - 1]) if name == "xlnet" else hidden[:, 0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("remat", [False, True])
def test_torch_gives_the_same_outputs(name, remat):
    module, params, expected = load(name, remat=remat)
    mask = expected["mask"]
    assert mask.sum(1).tolist() == [24, 1, 9]
    (hidden, pooled), seen = apply(module, params, expected["ids"], mask, capture_intermediates=True, mutable=True)
    for i, of_layer in enumerate(expected["layers"]):
        found = seen["intermediates"][f"layer_{i}"]["__call__"][0].reshape(of_layer.shape)
        np.testing.assert_allclose(found[mask], of_layer[mask], atol=1e-5)
    np.testing.assert_allclose(hidden[mask], expected["hidden"][mask], atol=1e-5)
    np.testing.assert_allclose(pooled, expected_pooling(name, expected), atol=1e-5)
    assert pooled.dtype == jnp.float32


def test_segments_of_xlnet():
    module, params, expected = load("xlnet")
    mask = expected["mask"]
    hidden, _ = apply(module, params, expected["ids"], mask, expected["types"])
    np.testing.assert_allclose(hidden[mask], expected["hidden_types"][mask], atol=1e-5)
    assert abs(expected["hidden_types"] - expected["hidden"])[mask].max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_mean_pooling(name):
    module, params, expected = load(name, pooling="mean")
    means = np.stack([row[:n].mean(0) for row, n in zip(expected["hidden"], (24, 1, 9), strict=True)])
    np.testing.assert_allclose(apply(module, params, expected["ids"], expected["mask"])[1], means, atol=1e-5)
    assert "pooler" not in params


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name):
    module, params, expected = load(name)
    short = apply(module, params, expected["ids"][2:, :9], np.ones((1, 9), bool))[1]
    ids = expected["ids"][2:].copy()
    ids[:, 9:] = 7
    np.testing.assert_allclose(apply(module, params, ids, expected["mask"][2:])[1], short, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_saved_as_transformers_saves_it(name, tmp_path):
    module, params, _ = load(name)
    save_encoder(tmp_path / "e", module, params, tokenizer_folder=tmp_path)
    theirs, ours = (load_file(folder / "model.safetensors") for folder in (GOLDEN / f"{name}_tiny", tmp_path / "e"))
    assert ours.keys() == theirs.keys() - {"embeddings.position_ids"}
    for key, array in ours.items():
        np.testing.assert_array_equal(array, theirs[key])
    from transformers import AutoConfig

    a, b = (AutoConfig.from_pretrained(folder).to_dict() for folder in (GOLDEN / f"{name}_tiny", tmp_path / "e"))
    for key in json.loads((tmp_path / "e/config.json").read_text()).keys() & a.keys():
        assert a[key] == b[key], key
    again = load_encoder(tmp_path / "e")
    assert again[0] == module and all(map(np.array_equal, jax.tree.leaves(again[1]), jax.tree.leaves(params)))


@pytest.mark.parametrize("name", NAMES)
def test_dropout_acts_only_in_training(name):
    ids, mask = jnp.arange(6, 14)[None], jnp.ones((1, 8), bool)
    for where in ("hidden_dropout", "attention_dropout"):
        rates = {"hidden_dropout": 0.0, "attention_dropout": 0.0} | {where: 0.3}
        module, params, _ = load(name, **rates)
        module = module.clone(num_layers=1)
        still = apply(module, params, ids, mask)[1]
        rngs = [{"dropout": jax.random.key(seed)} for seed in (0, 0, 1)]
        train = [module.apply({"params": params}, ids, mask, deterministic=False, rngs=rng)[1] for rng in rngs]
        assert (train[0] == train[1]).all() and (train[0] != train[2]).any() and (train[0] != still).any()


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_close_and_gradients_are_finite(name):
    module, params, expected = load(name, dtype=jnp.bfloat16)
    hidden, pooled = apply(module, params, expected["ids"], expected["mask"])
    assert hidden.dtype == jnp.bfloat16 and pooled.dtype == jnp.float32
    error = abs(pooled - expected_pooling(name, expected))
    assert 1e-5 < error.mean() < 0.1
    small, params, _ = load(name, hidden_dropout=0.0, attention_dropout=0.0)
    no_tokens = expected["mask"] & (np.arange(3) != 1)[:, None]
    loss = lambda p: (apply(small.clone(num_layers=1), p, expected["ids"], no_tokens)[1] ** 2).sum()  # noqa: E731
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(params)))


def test_too_many_tokens_are_refused():
    for name, most in (("roberta", 32), ("distilbert", 32), ("modernbert", 32)):
        module, params, _ = load(name)
        with pytest.raises(ValueError, match=f"{most + 1} tokens, but this encoder has {most} positions"):
            apply(module, params, jnp.zeros((1, most + 1), jnp.int32), jnp.ones((1, most + 1), bool))


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("xlnet", {"attn_type": "uni"}, "attn_type"),
        ("modernbert", {"layer_types": ["full_attention"] * 22}, "layer_types"),
        ("roberta", {"position_embedding_type": "relative_key"}, "relative_key"),
        ("distilbert", {"activation": "mish"}, "hidden_act 'mish' is not supported"),
        ("distilbert", {"vocab_size": None}, "not the config of a DistilBert encoder"),
    ],
)
def test_unsupported_configs_are_refused(kind, config, message):
    with pytest.raises(ValueError, match=message):
        ENCODERS[kind].from_config({"vocab_size": 100} | config)
    with pytest.raises(ValueError, match="pooling 'max' is not supported"):
        ENCODERS[kind].from_config({"vocab_size": 100}, pooling="max")


def test_rope_of_newer_transformers():
    rope = {"full_attention": {"rope_theta": 5.0}, "sliding_attention": {"rope_theta": 7.0}}
    module = ENCODERS["modernbert"].from_config({"vocab_size": 100, "rope_parameters": rope})
    assert (module.global_theta, module.local_theta) == (5.0, 7.0)


@pytest.mark.parametrize("prefix", ["", "distilbert."])
def test_folders_of_pecos(prefix, tmp_path):
    """MODEL/text_encoder/{text_encoder,text_tokenizer}, named by MODEL, by its text_encoder, or by the inner one."""
    from safetensors.numpy import save_file

    source, inner = GOLDEN / "distilbert_tiny", tmp_path / "text_encoder/text_encoder"
    inner.mkdir(parents=True)
    shutil.copy(source / "config.json", inner)
    tensors = load_file(source / "model.safetensors")
    save_file({f"{prefix}{name}": array for name, array in tensors.items()}, inner / "model.safetensors")
    (tmp_path / "text_encoder/param.json").write_text("{}")
    tokenizer = tmp_path / "text_encoder/text_tokenizer"
    tokenizer.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello"]
    (tokenizer / "vocab.txt").write_text("\n".join(words))
    (tokenizer / "tokenizer_config.json").write_text('{"tokenizer_class": "DistilBertTokenizer"}')
    expected = load_encoder(source)[1]
    for folder in (tmp_path, tmp_path / "text_encoder", inner):
        found = load_encoder(folder)[1]
        assert all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(expected)))
    for folder in (tmp_path, tmp_path / "text_encoder", tokenizer):
        assert load_tokenizer(folder)("hello")["input_ids"] == [2, 5, 3]
