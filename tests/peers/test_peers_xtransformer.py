"""XR-Transformer's model folders both ways, for each type of encoder that PECOS knows: the same predictions.

Skipped where PECOS's environment has no torch and transformers, which `make test-peers` does not install.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from problems import L, assert_same_scores, data, tree
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from xrt_jax.data.vocabulary import learn_wordpiece
from xrt_jax.model import encode_texts, join_features, load_model, rank_texts
from xrt_jax.pecos.models import export_pecos, import_pecos
from xrt_jax.xlinear.folder import load_ranker, save_ranker
from xrt_jax.xlinear.train import train_ranker

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
KINDS = ("bert", "roberta", "xlm_roberta", "distilbert", "xlnet")
BEAM = [{"only_topk": 3}, {"only_topk": 5}, {"only_topk": 12, "post_processor": "noop"}]
NAMES = {"roberta": ("<s>", "<pad>", "</s>", "<unk>", "<mask>")}
NAMES["xlm_roberta"] = NAMES["roberta"]
NAMES["xlnet"] = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>")
VOCAB = 90
TOL = 1e-5


@pytest.fixture(scope="module", autouse=True)
def torch_is_there(pecos):
    if not pecos("has_transformers"):
        pytest.skip("PECOS's environment has no torch and transformers: no XR-Transformer")


def texts(n: int, seed: int) -> list[str]:
    """Texts of 2 to 29 made-up words: some are longer than 16 tokens."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdefgh"), rng.integers(2, 6))) for _ in range(40)]
    return [" ".join(rng.choice(words, rng.integers(2, 30))) for _ in range(n)]


def write_tokenizer(folder: Path, kind: str) -> None:
    """A tokenizer.json of few pieces with the special tokens of the type."""
    if kind in ("bert", "distilbert"):
        learn_wordpiece(texts(200, 0), vocab_size=VOCAB, out_folder=folder)
        return
    special = list(NAMES[kind])
    if kind == "roberta":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=special, show_progress=False)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=VOCAB, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    tokenizer.train_from_iterator(texts(200, 0), trainer)
    shape = "$A:0 <sep>:0 <cls>:2" if kind == "xlnet" else "<s>:0 $A:0 </s>:0"
    pairs = [(name, tokenizer.token_to_id(name)) for name in special]
    tokenizer.post_processor = processors.TemplateProcessing(single=shape, special_tokens=pairs)
    if kind == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_start(folder: Path, kind: str) -> Path:
    """A folder for PECOS's init_model_dir, of the random encoder of tests/golden."""
    write_tokenizer(folder / "text_tokenizer", kind)
    (folder / "text_encoder").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(GOLDEN / f"{kind}_tiny" / name, folder / "text_encoder" / name)
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    config |= {"summary_use_proj": False, "num_labels": 2}
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def trained(pecos, tmp_path_factory):
    """kind -> folder that PECOS trained and saved."""
    done = {}

    def train(kind: str, features: str = "sparse") -> Path:
        if (kind, features) not in done:
            folder = tmp_path_factory.mktemp(f"{kind}-{features}")
            X, Y = data()
            start = write_start(folder / "start", kind)
            arguments = {"texts": texts(Y.shape[0], 1), "Y": Y, "X": of_kind(X, features), "chain": tree()}
            arguments["refined_indexer_params"] = {"nr_splits": 4, "max_leaf_size": 5}
            pecos("train_transformer", folder=folder / "model", start=start, beam=BEAM, **arguments)
            done[kind, features] = folder / "model"
        return done[kind, features]

    return train


def of_kind(X, features: str):
    return {"sparse": X, "dense": X.toarray(), "none": None}[features]


