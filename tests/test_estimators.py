"""The classifiers by scikit-learn's rules and the hub's; the network is never asked."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.hub_mixin
import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from commands import run
from huggingface_hub import ModelCard
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks
from toy import NR_LABELS, toy_split

from xrt_jax import XRLinearClassifier, XRTransformerClassifier
from xrt_jax.calibration import Calibration, save_calibration
from xrt_jax.data.tfidf import fit_tfidf, transform
from xrt_jax.estimators.inputs import are_texts, checked_texts
from xrt_jax.metrics import precision_recall
from xrt_jax.model import rank_texts

TRN, DEV = toy_split(300, 0), toy_split(60, 1)
NAMES = [f"label {i}" for i in range(NR_LABELS)]
LEAVES = {"max_leaf_size": 6, "nr_splits": 2}

# check of scikit-learn -> why it fails here
EXPECTED_FAILURES = {
    "check_classifier_multioutput": "predict's threshold is min_score on ranking scores, not 0 on decision_function",
    "check_non_transformer_estimators_n_iter": "max_iter bounds the passes for each label: there is no one n_iter_",
}


def names_of(Y) -> list[list[str]]:
    return [[NAMES[j] for j in row.indices] for row in sp.csr_matrix(Y)]


# ---------------------------------------------------------------------------- scikit-learn


@parametrize_with_checks([XRLinearClassifier()], expected_failed_checks=lambda estimator: EXPECTED_FAILURES)
def test_rules_of_scikit_learn(estimator, check):
    check(estimator)


def test_the_transformer_takes_texts_which_scikit_learn_has_no_checks_for():
    with pytest.warns(match="Can't test estimator XRTransformerClassifier which requires input"):
        results = check_estimator(XRTransformerClassifier())
    assert {result["status"] for result in results} == {"passed"}


def test_neither_import_nor_xr_linear_take_jax():
    code = """
import sys
import xrt_jax
assert "sklearn" not in sys.modules and xrt_jax.__version__
xrt_jax.XRLinearClassifier(min_df=1).fit(["some words", "other words"], [["x"], ["y"]]).predict(["words"])
xrt_jax.XRTransformerClassifier()
sys.exit(any(name in sys.modules for name in ("jax", "transformers", "torch")))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    import xrt_jax

    assert {"XRLinearClassifier", "XRTransformerClassifier", "__version__"} <= set(dir(xrt_jax))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = xrt_jax.nothing


# ---------------------------------------------------------------------------- XR-Linear


@pytest.fixture(scope="module")
def linear():
    """Fitted on lists of label names."""
    return XRLinearClassifier(**LEAVES).fit(TRN.texts, names_of(TRN.Y), validation=(DEV.texts, names_of(DEV.Y)))


def test_each_form_of_labels_gives_the_same_model(linear):
    P = linear.decision_function(DEV.texts)
    assert sp.issparse(P) and np.diff(P.indptr).max() == linear.only_topk
    assert linear.classes_.tolist() == sorted(NAMES)
    for Y in (TRN.Y, TRN.Y.toarray()):
        model = XRLinearClassifier(**LEAVES).fit(TRN.texts, Y)
        assert model.classes_.tolist() == list(range(NR_LABELS))
        ours, scores = model.predict(DEV.texts), model.decision_function(DEV.texts)
        assert sp.issparse(ours) == sp.issparse(Y) == sp.issparse(scores)
        assert ours.dtype == np.int64 and ours.shape == DEV.Y.shape
        assert model.score(DEV.texts, DEV.Y) == pytest.approx(linear.score(DEV.texts, names_of(DEV.Y)), abs=0.05)


def test_predictions_agree(linear):
    P = rank_texts(linear.model_, DEV.texts, "unused")
    best = linear.predict_topk(DEV.texts, k=3)
    assert [[name for name, _ in row] for row in best] == [
        [linear.model_.labels[j] for j in row.indices[:3]] for row in P
    ]
    assert best[0][0][1] == pytest.approx(P[0].data[0], abs=1e-6) and best[0][0][1] >= best[0][1][1]
    assert (linear.decision_function(DEV.texts) != P).nnz == 0
    predicted = linear.predict(DEV.texts)
    assert (predicted != (P >= 0.5).astype(np.int64)).nnz == 0 and predicted.data.all()
    Y = sp.csr_matrix(DEV.Y[:, [NAMES.index(name) for name in linear.classes_]])
    assert linear.score(DEV.texts, names_of(DEV.Y)) == precision_recall(Y, P, 1)["prec"][0] > 0.9
    assert linear.validation_metrics_["prec"][0] == linear.score(DEV.texts, names_of(DEV.Y))


