"""Encoders and tokenizers in Hugging Face folders: load, save, fetch from the hub."""

import logging
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from xrt_jax.disk import first_line, read_json, replace_file, write_json
from xrt_jax.encoders import ENCODERS
from xrt_jax.encoders.attention import with_attention
from xrt_jax.encoders.torch_file import load_torch_file

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
)

_MARKS = ("config.json", *_TOKENIZER_FILES)  # a folder with one of these is an encoder's or a tokenizer's

_log = logging.getLogger(__name__)


# ---- load -----------------------------------------------------------------------------------------------------------


def load_encoder(
    name_or_folder: str | Path,
    *,
    pooling: str = "auto",
    hidden_dropout: float | None = None,
    attention_dropout: float | None = None,
    dtype: Any = jnp.float32,
    remat: bool = False,
    attention: str = "auto",
    seed: int = 0,
) -> tuple[nn.Module, dict]:
    """Module and float32 parameters of a Hugging Face folder or hub name; a dropout of None is the config's.

    The folder holds config.json and model.safetensors or pytorch_model.bin, whole or in shards with an index; a PECOS
    model, its text_encoder and the folder inside that will do too. pooling "auto" is PECOS's for the type of encoder;
    attention: see with_attention. Missing pooler weights are drawn from `seed`, with a warning. ValueError or
    FileNotFoundError, in one line, for the rest.
    """
    folder = _find_encoder_folder(name_or_folder)
    config = read_json(folder / "config.json")
    model_type = config.get("model_type") if isinstance(config, dict) else None
    encoder = ENCODERS.get(model_type) if isinstance(model_type, str) else None
    if encoder is None:
        supported = ", ".join(sorted(ENCODERS))
        raise ValueError(f"{folder}: model_type {model_type!r} is not supported: one of {supported}")
    options = {"pooling": pooling, "hidden_dropout": hidden_dropout, "attention_dropout": attention_dropout}
    options = {field: value for field, value in options.items() if value is not None}
    try:
        module = encoder.from_config(config, dtype=dtype, remat=remat, **options)
    except Exception as error:  # values of other kinds than Hugging Face's fail in all ways
        raise ValueError(f"{folder}: config.json: {first_line(error)}") from error
    module = with_attention(module, attention)
    tensors = {_plain_name(name, encoder.PREFIX): array for name, array in _read_tensors(folder).items()}
    return module, _params_from_tensors(module, tensors, folder=folder, seed=seed)


def _in_pecos_folder(folder: Path, name: str) -> Path:
    """The folder `name` of a PECOS model or of its text_encoder, or `folder` itself where it is none."""
    inside = (folder / "text_encoder" / name, folder / name)
    return next((path for path in inside if any((path / file).is_file() for file in _MARKS)), folder)


def _find_encoder_folder(name_or_folder: str | Path) -> Path:
    folder = _in_pecos_folder(Path(name_or_folder), "text_encoder")
    if not folder.is_dir():
        # The hub often keeps the same weights twice; the second format is fetched only where the first is absent.
        folder = _fetch(name_or_folder, ("config.json", "model*.safetensors", "model.safetensors.index.json"))
        if (folder / "config.json").is_file() and not any(folder.glob("model*.safetensors")):
            folder = _fetch(name_or_folder, ("config.json", "pytorch_model*.bin", "pytorch_model.bin.index.json"))
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{name_or_folder} is not an encoder folder: no config.json")
    return folder


def _fetch(name: str | Path, patterns: tuple[str, ...]) -> Path:
    """The cached snapshot of a hub repository; FileNotFoundError in one line if there is none."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=list(patterns)))
    except Exception as error:  # its HTTP library's errors have no common base that could be named here
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise FileNotFoundError(f"{name} is not a folder, and the hub could not be reached: {reason}") from None


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a folder by its name."""
    from safetensors.numpy import load_file

    for stem, suffix, read in (("model", "safetensors", load_file), ("pytorch_model", "bin", load_torch_file)):
        whole = folder / f"{stem}.{suffix}"
        index = folder / f"{stem}.{suffix}.index.json"
        if whole.is_file():
            return _read_file(whole, read)
        if index.is_file():
            shards = _shards(index)
            return {name: a for shard in shards for name, a in _read_file(folder / shard, read).items()}
    raise FileNotFoundError(f"{folder} has no weights: no model.safetensors and no pytorch_model.bin")


def _shards(index: Path) -> list[str]:
    """Names of the files that an index lists; they must lie beside it."""
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in places.values()
    ):
        raise ValueError(f"{index} holds no weight_map from tensors to files beside it")
    return sorted(set(places.values()))


def _read_file(path: Path, read) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of weights")
    if read is load_torch_file:
        return read(path)
    try:
        return read(path)
    except Exception as error:  # SafetensorError, and what NumPy raises for types that it has not
        raise ValueError(f"{path} is damaged: {first_line(error)}") from error


def _plain_name(name: str, prefix: str) -> str:
    """A tensor's name without the prefix of task models, and with LayerNorm weights as they are called since 2019."""
    name = name.removeprefix(prefix)
    if name.endswith((".gamma", ".beta")):
        stem, end = name.rsplit(".", 1)
        name = f"{stem}.{'weight' if end == 'gamma' else 'bias'}"
    return name


