"""PECOS's model folders in and out, on hand-made folders; tests/peers compares with PECOS itself."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.data.vocabulary import learn_wordpiece
from xrt_jax.model import encode_texts, load_model, rank_texts
from xrt_jax.pecos.models import export_pecos, import_pecos, main
from xrt_jax.sparse import Features
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.label_embedding import pifa
from xrt_jax.xlinear.folder import save_ranker
from xrt_jax.xlinear.predict import predict
from xrt_jax.xlinear.train import train_ranker

GOLDEN = Path(__file__).with_name("golden")
TEXTS = [f"{'abc'[i % 3] * 3} word{i % 7} common text {i}" for i in range(40)]
L, D, HIDDEN = 12, 20, 32


class Bomb:
    """A pickle of this creates a file when it is executed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def rankers(nr_dense: int):
    """Features and a ranker of three levels on D sparse and nr_dense dense ones."""
    rng = np.random.default_rng(0)
    Y = sp.csr_matrix(np.maximum(rng.uniform(size=(40, L)) < 0.2, np.eye(40, L)).astype(np.float32))
    X = sp.random(40, D, 0.3, format="csr", dtype=np.float32, random_state=0)
    chain = hierarchical_kmeans(pifa(Y, X), nr_splits=2, max_leaf_size=3)
    dense = rng.standard_normal((40, nr_dense)).astype(np.float32)
    parts = Features(X, dense) if nr_dense else X
    return X, train_ranker(parts, Y, chain, only_topk=(2, 3, 5), threshold=0.0)


@pytest.fixture
def xtransformer(tmp_path):
    """A folder as XTransformer.save writes it, with a head that must not be opened; and its features."""
    folder, matcher = tmp_path / "theirs", tmp_path / "theirs" / "text_encoder"
    write(folder / "param.json", {"__meta__": {"class_fullname": "pecos.xmc.xtransformer.model###XTransformer"}})
    write(matcher / "param.json", {"model": "TransformerMatcher", "pred_params": {"truncate_length": 12}})
    shutil.copytree(GOLDEN / "bert_tiny", matcher / "text_encoder", ignore=shutil.ignore_patterns("*.npz", "*.bin"))
    learn_wordpiece(TEXTS, vocab_size=90, out_folder=matcher / "text_tokenizer")
    with open(matcher / "text_model", "wb") as out:
        pickle.dump(Bomb(tmp_path / "bombed"), out)
    X, ranker = rankers(HIDDEN)
    save_ranker(folder / "concat_model", ranker)
    return folder, X