@pytest.mark.parametrize(
    ("post_processor", "least"), [("noop", 0.0), ("sigmoid", 0.5), ("log-sigmoid", np.log(0.5)), ("l1-hinge", 0.5)]
)
def test_the_least_score_goes_with_the_post_processor(post_processor, least):
    model = XRLinearClassifier(**LEAVES, post_processor=post_processor).fit(TRN.texts, TRN.Y)
    P = model.decision_function(DEV.texts)
    assert model.predict(DEV.texts).sum() == (P.data >= least).sum() > 0
    model.set_params(min_score=least + 0.1)
    assert model.predict(DEV.texts).sum() == (P.data >= least + 0.1).sum()


def test_dense_scores_are_of_all_labels():
    model = XRLinearClassifier(**LEAVES, only_topk=2).fit(TRN.texts, TRN.Y.toarray())
    scores = model.decision_function(DEV.texts)
    assert scores.shape == DEV.Y.shape and (scores > 0).all()
    assert [len(row) for row in model.predict_topk(DEV.texts[:2], k=NR_LABELS)] == [12, 12]  # what the beam ends with


def test_features_in_place_of_texts():
    vectorizer = TfidfVectorizer(min_df=2).fit(TRN.texts)
    X, X_dev = vectorizer.transform(TRN.texts), vectorizer.transform(DEV.texts)
    model = XRLinearClassifier(**LEAVES, normalize=True).fit(3 * X, TRN.Y)
    pipeline = make_pipeline(TfidfVectorizer(min_df=2), XRLinearClassifier(**LEAVES)).fit(TRN.texts, TRN.Y)
    np.testing.assert_allclose(
        model.decision_function(7 * X_dev).toarray(), pipeline.decision_function(DEV.texts).toarray(), atol=1e-5
    )
    assert model.n_features_in_ == X.shape[1] and not hasattr(model, "feature_names_in_")
    with pytest.raises(ValueError, match="fitted on features: give features"):
        model.predict(DEV.texts)
    with pytest.raises(ValueError, match="has 3 features, but XRLinearClassifier is expecting"):
        model.predict(np.zeros((1, 3)))


def own_features(*splits) -> list[sp.csr_matrix]:
    """TF-IDF of scikit-learn's for the texts of the splits, as a user's own features."""
    vectorizer = TfidfVectorizer(min_df=2).fit(TRN.texts)
    return [vectorizer.transform(split.texts) for split in splits]


def test_features_beside_texts_stand_for_tfidf(tmp_path):
    F, F_dev = own_features(TRN, DEV)
    beside = XRLinearClassifier(**LEAVES, normalize=True)
    beside.fit(TRN.texts, TRN.Y, features=2 * F, validation=(DEV.texts, DEV.Y, F_dev))
    alone = XRLinearClassifier(**LEAVES, normalize=True).fit(2 * F, TRN.Y)
    expected = alone.decision_function(F_dev)
    assert expected.nnz and (beside.decision_function(DEV.texts, features=F_dev) != expected).nnz == 0
    assert beside.score(DEV.texts, DEV.Y, features=F_dev) == beside.validation_metrics_["prec"][0] > 0.9
    assert beside.n_features_in_ == F.shape[1]
    assert "model.fit(X, y, features=features)" in beside.card_
    beside.save(tmp_path / "m")
    again = XRLinearClassifier.load(tmp_path / "m")
    for answer in (again.decision_function(DEV.texts, features=F_dev), again.decision_function(F_dev)):
        assert (answer != expected).nnz == 0
    assert again.predict_topk(DEV.texts, 2, features=F_dev) == alone.predict_topk(F_dev, 2)
    assert (again.predict(DEV.texts, features=F_dev) != alone.predict(F_dev)).nnz == 0