def _params_from_tensors(module: nn.Module, tensors: dict, *, folder: Path, seed: int) -> dict:
    longest = max((length for array in tensors.values() for length in array.shape), default=0)
    nr_layers, size = module.num_layers, module.hidden_size
    sizes_fit = isinstance(nr_layers, int) and isinstance(size, int) and nr_layers <= len(tensors) and size <= longest
    if not sizes_fit:  # or tracing would not end
        raise ValueError(
            f"{folder}: config.json asks for {nr_layers!r} layers of size {size!r}, the weights are "
            f"{len(tensors)} tensors of at most {longest} rows or columns"
        )
    try:
        shapes = _param_shapes(module)
    except Exception as error:  # values of other kinds than Hugging Face's fail in all ways
        raise ValueError(f"{folder}: config.json makes no encoder: {first_line(error)}") from error
    names = {path: module.tensor_name(path) for path in shapes}
    missing = [path for path, name in names.items() if name not in tensors]
    absent = [names[path] for path in missing if path[0] != "pooler"]
    if absent:
        raise ValueError(f"{folder}: the weights lack {len(absent)} tensors, first {', '.join(absent[:3])}")
    if missing:
        _log.warning("%s has no pooler weights: drawn at random from seed %d", folder, seed)
    given = {
        path: jnp.asarray(_oriented(tensors[names[path]], path, shapes[path], f"{folder}: {names[path]}"))
        for path in shapes.keys() - set(missing)
    }
    return unflatten_dict(given | _random_params({path: shapes[path] for path in missing}, seed))


def _oriented(array: np.ndarray, path: tuple[str, ...], shape: tuple[int, ...], where: str) -> np.ndarray:
    """A tensor as Flax wants it: float32, dense kernels [in, out]."""
    array = array.T if path[-1] == "kernel" else array
    if array.shape != shape:
        raise ValueError(f"{where} has shape {array.shape}, but config.json asks for {shape}")
    return array.astype(np.float32)


# ---- create ---------------------------------------------------------------------------------------------------------


def init_encoder(
    *,
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    intermediate_size: int,
    max_positions: int = 512,
    pooling: str = "pooler",
    hidden_dropout: float = 0.1,
    attention_dropout: float = 0.1,
    seed: int = 0,
    dtype: Any = jnp.float32,
    attention: str = "auto",
) -> tuple[nn.Module, dict]:
    """Module and float32 parameters of a BERT with random weights (normal, deviation 0.02), to train from scratch.

    attention: see with_attention.
    """
    config = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "intermediate_size": intermediate_size,
        "max_position_embeddings": max_positions,
        "hidden_dropout_prob": hidden_dropout,
        "attention_probs_dropout_prob": attention_dropout,
    }
    module = with_attention(ENCODERS["bert"].from_config(config, pooling=pooling, dtype=dtype), attention)
    return module, unflatten_dict(_random_params(_param_shapes(module), seed))


def _param_shapes(module: nn.Module) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shape of each parameter by its path; nothing is computed."""
    ids_bt = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    init = partial(module.init, deterministic=True)
    params = jax.eval_shape(init, jax.random.key(0), ids_bt, ids_bt)["params"]
    return {path: leaf.shape for path, leaf in sorted(flatten_dict(params).items())}


def _random_params(shapes: dict[tuple[str, ...], tuple[int, ...]], seed: int) -> dict[tuple[str, ...], jax.Array]:
    """BERT's initial values, drawn by NumPy: the same bits on every device, and no compilation."""
    rng = np.random.default_rng(seed)

    def draw(leaf_name, shape):
        if leaf_name in ("scale", "bias"):
            return np.full(shape, leaf_name == "scale", np.float32)
        return np.float32(0.02) * rng.standard_normal(shape, np.float32)

    return {path: jnp.asarray(draw(path[-1], shape)) for path, shape in shapes.items()}


def count_parameters(params: dict) -> int:
    """Number of scalars in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


# ---- save -----------------------------------------------------------------------------------------------------------


def save_encoder(folder: str | Path, module: nn.Module, params: dict, *, tokenizer_folder: str | Path) -> None:
    """Writes an encoder as transformers.AutoModel loads it: config.json, model.safetensors, the tokenizer's files.

    `tokenizer_folder` is a local folder. Pooler weights are written where the module has them.
    """
    from safetensors.numpy import save

    folder, tokenizer_folder = Path(folder), Path(tokenizer_folder)
    tensors = {module.tensor_name(path): _torch_oriented(a, path) for path, a in flatten_dict(params).items()}
    with replace_file(folder / "model.safetensors") as path:
        path.write_bytes(save(tensors, {"format": "pt"}))  # its save_file would hide the file from other users
    for file in tokenizer_files(tokenizer_folder) if tokenizer_folder.resolve() != folder.resolve() else []:
        with replace_file(folder / file.name) as path:
            shutil.copyfile(file, path)
    write_json(folder / "config.json", module.to_config())


def _torch_oriented(array: jax.Array, path: tuple[str, ...]) -> np.ndarray:
    array = np.asarray(array)
    return np.ascontiguousarray(array.T if path[-1] == "kernel" else array)


def tokenizer_files(folder: str | Path) -> list[Path]:
    """The tokenizer's files in a folder."""
    return [Path(folder) / name for name in _TOKENIZER_FILES if (Path(folder) / name).is_file()]


# ---- tokenizer ------------------------------------------------------------------------------------------------------


def load_tokenizer(name_or_folder: str | Path):
    """The fast tokenizer (transformers) of a folder or hub name; ValueError or FileNotFoundError in one line."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # else: "PyTorch was not found", at import
    from transformers import AutoTokenizer

    folder = _in_pecos_folder(Path(name_or_folder), "text_tokenizer")
    if not folder.is_dir():
        folder = _fetch(name_or_folder, ("config.json", *_TOKENIZER_FILES))
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise FileNotFoundError(f"{folder} has no tokenizer: no tokenizer.json and no vocabulary")
    try:
        return AutoTokenizer.from_pretrained(str(folder), use_fast=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain exceptions
        raise ValueError(f"{folder}: the tokenizer cannot be read: {first_line(error)}") from error
