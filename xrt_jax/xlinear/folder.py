"""The ranker on disk: a PECOS XLinearModel folder, read and written.

param.json                  what kind of model this is
ranker/param.json           depth and sizes
ranker/{t}.model/           param.json, W.npz, C.npz of level t
"""

import sys
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from xrt_jax.disk import read_json, replace_folder, write_json
from xrt_jax.npz import load_canonical, save_npz
from xrt_jax.sparse import canonical
from xrt_jax.tree.chain import check_fits
from xrt_jax.xlinear.level import Level, Ranker


def _meta(class_fullname: str) -> dict:
    return {"__meta__": {"class_fullname": class_fullname}}


def _read_param(path: Path, keys: tuple[str, ...]) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; is this a PECOS XLinearModel folder?")
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object; is this a PECOS XLinearModel folder?")
    for key in keys:
        if key not in content:
            raise ValueError(f'{path}: the key "{key}" is missing')
    return content


def level_folder(folder: Path, t: int) -> Path:
    """Where level t of the model folder is."""
    return folder / "ranker" / f"{t}.model"


def save_level_but_weights(folder: Path, t: int, level: Level, nr_features: int) -> None:
    """Write C.npz and param.json of level t."""
    folder = level_folder(folder, t)
    save_npz(folder / "C.npz", canonical(level.C, "csc"))
    write_json(
        folder / "param.json",
        {
            **_meta("pecos.xmc.base###MLModel"),
            "model": "MLModel",
            "nr_labels": level.C.shape[0],
            "nr_features": nr_features,
            "nr_codes": level.C.shape[1],
            "bias": float(level.bias),
            "pred_kwargs": {
                **_meta("pecos.xmc.base###MLModel.PredParams"),
                "only_topk": int(level.only_topk),
                "post_processor": level.post_processor,
            },
        },
    )


def save_top(folder: Path, depth: int, last: Level, nr_features: int) -> None:
    """Write what says that the folder is a model, and its sizes."""
    param = {
        **_meta("pecos.xmc.base###HierarchicalMLModel"),
        "model": "HierarchicalMLModel",
        "depth": depth,
        "nr_features": nr_features,
        "nr_codes": last.C.shape[1],
        "nr_labels": last.C.shape[0],
    }
    write_json(folder / "ranker" / "param.json", param)
    write_json(folder / "param.json", _meta("pecos.xmc.xlinear.model###XLinearModel"))


def save_ranker(folder, ranker: Ranker) -> None:
    """Write the ranker so that PECOS's XLinearModel.load reads it; the folder appears whole or not at all."""
    nr_features = ranker[-1].W.shape[0] - (ranker[-1].bias > 0)
    with replace_folder(folder) as tmp:
        for t, level in enumerate(ranker):
            save_npz(level_folder(tmp, t) / "W.npz", canonical(level.W, "csc"))
            save_level_but_weights(tmp, t, level, nr_features)
        save_top(tmp, len(ranker), ranker[-1], nr_features)


def _number(param: dict, key: str, path: Path) -> int | float:
    """A finite number of param.json."""
    value = param[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        raise ValueError(f'{path}: "{key}" is {value!r}: it must be a number')
    return value


def _whole(param: dict, key: str, path: Path) -> int:
    """A whole number of param.json, not below 0."""
    value = _number(param, key, path)
    if value < 0 or value != int(value):
        raise ValueError(f'{path}: "{key}" is {value!r}: it must be a whole number from 0 on')
    return int(value)


def _load_level(folder: Path, is_first: bool) -> Level:
    path = folder / "param.json"
    param = _read_param(path, ("bias", "nr_features", "nr_labels", "pred_kwargs"))
    kwargs = param["pred_kwargs"]
    if not isinstance(kwargs, dict) or "only_topk" not in kwargs or "post_processor" not in kwargs:
        raise ValueError(f'{path}: pred_kwargs needs "only_topk" and "post_processor"')
    W = load_canonical(folder / "W.npz", "csc")
    if is_first and not (folder / "C.npz").is_file():
        C = sp.csc_matrix(np.ones((W.shape[1], 1), np.float32))
    else:
        C = load_canonical(folder / "C.npz", "csc")
    bias = max(float(_number(param, "bias", path)), 0.0)
    expected = (_whole(param, "nr_features", path) + (bias > 0), C.shape[0])
    if W.shape != expected:
        raise ValueError(f"{folder / 'W.npz'}: shape {W.shape}, but param.json and C.npz ask for {expected}")
    return Level(W, C, bias, _whole(kwargs, "only_topk", path), str(kwargs["post_processor"]))


def load_ranker(folder) -> Ranker:
    """Read a PECOS XLinearModel folder; FileNotFoundError or ValueError names the file that is missing or wrong."""
    folder = Path(folder)
    _read_param(folder / "param.json", ())
    path = folder / "ranker" / "param.json"
    depth = _whole(_read_param(path, ("depth",)), "depth", path)
    ranker = [_load_level(level_folder(folder, t), t == 0) for t in range(depth)]
    check_fits([level.C for level in ranker], str(folder))
    return ranker