def test_features_go_through_a_grid_search():
    (F,) = own_features(TRN)
    with sklearn.config_context(enable_metadata_routing=True):
        model = XRLinearClassifier(**LEAVES).set_fit_request(features=True).set_score_request(features=True)
        search = GridSearchCV(model, {"Cp": [1e-6, 1.0]}, cv=KFold(2)).fit(TRN.texts, TRN.Y, features=F)
        assert search.best_params_ == {"Cp": 1.0} and search.score(TRN.texts, TRN.Y, features=F) > 0.9
    assert search.best_estimator_.n_features_in_ == F.shape[1]


@pytest.mark.parametrize("make", [XRLinearClassifier, XRTransformerClassifier])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": np.zeros((2, 3))}, "features has 2 rows, but X 300 texts: row n must belong to text n"),
        ({"features": np.zeros((300, 3)), "validation": (DEV.texts, DEV.Y)}, "for training or validation alone: give"),
        ({"validation": (DEV.texts, DEV.Y, np.zeros((60, 3)))}, "for training or validation alone: give both"),
        ({"features": np.zeros((300, 3)), "X": np.zeros((300, 4))}, "X is no sequence of texts but ndarray"),
        ({"features": np.full((300, 3), np.nan)}, "contains NaN"),
        ({"features": np.zeros(300)}, "Expected 2D array"),
    ],
)
def test_features_that_do_not_fit_the_texts(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make().fit(**{"X": TRN.texts, "y": TRN.Y} | arguments)


def test_features_missing_or_too_many_at_prediction(linear):
    F, F_dev = own_features(TRN, DEV)
    model = XRLinearClassifier(**LEAVES).fit(TRN.texts, TRN.Y, features=F)
    for given, arguments, message in [
        (model, {}, "fitted on features: give features=, or them as X"),
        (model, {"features": F_dev[:, :5]}, f"X has 5 features, but XRLinearClassifier is expecting {F.shape[1]}"),
        (model, {"features": F_dev[:5]}, "features has 5 rows, but X 60 texts"),
        (linear, {"features": F_dev}, "but the estimator predicts from the texts alone: leave"),
    ]:
        with pytest.raises(ValueError, match=message):
            given.predict(DEV.texts, **arguments)


@pytest.mark.parametrize("labels", [TRN.Y, names_of(TRN.Y)], ids=["sparse", "names"])
def test_grid_search(labels):
    # Without a cv object scikit-learn looks at y itself, and refuses lists of names.
    search = GridSearchCV(XRLinearClassifier(**LEAVES), {"Cp": [1e-6, 1.0], "threshold": [0.1]}, cv=KFold(2))
    search.fit(TRN.texts, labels)
    assert search.best_params_["Cp"] == 1.0 and search.best_score_ > 0.9
    assert clone(search.best_estimator_).get_params() == search.best_estimator_.get_params()


def test_a_random_state_is_a_seed():
    seeds = [XRLinearClassifier(random_state=state, min_df=1).fit(["a word", "two"], ["x", "y"]).seed_
             for state in (5, np.random.RandomState(0), np.random.RandomState(0), None)]  # fmt: skip
    assert seeds[0] == 5 and seeds[1] == seeds[2]


def test_names_of_labels_are_learned_from():
    texts = ["red apples", "green apples", "green leaves", "red leaves"]
    names = ["fruit of apples", "tree of leaves", "unheard of kiwi"]
    labels = [[names[0]], [names[0]], [names[1]], [names[1], names[2]]]
    taught = XRLinearClassifier(min_df=1, ngram_range=(1, 1), label_texts="names").fit(texts, labels)
    tfidf, _ = fit_tfidf(texts, min_df=1, ngram_range=(1, 1))  # what words there are the documents tell
    by_hand = XRLinearClassifier().fit(transform(tfidf, texts + names), labels + [[name] for name in names])
    for own, other in zip(taught.model_.ranker, by_hand.model_.ranker, strict=True):
        assert (own.W != other.W).nnz == 0 and (own.C != other.C).nnz == 0
    assert taught.predict_topk(["leaves"], k=1)[0][0][0] == names[1]
    assert "4 training documents" in taught.card_ and "3 texts of labels, trained on as documents" in taught.card_


# ---------------------------------------------------------------------------- folders


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (TRN.Y, np.arange(NR_LABELS)),
        (TRN.Y.toarray(), np.arange(NR_LABELS)),
        (names_of(TRN.Y), np.array(sorted(NAMES), dtype=object)),
        (TRN.Y.argmax(axis=1).A1 % 5 - 2, np.arange(-2, 3)),
        (np.array(["b", "a", "c"])[TRN.Y.argmax(axis=1).A1 % 3], np.array(["a", "b", "c"])),
        (TRN.Y.argmax(axis=1).A1 % 2 == 0, np.array([False, True])),
    ],
)
def test_saved_and_loaded(tmp_path, labels, classes):
    model = XRLinearClassifier(**LEAVES, ngram_range=(1, 1), Cp=np.float32(2)).fit(TRN.texts, labels)
    model.save(tmp_path / "m")
    model.save(tmp_path / "m")  # over an older model
    again = XRLinearClassifier.load(tmp_path / "m")
    assert again.get_params() == model.get_params()
    assert again.classes_.tolist() == classes.tolist() and again.target_.kind == model.target_.kind
    for X in (DEV.texts, DEV.texts[:1]):
        ours, theirs = again.predict(X), model.predict(X)
        assert type(ours) is type(theirs)
        assert (ours != theirs).sum() == 0
    again.save(tmp_path / "again")
    files = sorted(path.relative_to(tmp_path / "m") for path in (tmp_path / "m").rglob("*") if path.is_file())
    assert all((tmp_path / "m" / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)
    assert {file.suffix for file in files} == {".json", ".npz", ".txt", ".md"}


def test_a_model_on_features_saved_and_loaded(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), np.arange(40) % 2
    X[:, 0] += 2 * y
    model = XRLinearClassifier().fit(X, y)
    model.save(tmp_path / "m")
    again = XRLinearClassifier.load(tmp_path / "m")
    assert again.n_features_in_ == 3 and (again.predict(X) == model.predict(X)).all()


def test_a_calibration_stays_with_the_model(linear, tmp_path):
    linear.save(tmp_path / "m")
    found = Calibration("platt", [], [], [1.5, -0.25], True, [], 80, [])
    save_calibration(tmp_path / "m", found)
    again = XRLinearClassifier.load(tmp_path / "m")
    again.save(tmp_path / "n")
    assert XRLinearClassifier.load(tmp_path / "n").model_.calibration == found
    linear.save(tmp_path / "n")  # another model: the calibration was not its
    assert not (tmp_path / "n/calibration.json").exists()


def test_commands_take_the_folder(linear, tmp_path):
    linear.save(tmp_path / "m")
    (tmp_path / "texts.txt").write_text("\n".join(DEV.texts[:3]))
    result = run("xrt_jax.predict", f"--model={tmp_path / 'm'}", f"--input={tmp_path / 'texts.txt'}", "--topk=2")
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line)["labels"] for line in result.stdout.splitlines()]
    assert [[tuple(pair) for pair in row] for row in rows] == linear.predict_topk(DEV.texts[:3], k=2)


