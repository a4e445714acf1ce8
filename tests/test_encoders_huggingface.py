"""Hugging Face folders: both weight formats, what is refused, and the round trip."""

import json
import os
import pickle
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from xrt_jax.data.vocabulary import learn_wordpiece
from xrt_jax.encoders.huggingface import (
    count_parameters,
    init_encoder,
    load_encoder,
    load_tokenizer,
    save_encoder,
)
from xrt_jax.encoders.torch_file import load_torch_file

TINY = Path(__file__).with_name("golden") / "bert_tiny"


@pytest.fixture
def folder(tmp_path):
    """A copy of the golden encoder with safetensors only."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(TINY / name, tmp_path)
    return tmp_path


def tensors_of(folder):
    return load_file(folder / "model.safetensors")


def rewrite(folder, change):
    save_file(change(tensors_of(folder)), folder / "model.safetensors")


def same_bits(a, b):
    a, b = flatten_dict(a), flatten_dict(b)
    return a.keys() == b.keys() and all(np.asarray(a[k]).tobytes() == np.asarray(b[k]).tobytes() for k in a)


# ---- load -----------------------------------------------------------------------------------------------------------


def test_torch_file_holds_the_same_bits_as_safetensors():
    ours, reference = load_torch_file(TINY / "pytorch_model.bin"), tensors_of(TINY)
    assert ours.keys() == reference.keys()
    assert all((ours[name] == reference[name]).all() for name in reference)


def test_folder_with_only_a_torch_file_loads(tmp_path):
    for name in ("config.json", "pytorch_model.bin"):
        shutil.copy(TINY / name, tmp_path)
    assert same_bits(load_encoder(tmp_path)[1], load_encoder(TINY)[1])


def test_prefixed_and_old_names_and_other_heads_load(folder):
    def as_in_2018(tensors):
        old = {
            "bert." + k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
            for k, v in tensors.items()
        }
        return old | {"cls.predictions.bias": np.zeros(100, np.float32)}

    rewrite(folder, as_in_2018)
    assert same_bits(load_encoder(folder)[1], load_encoder(TINY)[1])


def test_shards_load(folder):
    tensors = tensors_of(folder)
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for shard, members in shards.items():
        save_file({name: tensors[name] for name in members}, folder / shard)
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()
    assert same_bits(load_encoder(folder)[1], load_encoder(TINY)[1])


def test_missing_pooler_is_drawn_from_the_seed_with_a_warning(folder, caplog):
    rewrite(folder, lambda tensors: {k: v for k, v in tensors.items() if not k.startswith("pooler")})
    drawn = [load_encoder(folder, seed=seed)[1]["pooler"]["kernel"] for seed in (0, 0, 1)]
    assert "no pooler weights" in caplog.text
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    assert 0.017 < drawn[0].std() < 0.023
    caplog.clear()
    load_encoder(folder, pooling="mean")
    assert caplog.text == ""


def test_half_precision_weights_become_float32(folder):
    rewrite(folder, lambda tensors: {k: v.astype(np.float16) for k, v in tensors.items()})
    params = load_encoder(folder)[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}


def test_dropout_is_the_configs_unless_given():
    assert load_encoder(TINY)[0].hidden_dropout == 0.1
    module = load_encoder(TINY, hidden_dropout=0.0)[0]
    assert (module.hidden_dropout, module.attention_dropout) == (0.0, 0.1)


# ---- refuse ---------------------------------------------------------------------------------------------------------


def test_missing_weights_are_named(folder):
    rewrite(folder, lambda tensors: {k: v for k, v in tensors.items() if ".1.attention" not in k})
    with pytest.raises(ValueError, match=r"lack 10 tensors, first encoder\.layer\.1\.attention"):
        load_encoder(folder)


def test_wrong_shapes_are_named(folder):
    rewrite(folder, lambda tensors: tensors | {"embeddings.word_embeddings.weight": np.zeros((99, 32), np.float32)})
    with pytest.raises(ValueError, match=r"word_embeddings\.weight has shape \(99, 32\), but config.json asks for"):
        load_encoder(folder)


def test_folder_without_config_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not an encoder folder: no config"):
        load_encoder(tmp_path)


def test_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors and no pytorch_model\.bin"):
        load_encoder(folder)


def test_damaged_weights_are_refused(folder):
    (folder / "model.safetensors").write_bytes((TINY / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged"):
        load_encoder(folder)


def test_broken_config_and_unsupported_model_type_are_refused(folder):
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(ValueError, match="is not JSON"):
        load_encoder(folder)
    (folder / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ValueError, match="model_type 't5' is not supported: one of bert"):
        load_encoder(folder)


@pytest.mark.parametrize("load", [load_encoder, load_tokenizer])
def test_unreachable_name_gives_one_line(load, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="is not a folder, and the hub could not be reached: ") as error:
        load("nobody/has-this-encoder")
    assert "\n" not in str(error.value)


class Touch:
    """Pickles as a call of os.mkdir."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write_torch_file(path, data: bytes, storages=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for key, content in storages:
            archive.writestr(f"archive/data/{key}", content)
    return path


