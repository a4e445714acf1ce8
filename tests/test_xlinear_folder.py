import json
import zipfile

import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.tree.chain import complete_chain
from xrt_jax.xlinear.folder import load_ranker, save_ranker
from xrt_jax.xlinear.level import Level


def ranker(bias=1.0):
    leaf = sp.csc_matrix((np.ones(6, np.float32), (np.arange(6), [0, 0, 1, 1, 2, 2])))
    chain = complete_chain(leaf, nr_splits=3, min_codes=None)
    make = lambda C, t: sp.random(5 + (bias > 0), C.shape[0], 0.5, format="csc", dtype=np.float32, random_state=t)  # noqa: E731
    return [
        Level(make(C, t), C, bias, 7 + t, post)
        for t, (C, post) in enumerate(zip(chain, ("l3-hinge", "noop"), strict=True))
    ]


@pytest.mark.parametrize("bias", [1.0, 0.5, 0.0])
def test_round_trip(tmp_path, bias):
    save_ranker(tmp_path / "model", ranker(bias))
    for a, b in zip(ranker(bias), load_ranker(tmp_path / "model"), strict=True):
        assert a[2:] == b[2:]
        for A, B in ((a.W, b.W), (a.C, b.C)):
            assert A.shape == B.shape and (A != B).nnz == 0 and B.format == "csc" and B.dtype == np.float32


def test_files_are_what_pecos_reads(tmp_path):
    save_ranker(tmp_path / "model", ranker())
    top = json.loads((tmp_path / "model" / "param.json").read_text())
    assert top == {"__meta__": {"class_fullname": "pecos.xmc.xlinear.model###XLinearModel"}}
    tree = json.loads((tmp_path / "model" / "ranker" / "param.json").read_text())
    assert tree == {
        "__meta__": {"class_fullname": "pecos.xmc.base###HierarchicalMLModel"},
        "model": "HierarchicalMLModel",
        "depth": 2,
        "nr_features": 5,
        "nr_codes": 3,
        "nr_labels": 6,
    }
    level = json.loads((tmp_path / "model" / "ranker" / "1.model" / "param.json").read_text())
    assert level == {
        "__meta__": {"class_fullname": "pecos.xmc.base###MLModel"},
        "model": "MLModel",
        "nr_labels": 6,
        "nr_features": 5,
        "nr_codes": 3,
        "bias": 1.0,
        "pred_kwargs": {
            "__meta__": {"class_fullname": "pecos.xmc.base###MLModel.PredParams"},
            "only_topk": 8,
            "post_processor": "noop",
        },
    }
    with zipfile.ZipFile(tmp_path / "model" / "ranker" / "1.model" / "W.npz") as file:
        assert {entry.compress_type for entry in file.infolist()} == {zipfile.ZIP_STORED}
        assert {entry.filename for entry in file.infolist()} == {
            f"{k}.npy" for k in ("indices", "indptr", "format", "shape", "data")
        }
        assert bytes(np.lib.format.read_array(file.open("format.npy")).item()) == b"csc"


def test_the_first_level_may_lack_its_clusters(tmp_path):
    save_ranker(tmp_path / "model", ranker())
    (tmp_path / "model" / "ranker" / "0.model" / "C.npz").unlink()
    assert load_ranker(tmp_path / "model")[0].C.toarray().tolist() == [[1], [1], [1]]


def test_what_is_missing_or_wrong_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"param\.json"):
        load_ranker(tmp_path)
    folder = tmp_path / "model"
    save_ranker(folder, ranker())
    sp.save_npz(folder / "ranker" / "1.model" / "W.npz", sp.csc_matrix((9, 6)))
    with pytest.raises(ValueError, match=r"1\.model.W\.npz: shape \(9, 6\)"):
        load_ranker(folder)
    (folder / "ranker" / "1.model" / "C.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.model.C\.npz"):
        load_ranker(folder)
    (folder / "ranker" / "param.json").write_text("{}")
    with pytest.raises(ValueError, match='"depth" is missing'):
        load_ranker(folder)
    (folder / "ranker" / "param.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load_ranker(folder)