def test_folders_of_the_command_are_loaded(data, tmp_path):
    flags = [f"--config.data.dir={data}", f"--workdir={tmp_path / 'w'}", "--config.refined_tree.max_leaf_size=6"]
    assert run("xrt_jax.main", "--config=configs/xlinear.py", *flags).returncode == 0
    model = XRLinearClassifier.load(tmp_path / "w/model")
    assert model.classes_.tolist() == NAMES and model.score(DEV.texts, names_of(DEV.Y)) > 0.9
    card = ModelCard.load(tmp_path / "w/model/README.md")
    assert {result.metric_name for result in card.data.eval_results} == {"P@1", "P@3", "P@5", "R@10"}
    assert "--config.refined_tree.max_leaf_size=6" in card.text and "300 training, 80 test documents" in card.text
    with pytest.raises(ValueError, match=r"is of the kind xr_linear.*: use XRLinearClassifier"):
        XRTransformerClassifier.load(tmp_path / "w/model")


def test_a_run_without_a_test_split(data, tmp_path):
    flags = [f"--config.data.dir={data}", f"--workdir={tmp_path / 'w'}", "--config.data.has_test=False"]
    result = run("xrt_jax.main", "--config=configs/xlinear.py", *flags)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "w/metrics.json").read_text()).keys() == {"seconds"}
    assert ModelCard.load(tmp_path / "w/model/README.md").data.eval_results is None


