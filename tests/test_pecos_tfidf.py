"""PECOS's TF-IDF from its files: the features that PECOS made (tests/golden/make_pecos_tfidf_golden.py)."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.data.pecos_tfidf import read_pecos_tfidf
from xrt_jax.data.tfidf import load_tfidf, nr_columns, save_tfidf, tfidf_of_pecos, transform
from xrt_jax.model import load_model, rank_texts
from xrt_jax.pecos.models import export_pecos, import_pecos, main
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.label_embedding import pifa
from xrt_jax.xlinear.folder import save_ranker
from xrt_jax.xlinear.predict import predict
from xrt_jax.xlinear.train import train_ranker

GOLDEN = Path(__file__).with_name("golden") / "pecos_tfidf"
NAMES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
TEXTS = json.loads((GOLDEN / "texts.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_features_are_those_of_pecos(name, tmp_path):
    expected = sp.load_npz(GOLDEN / f"{name}.npz")
    tfidf = tfidf_of_pecos(*read_pecos_tfidf(GOLDEN / name))
    X = transform(tfidf, TEXTS)
    assert X.dtype == np.float32 and X.has_sorted_indices
    assert X.shape == expected.shape == (len(TEXTS), nr_columns(tfidf)) and expected.nnz > 15
    np.testing.assert_allclose(X.toarray(), expected.toarray(), rtol=0, atol=1e-6)
    save_tfidf(tmp_path, tfidf)
    assert (transform(load_tfidf(tmp_path), TEXTS) != X).nnz == 0


def test_goldens_have_all_kinds():
    assert len(NAMES) == 7
    kinds = {json.loads(path.read_text())["token_type"] for path in GOLDEN.rglob("tokenizer/config.json")}
    assert kinds == {10, 20, 30}


@pytest.fixture
def theirs(tmp_path):
    """The folder of an XLinearModel on the features of the vectorizer "both"."""
    X = sp.load_npz(GOLDEN / "both.npz")
    Y = sp.csr_matrix(np.eye(X.shape[0], 5, dtype=np.float32) + np.eye(X.shape[0], 5, k=-5, dtype=np.float32))
    folder = tmp_path / "theirs"
    save_ranker(folder, train_ranker(X, Y, hierarchical_kmeans(pifa(Y, X), nr_splits=2, max_leaf_size=2)))
    param = {"__meta__": {"class_fullname": "pecos.xmc.xlinear.model###XLinearModel"}}
    (folder / "param.json").write_text(json.dumps(param))
    return folder


def test_a_model_comes_in_with_its_vectorizer(theirs, tmp_path):
    assert import_pecos(theirs, tmp_path / "model", vectorizer=GOLDEN / "both") == []
    model = load_model(tmp_path / "model")
    expected = predict(model.ranker, sp.load_npz(GOLDEN / "both.npz"))
    found = rank_texts(model, TEXTS, "unused")
    assert found.nnz and abs(found - expected).max() < 1e-5
    notes = export_pecos(tmp_path / "model", tmp_path / "back")
    assert f"PECOS is to be given the {model.ranker[0].W.shape[0] - 1:,} TF-IDF features" in notes[0]


def test_a_vectorizer_of_another_model_is_refused(theirs, tmp_path, capsys):
    words = ["xrt-jax", "import", str(theirs), f"--out={tmp_path / 'model'}", f"--vectorizer={GOLDEN / 'words'}"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "features, the model in" in said and "it is of another model" in said and said.count("\n") == 1
    assert not (tmp_path / "model").exists()


def test_pickles_are_not_opened(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"type": "sklearntfidf", "kwargs": {}}))
    (tmp_path / "vectorizer.pkl").write_bytes(pickle.dumps(print))
    with pytest.raises(ValueError, match=r"of scikit-learn's \(sklearntfidf\), which is a pickle and is not opened"):
        read_pecos_tfidf(tmp_path)


MODEL = "0.base/vectorizer/tfidf-model.txt"
SETTINGS = "0.base/vectorizer/config.json"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (MODEL, "\n", "\n9\t1.0\t1\t0\n", "lines where it promises"),
        (MODEL, "\t1\t", "\t1\t99 ", "cannot be read"),
        (MODEL, "\n0\t", "\n1\t", "lacks a column, or has one twice"),
        (MODEL, "\n0\t0.405465", "\n0\tnan", "an n-gram twice, or one without a weight"),
        (SETTINGS, '"binary": false', '"binary": 0', "binary is 0"),
        (SETTINGS, " 2\n", " 0\n", r"ngram_range is \[1, 0\]"),
        ("0.base/tokenizer/config.json", "10", "11", "token_type is 11"),
        ("meta.json", '"num_base_vect": 2', '"num_base_vect": 0', "it has no vectorizer"),
        ("meta.json", '"num_base_vect": 2', '"num_base_vect": 3', "2.base"),
    ],
)
def test_damaged_folders(tmp_path, file, old, new, message):
    shutil.copytree(GOLDEN / "both", tmp_path / "v")
    path = tmp_path / "v" / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises((ValueError, OSError), match=message) as error:
        read_pecos_tfidf(tmp_path / "v")
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_no_folder_of_a_vectorizer(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no meta\.json; is this the folder of a tfidf vectorizer"):
        read_pecos_tfidf(tmp_path)