def test_xr_transformer_comes_in_and_goes_out(tmp_path, xtransformer):
    theirs, X = xtransformer
    notes = import_pecos(theirs, tmp_path / "model")
    assert not (tmp_path / "bombed").exists() and len(notes) == 2
    model = load_model(tmp_path / "model")
    assert model.settings["truncate_length"] == 12 and model.settings["pooling"] == "pooler"
    assert model.labels == [str(label) for label in range(L)]
    ranked = rank_texts(model, TEXTS, tmp_path / "tokens", X=X)
    emb_nd = encode_texts(model, TEXTS, tmp_path / "tokens")
    joined = Features(X, emb_nd / np.linalg.norm(emb_nd, axis=1, keepdims=True))
    np.testing.assert_allclose(ranked.toarray(), predict(model.ranker, joined).toarray(), atol=1e-6)
    with pytest.raises(ValueError, match="give the features"):
        rank_texts(model, TEXTS, tmp_path / "tokens")

    notes = export_pecos(tmp_path / "model", tmp_path / "out")
    assert any("head" in note for note in notes)
    assert json.loads((tmp_path / "out" / "param.json").read_text())["nr_labels"] == L
    param = json.loads((tmp_path / "out" / "text_encoder" / "param.json").read_text())
    assert (param["text_encoder"], param["pred_params"]["truncate_length"]) == ("BertForXMC", 12)
    assert sorted(path.name for path in (tmp_path / "out" / "text_encoder" / "text_encoder").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    import_pecos(tmp_path / "out", tmp_path / "again")
    again = rank_texts(load_model(tmp_path / "again"), TEXTS, tmp_path / "tokens", X=X)
    np.testing.assert_array_equal(again.toarray(), ranked.toarray())


def test_a_ranker_on_embeddings_alone_needs_no_features(tmp_path, xtransformer):
    theirs, _ = xtransformer
    shutil.rmtree(theirs / "concat_model")
    X, ranker = rankers(HIDDEN)
    alone = [level._replace(W=level.W[D:]) for level in ranker]
    save_ranker(theirs / "concat_model", alone)
    assert len(import_pecos(theirs, tmp_path / "model")) == 1
    assert rank_texts(load_model(tmp_path / "model"), TEXTS, tmp_path / "tokens").nnz > len(TEXTS)
    assert X.shape == (len(TEXTS), D)


def test_an_encoder_alone(tmp_path, xtransformer):
    theirs, _ = xtransformer
    shutil.rmtree(theirs / "concat_model")
    write(theirs / "text_encoder" / "param.json", {"model": "TransformerMatcher"})
    with pytest.raises(ValueError, match="truncate_length is 128: this encoder takes 3 to 16 tokens"):
        import_pecos(theirs, tmp_path / "model")
    write(
        theirs / "text_encoder" / "param.json", {"model": "TransformerMatcher", "pred_params": {"truncate_length": 9}}
    )
    for folder, out in ((theirs, "whole"), (theirs / "text_encoder", "matcher")):
        import_pecos(folder, tmp_path / out)
        model = load_model(tmp_path / out)
        assert (model.settings["model"], model.ranker, model.labels) == ("encoder", None, [])
    export_pecos(tmp_path / "matcher", tmp_path / "out")
    assert not (tmp_path / "out" / "concat_model").exists()


@pytest.fixture
def xlinear(tmp_path):
    X, ranker = rankers(0)
    save_ranker(tmp_path / "theirs", ranker)
    return tmp_path / "theirs", X, ranker


def test_xr_linear_and_its_labels(tmp_path, xlinear):
    theirs, X, ranker = xlinear
    (tmp_path / "names.txt").write_text("".join(f"name {label}\n" for label in range(L)))
    import_pecos(theirs, tmp_path / "model", labels=tmp_path / "names.txt")
    model = load_model(tmp_path / "model")
    assert model.labels[3] == "name 3" and model.settings["model"] == "xr_linear"
    found = rank_texts(model, None, tmp_path / "tokens", X=X)
    np.testing.assert_array_equal(found.toarray(), predict(ranker, X).toarray())
    export_pecos(tmp_path / "model", tmp_path / "out")
    import_pecos(tmp_path / "out", tmp_path / "again")  # the names go along
    assert load_model(tmp_path / "again").labels == model.labels


# ---------------------------------------------------------------------------- mistakes


def expect(message: str, capsys, *argv) -> None:
    assert main(["xrt", *map(str, argv)]) == 2
    told = capsys.readouterr()
    assert message in told.err and told.err.count("\n") == 1 and not told.out


def test_mistakes_are_told_in_one_line(tmp_path, capsys, xlinear):
    theirs, *_ = xlinear
    out = f"--out={tmp_path / 'model'}"
    (tmp_path / "few.txt").write_text("one\n")
    expect("say import PECOS_FOLDER", capsys, "import", out)
    expect("say import PECOS_FOLDER", capsys, "import", theirs)
    expect("Unknown command line flag", capsys, "import", theirs, out, "--x=3")
    expect("none/param.json: there is no such file", capsys, "import", tmp_path / "none", out)
    expect("few.txt names 1 labels, but the model", capsys, "import", theirs, out, f"--labels={tmp_path / 'few.txt'}")
    expect("--labels=none: there is no such file", capsys, "import", theirs, out, "--labels=none")
    expect("is there already", capsys, "import", theirs, f"--out={theirs}")
    expect("config.json: there is no such file; is this the folder of a model?", capsys, "export", theirs, out)
    expect("--labels is for import", capsys, "export", theirs, out, "--labels=few.txt")
    write(theirs / "ranker" / "param.json", {"is_mmap": True})
    expect("compiled for memory mapping", capsys, "import", theirs, out)
    write(theirs / "param.json", {"__meta__": {"class_fullname": "pecos.ann.hnsw.model###HNSW"}})
    expect("pecos.ann.hnsw.model###HNSW' are not read", capsys, "import", theirs, out)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "mean"}, "its pooling is mean, but PECOS's of BertForXMC is pooler"),
        ({"windows": 3}, "cuts texts into 3 windows: PECOS cannot"),
    ],
)
def test_what_pecos_has_not_is_not_exported(tmp_path, capsys, xtransformer, change, message):
    import_pecos(xtransformer[0], tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "config.json").read_text())
    write(tmp_path / "model" / "config.json", settings | change)
    expect(message, capsys, "export", tmp_path / "model", f"--out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def test_other_encoders(tmp_path, capsys, xtransformer):
    config = xtransformer[0] / "text_encoder" / "text_encoder" / "config.json"
    write(config, json.loads(config.read_text()) | {"model_type": "modernbert"})
    expect("PECOS has no modernbert encoders", capsys, "import", xtransformer[0], f"--out={tmp_path / 'model'}")


def test_the_command(tmp_path, capsys, xlinear):
    assert main(["xrt", "import", str(xlinear[0]), f"--out={tmp_path / 'model'}"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("note: features of the texts are to be given") and "model folder:" in told[1]
    assert main(["xrt", "export", str(tmp_path / "model"), f"--out={tmp_path / 'out'}"]) == 0
    assert main(["xrt", "--help"]) == 0 and "--out" in capsys.readouterr().out