# ---------------------------------------------------------------------------- XR-Transformer


@pytest.fixture(scope="module")
def quick_compilation():
    """Less optimised programs: compiling them is most of these tests' time."""
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


TINY = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, "vocab_size": 200}
OVERRIDES = {f"scratch.{name}": value for name, value in TINY.items()} | {"encoder.nr_buckets": 1}


@pytest.fixture(scope="module")
def transformer(tmp_path_factory, quick_compilation):
    """A tiny one with a work directory, fitted on label names."""
    workdir = tmp_path_factory.mktemp("fit") / "w"
    model = XRTransformerClassifier(
        truncate_length=24,
        max_steps=20,
        mlm_steps=10,
        batch_size=16,
        max_leaf_size=NR_LABELS,
        config_overrides=OVERRIDES,
        workdir=workdir,
    )
    return model.fit(TRN.texts, names_of(TRN.Y), validation=(DEV.texts, names_of(DEV.Y)))


def test_a_transformer_without_tfidf(transformer, quick_compilation, tmp_path):
    """The encoder of the other one as it comes, and a ranker on its embeddings alone."""
    encoder = Path(transformer.workdir) / "run/model/encoder"
    model = XRTransformerClassifier(
        encoder=str(encoder),
        truncate_length=24,
        max_leaf_size=NR_LABELS,
        ranker_features="embedding",
        label_texts="names",
        label_text_copies=2,
        config_overrides={"do_fine_tune": False},
        workdir=tmp_path / "w",
    ).fit(TRN.texts, names_of(TRN.Y))
    assert len(np.load(tmp_path / "w/run/embeddings.trn.npy")) == len(TRN.texts) + 2 * NR_LABELS
    assert "300 training documents" in model.card_ and f"{2 * NR_LABELS} texts of labels" in model.card_
    assert model.model_.tfidf is None and model.model_.ranker[0].W.shape[0] == transformer.encode(["x"]).shape[1] + 1
    model.save(tmp_path / "model")
    loaded = XRTransformerClassifier.load(tmp_path / "model")
    assert loaded.predict_topk(DEV.texts, k=2) == model.predict_topk(DEV.texts, k=2)
    assert loaded.predict_topk(DEV.texts, k=2, features=np.ones((60, 3))) == model.predict_topk(DEV.texts, k=2)


def test_the_transformer_learns_and_is_silent(transformer, capsys):
    assert transformer.score(DEV.texts, names_of(DEV.Y)) > 0.9
    assert transformer.validation_metrics_["prec"][0] > 0.9
    assert transformer.predict_topk(DEV.texts[:1], k=1)[0][0][0] in names_of(DEV.Y)[0]
    assert transformer.encode(DEV.texts[:3]).shape == (3, 16)
    assert capsys.readouterr() == ("", "")


def test_a_fit_goes_on_in_its_work_directory(transformer):
    state = transformer.workdir / "run/level_0"
    before = {path: path.stat().st_mtime_ns for path in state.rglob("*")}
    again = clone(transformer).fit(TRN.texts, names_of(TRN.Y), validation=(DEV.texts, names_of(DEV.Y)))
    assert before == {path: path.stat().st_mtime_ns for path in state.rglob("*")}
    assert (again.decision_function(DEV.texts) != transformer.decision_function(DEV.texts)).nnz == 0
    with pytest.raises(ValueError, match="belongs to a fit on other data: choose another one"):
        clone(transformer).fit(TRN.texts[:100], names_of(TRN.Y)[:100])
    with pytest.raises(ValueError, match=r"another config \(matcher.learning_rate: \[0.001\] -> \[0.5\]\)"):
        other = clone(transformer).set_params(learning_rate=0.5, head_learning_rate=2e-3)
        other.fit(TRN.texts, names_of(TRN.Y), validation=(DEV.texts, names_of(DEV.Y)))