def test_malicious_pickle_is_refused_and_does_nothing(tmp_path):
    target = tmp_path / "owned"
    for payload in (Touch(target), OrderedDict(weight=Touch(target)), eval, getattr):
        path = write_torch_file(tmp_path / "pytorch_model.bin", pickle.dumps(payload))
        with pytest.raises(ValueError, match="which is refused"):
            load_torch_file(path)
    assert not target.exists()


def tensor_pickle(offset, size, stride):
    """The pickle of {"w": tensor} by hand, with a storage of 6 float32."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"
    numbers = (
        b"K"
        + bytes([offset])
        + b"".join(b"(" + b"".join(b"K" + bytes([n]) for n in ns) + b"t" for ns in (size, stride))
    )
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + numbers + b"\x89Nt" + b"R"
    return b"\x80\x02}X\x01\x00\x00\x00w" + tensor + b"s."


def test_strided_tensors_are_read_within_their_storage(tmp_path):
    storages = [("0", np.arange(6, dtype=np.float32).tobytes())]
    path = tmp_path / "pytorch_model.bin"
    read = load_torch_file(write_torch_file(path, tensor_pickle(0, (3, 2), (1, 3)), storages))["w"]
    np.testing.assert_array_equal(read, [[0, 3], [1, 4], [2, 5]])
    for shape in ((1, (3, 2), (1, 3)), (0, (7,), (1,)), (7, (1,), (1,))):
        with pytest.raises(ValueError, match="beyond its storage"):
            load_torch_file(write_torch_file(path, tensor_pickle(*shape), storages))


def test_other_torch_files_are_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(ValueError, match=r"not a zip file of torch 1\.6 or later"):
        load_torch_file(path)
    with pytest.raises(ValueError, match="must map names to tensors"):
        load_torch_file(write_torch_file(path, pickle.dumps({"w": 1})))
    with pytest.raises(ValueError, match="not a plain state dict"):
        load_torch_file(write_torch_file(path, pickle.dumps({"w": 1})[:-3]))


# ---- create and save ------------------------------------------------------------------------------------------------


def small(**options):
    sizes = {"vocab_size": 30, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "intermediate_size": 12}
    return init_encoder(**sizes, max_positions=10, **options)


def test_count_parameters_by_hand():
    embeddings = (30 + 10 + 2 + 2) * 8
    layer = 4 * (8 * 8 + 8) + 2 * 16 + (8 * 12 + 12) + (12 * 8 + 8)
    assert count_parameters(small()[1]) == embeddings + layer + (8 * 8 + 8)
    assert count_parameters(small(pooling="cls")[1]) == embeddings + layer


def test_init_depends_on_the_seed_alone():
    assert same_bits(small(seed=1)[1], small(seed=1)[1])
    assert not same_bits(small(seed=1)[1], small(seed=2)[1])
    table = small()[1]["word_embeddings"]["embedding"]
    assert 0.015 < table.std() < 0.025 and table.dtype == np.float32


def test_round_trip_keeps_every_bit(tmp_path):
    learn_wordpiece(["some words", "some more words"], vocab_size=40, out_folder=tmp_path / "words")
    for number, (module, params) in enumerate((load_encoder(TINY), small(hidden_dropout=0.25))):
        saved = tmp_path / str(number)
        save_encoder(saved, module, params, tokenizer_folder=tmp_path / "words")
        again, params_again = load_encoder(saved)
        assert again == module
        assert same_bits(params, params_again)
        assert (
            load_tokenizer(saved)("some words").input_ids == load_tokenizer(tmp_path / "words")("some words").input_ids
        )
        assert not list(saved.glob(".*"))


def test_saved_names_and_shapes_are_those_that_torch_wrote(tmp_path):
    module, params = load_encoder(TINY)
    save_encoder(tmp_path, module, params, tokenizer_folder=tmp_path)
    ours, reference = tensors_of(tmp_path), tensors_of(TINY)
    assert ours.keys() == reference.keys()
    assert all((ours[name] == reference[name]).all() for name in reference)
    config, expected = (json.loads((f / "config.json").read_text()) for f in (tmp_path, TINY))
    assert config.items() <= expected.items()


def test_folder_without_tokenizer_is_refused(folder):
    with pytest.raises(FileNotFoundError, match="has no tokenizer"):
        load_tokenizer(folder)