def compare(pecos, theirs: Path, ours: Path, X, tmp_path, **settings) -> None:
    """Fails unless PECOS with its folder and we with ours rank the same labels with the same scores."""
    told = {"beam_size": settings.get("beam_size"), "only_topk": settings.get("only_topk")}
    some = texts(60, 2)
    expected = pecos("predict_transformer", folder=theirs, texts=some, X=X, **settings)
    found = rank_texts(load_model(ours), some, tmp_path / "tokens", X=X, **told)
    assert expected.nnz > 60 * 3
    assert_same_scores(found, expected, TOL)


@pytest.mark.parametrize("kind", KINDS)
def test_import(pecos, trained, tmp_path, kind):
    theirs, some = trained(kind), texts(60, 2)
    notes = import_pecos(theirs, tmp_path / "model")
    assert any("head" in note for note in notes) and any("features" in note for note in notes)
    model = load_model(tmp_path / "model")
    expected = pecos("encode_transformer", folder=theirs, texts=some)
    np.testing.assert_allclose(encode_texts(model, some, tmp_path / "tokens"), expected, rtol=0, atol=TOL)
    X = data()[0][:60]
    compare(pecos, theirs, tmp_path / "model", X, tmp_path)
    compare(pecos, theirs, tmp_path / "model", X, tmp_path, beam_size=2, only_topk=7)
    assert model.labels == [str(label) for label in range(L)]


@pytest.mark.parametrize("features", ["dense", "none"])
def test_import_of_other_features(pecos, trained, tmp_path, features):
    theirs = trained("bert", features)
    import_pecos(theirs, tmp_path / "model")
    X = of_kind(data()[0][:60], features)
    compare(pecos, theirs, tmp_path / "model", X, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_export(pecos, trained, tmp_path, kind):
    """The encoder of one of theirs and a ranker of ours go out, and come in again."""
    import_pecos(trained(kind), tmp_path / "model")
    X, Y = data()
    model = load_model(tmp_path / "model")
    emb_nd = encode_texts(model, texts(Y.shape[0], 1), tmp_path / "tokens.trn")
    settings = {"only_topk": (3, 5, 12), "post_processor": ("l3-hinge", "l3-hinge", "noop"), "bias": 0.5}
    shutil.rmtree(tmp_path / "model" / "ranker")
    save_ranker(tmp_path / "model" / "ranker", train_ranker(join_features(X, emb_nd), Y, tree(), **settings))
    export_pecos(tmp_path / "model", tmp_path / "out")
    compare(pecos, tmp_path / "out", tmp_path / "model", X[:60], tmp_path)
    import_pecos(tmp_path / "out", tmp_path / "again")
    compare(pecos, tmp_path / "out", tmp_path / "again", X[:60], tmp_path)


def test_an_encoder_alone(pecos, trained, tmp_path):
    theirs, some = trained("bert"), texts(20, 3)
    import_pecos(theirs / "text_encoder", tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert model.settings["model"] == "encoder" and model.ranker is None
    expected = pecos("encode_transformer", folder=theirs, texts=some)
    np.testing.assert_allclose(encode_texts(model, some, tmp_path / "tokens"), expected, rtol=0, atol=TOL)
    export_pecos(tmp_path / "model", tmp_path / "out")
    again = pecos("encode_transformer", folder=tmp_path / "out", texts=some)
    np.testing.assert_allclose(again, expected, rtol=0, atol=TOL)


def test_xr_linear(pecos, tmp_path):
    X, Y = data()
    pecos("train", folder=tmp_path / "theirs", X=X, Y=Y, chain=tree(), beam=BEAM)
    import_pecos(tmp_path / "theirs", tmp_path / "model")
    expected = pecos("predict", folder=tmp_path / "theirs", X=X)
    assert_same_scores(rank_texts(load_model(tmp_path / "model"), None, tmp_path / "tokens", X=X), expected)
    export_pecos(tmp_path / "model", tmp_path / "out")
    assert_same_scores(pecos("predict", folder=tmp_path / "out", X=X), expected)
    assert len(load_ranker(tmp_path / "out")) == 3