def test_the_transformer_saved_and_loaded(transformer, tmp_path):
    transformer.save(tmp_path / "m")
    expected = transformer.decision_function(DEV.texts)
    for again in (XRTransformerClassifier.load(tmp_path / "m"), pickle.loads(pickle.dumps(transformer))):
        assert (again.decision_function(DEV.texts) != expected).nnz == 0
        again.save(tmp_path / "again")
        for file in ("encoder/model.safetensors", "encoder/tokenizer.json", "ranker/param.json", "README.md"):
            assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "m" / file).read_bytes()
        shutil.rmtree(tmp_path / "again")
    suffixes = {path.suffix for path in (tmp_path / "m").rglob("*") if path.is_file()}
    assert suffixes == {".json", ".npz", ".txt", ".md", ".safetensors"}
    modules = json.loads((tmp_path / "m/encoder/modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Dense"]
    with pytest.raises(ValueError, match="use XRTransformerClassifier"):
        XRLinearClassifier.load(tmp_path / "m")


@pytest.mark.parametrize("dense", [False, True])
def test_the_transformer_on_features_of_ones_own(transformer, tmp_path, dense):
    F, F_dev = (F.toarray() if dense else F for F in own_features(TRN, DEV))
    model = clone(transformer).set_params(workdir=tmp_path / "w", max_steps=2)
    model.fit(TRN.texts, names_of(TRN.Y), features=F, validation=(DEV.texts, names_of(DEV.Y), F_dev))
    assert model.model_.tfidf is None and model.n_features_in_ == F.shape[1]
    assert model.score(DEV.texts, names_of(DEV.Y), features=F_dev) == model.validation_metrics_["prec"][0] > 0.9
    expected = model.decision_function(DEV.texts, features=F_dev)
    assert (model.decision_function(DEV.texts, features=F_dev[::-1]) != expected).nnz > 0  # they are looked at
    model.save(tmp_path / "m")
    again = XRTransformerClassifier.load(tmp_path / "m")
    assert again.n_features_in_ == F.shape[1]
    assert (again.decision_function(DEV.texts, features=F_dev) != expected).nnz == 0
    for features, message in [
        (None, "fitted on texts and features: give features= of the texts too"),
        (F_dev[:, 1:], f"expecting {F.shape[1]} features"),
        (F_dev[1:], "features has 59 rows, but X 60 texts"),
    ]:
        with pytest.raises(ValueError, match=message):
            again.predict(DEV.texts, features=features)
    with pytest.raises(ValueError, match="predicts from the texts alone: leave them out"):
        transformer.predict(DEV.texts, features=F_dev)
    with pytest.raises(ValueError, match="belongs to a fit on other data: choose another one"):
        clone(model).fit(TRN.texts, names_of(TRN.Y), features=2 * F)


def test_a_command_repeats_the_run_of_a_card(transformer):
    card = (transformer.workdir / "run/model/README.md").read_text()
    assert "python -m xrt_jax.main --config=configs/default.py --workdir=WORKDIR --config.data.dev_size=60" in card
    assert "--config.matcher.max_steps=20" in card and "--config.xr_linear=False" in card


# ---------------------------------------------------------------------------- the hub


def test_save_pretrained_and_from_pretrained(transformer, tmp_path):
    folder = tmp_path / "repository"
    (folder / ".git").mkdir(parents=True)
    (folder / "README.md").write_text("my own card\n")
    (folder / "tfidf").mkdir()
    (folder / "tfidf/stale.json").write_text("")
    transformer.save_pretrained(folder)
    assert (folder / ".git").is_dir() and (folder / "README.md").read_text() == "my own card\n"
    assert not (folder / "tfidf/stale.json").exists()
    assert sorted(os.listdir(folder)) == [
        ".git", "README.md", "config.json", "encoder", "labels.txt", "ranker", "tfidf"
    ]  # fmt: skip
    again = XRTransformerClassifier.from_pretrained(folder, min_score=0.9)
    assert again.min_score == 0.9 and again.truncate_length == 24
    assert (again.decision_function(DEV.texts) != transformer.decision_function(DEV.texts)).nnz == 0


def test_push_to_hub(linear, monkeypatch, tmp_path):
    class Hub:
        """Stands in for HfApi: a repository is a folder here."""

        def __init__(self, token):
            assert token == "a token"

        def create_repo(self, repo_id, **kwargs):
            return SimpleNamespace(repo_id=f"me/{repo_id}")

        def upload_folder(self, *, repo_id, folder_path, **kwargs):
            shutil.copytree(folder_path, tmp_path / repo_id)
            return repo_id

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Hub)
    assert linear.push_to_hub("model", token="a token") == "me/model"
    card = ModelCard.load(tmp_path / "me/model/README.md")
    assert card.data.library_name == "xrt_jax" and card.data.pipeline_tag == "text-classification"
    assert {r.metric_name: r.metric_value for r in card.data.eval_results}["P@1"] > 90
    assert "XRLinearClassifier(max_leaf_size=6, nr_splits=2)" in card.text
    assert "300 training documents" in card.text

    def download(repo_id, *, revision, allow_patterns, **kwargs):
        assert "tfidf/*" in allow_patterns and revision == "v1"
        return str(tmp_path / repo_id)

    monkeypatch.setattr("xrt_jax.estimators.ranker.snapshot_download", download)
    config = tmp_path / "me/model/config.json"
    monkeypatch.setattr(huggingface_hub.hub_mixin, "hf_hub_download", lambda **kwargs: str(config))
    again = XRLinearClassifier.from_pretrained("me/model", revision="v1")
    assert (again.predict(DEV.texts) != linear.predict(DEV.texts)).nnz == 0
    assert linear.save_pretrained(tmp_path / "only", repo_id="x") is None


