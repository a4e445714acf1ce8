"""The ranker on disk: a PECOS XLinearModel folder, read and written.

param.json                  what kind of model this is
ranker/param.json           depth and sizes
ranker/{t}.model/           param.json, W.npz, C.npz of level t
"""

from pathlib import Path

import numpy as np
import scipy.sparse as sp

from xrt_jax.disk import read_json, replace_folder, write_json
from xrt_jax.sparse import canonical, load_npz, save_npz
from xrt_jax.tree.chain import check_chain
from xrt_jax.xlinear.train import Level, Ranker


def _meta(class_fullname: str) -> dict:
    return {"__meta__": {"class_fullname": class_fullname}}


def _read_param(path: Path, keys: tuple[str, ...]) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; is this a PECOS XLinearModel folder?")
    content = read_json(path)
    for key in keys:
        if key not in content:
            raise ValueError(f'{path}: the key "{key}" is missing')
    return content


def _nr_features(level: Level) -> int:
    return level.W.shape[0] - (level.bias > 0)


def _save_level(folder: Path, level: Level) -> None:
    save_npz(folder / "W.npz", canonical(level.W, "csc"))
    save_npz(folder / "C.npz", canonical(level.C, "csc"))
    write_json(
        folder / "param.json",
        {
            **_meta("pecos.xmc.base###MLModel"),
            "model": "MLModel",
            "nr_labels": level.C.shape[0],
            "nr_features": _nr_features(level),
            "nr_codes": level.C.shape[1],
            "bias": float(level.bias),
            "pred_kwargs": {
                **_meta("pecos.xmc.base###MLModel.PredParams"),
                "only_topk": int(level.only_topk),
                "post_processor": level.post_processor,
            },
        },
    )


def save_ranker(folder, ranker: Ranker) -> None:
    """Write the ranker so that PECOS's XLinearModel.load reads it; the folder appears whole or not at all."""
    last = ranker[-1]
    param = {
        **_meta("pecos.xmc.base###HierarchicalMLModel"),
        "model": "HierarchicalMLModel",
        "depth": len(ranker),
        "nr_features": _nr_features(last),
        "nr_codes": last.C.shape[1],
        "nr_labels": last.C.shape[0],
    }
    with replace_folder(folder) as tmp:
        for t, level in enumerate(ranker):
            _save_level(tmp / "ranker" / f"{t}.model", level)
        write_json(tmp / "ranker" / "param.json", param)
        write_json(tmp / "param.json", _meta("pecos.xmc.xlinear.model###XLinearModel"))


def _load_level(folder: Path, is_first: bool) -> Level:
    param = _read_param(folder / "param.json", ("bias", "nr_features", "nr_labels", "pred_kwargs"))
    kwargs = param["pred_kwargs"]
    if "only_topk" not in kwargs or "post_processor" not in kwargs:
        raise ValueError(f'{folder / "param.json"}: pred_kwargs needs "only_topk" and "post_processor"')
    W = canonical(load_npz(folder / "W.npz"), "csc")
    if is_first and not (folder / "C.npz").is_file():
        C = sp.csc_matrix(np.ones((W.shape[1], 1), np.float32))
    else:
        C = canonical(load_npz(folder / "C.npz"), "csc")
    bias = max(float(param["bias"]), 0.0)
    expected = (param["nr_features"] + (bias > 0), C.shape[0])
    if W.shape != expected:
        raise ValueError(f"{folder / 'W.npz'}: shape {W.shape}, but param.json and C.npz ask for {expected}")
    return Level(W, C, bias, int(kwargs["only_topk"]), str(kwargs["post_processor"]))


def load_ranker(folder) -> Ranker:
    """Read a PECOS XLinearModel folder; FileNotFoundError or ValueError names the file that is missing or wrong."""
    folder = Path(folder)
    _read_param(folder / "param.json", ())
    depth = _read_param(folder / "ranker" / "param.json", ("depth",))["depth"]
    ranker = [_load_level(folder / "ranker" / f"{t}.model", t == 0) for t in range(depth)]
    check_chain([level.C for level in ranker], str(folder))
    return ranker