# ---------------------------------------------------------------------------- bad input


def test_what_is_no_texts():
    assert are_texts(["a"]) and are_texts(np.array(["a"])) and not are_texts([[1.0]]) and not are_texts([])
    assert checked_texts(np.array(["a\nb", "c"])) == ["a b", "c"]
    for X, message in [
        ("a text", "one string: give a list"),
        (3, "no sequence of texts but int"),
        ([], "no texts"),
        (["a", None], "row 1 is of the type NoneType"),
    ]:
        with pytest.raises(ValueError, match=message):
            checked_texts(X)


@pytest.mark.parametrize(
    ("parameters", "arguments", "message"),
    [
        ({}, {"validation": 3}, "validation must be"),
        ({}, {"X": TRN.texts[:2]}, "inconsistent numbers of samples"),
        ({"solver": "magic"}, {}, "solver"),
        ({"post_processor": "magic"}, {}, "post_processor='magic' must be one of"),
        ({"min_df": 1000}, {}, "TF-IDF on 300 texts"),
        ({"label_texts": "all"}, {}, "label_texts is 'all': it must be 'names' or None"),
        ({"label_texts": "names"}, {}, "the labels are numbers: give lists of names"),
        ({"label_texts": "names"}, {"X": TRN.Y}, "names of labels have no features"),
    ],
)
def test_bad_fits_of_xr_linear(parameters, arguments, message):
    with pytest.raises(ValueError, match=message):
        XRLinearClassifier(**parameters).fit(**{"X": TRN.texts, "y": TRN.Y} | arguments)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"config_overrides": {"matcher.max_step": 3}}, "unknown config field 'matcher.max_step': did you mean"),
        ({"max_steps": "many"}, "'matcher.max_steps' takes int values"),
        ({"truncate_length": "long"}, "config field 'encoder.truncate_length'"),
        ({"encoder": "no/such-folder"}, "no/such-folder is not a folder"),
        ({"label_texts": "names"}, "the labels are numbers: give lists of names"),
        ({"config_overrides": {"data.label_texts": "names"}}, "the labels are numbers: give lists of names"),
        ({"ranker_features": "tfidf"}, "ranker_features is 'tfidf': choose one of both, embedding"),
    ],
)
def test_bad_fits_of_xr_transformer(parameters, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        XRTransformerClassifier(**parameters).fit(TRN.texts, TRN.Y)


def test_other_mistakes(linear, tmp_path):
    with pytest.raises(NotFittedError):
        XRTransformerClassifier().predict(DEV.texts)
    with pytest.raises(ValueError, match="k is 0"):
        linear.predict_topk(DEV.texts, k=0)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds thesis.txt, which is no part of a model"):
        linear.save(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a model folder"):
        XRLinearClassifier.load(tmp_path)
    with pytest.raises(ValueError, match="has a line break"):
        XRLinearClassifier(min_df=1).fit(["a word", "two"], [["x\ny"], ["z"]]).save(tmp_path / "m")
    assert Path(tmp_path / "thesis.txt").is_file()
