"""XR-Linear alone, as a user runs it: python -m xrt_jax.main --config=configs/xlinear.py."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from commands import ROOT, environment, run
from scipy.sparse import csr_matrix, diags, identity, vstack
from scipy.sparse import random as sparse_random
from toy import toy_split

from xrt_jax.data.folders import Dataset, Split, save_dataset
from xrt_jax.data.tfidf import fit_tfidf, transform
from xrt_jax.ensemble import combine
from xrt_jax.model import load_model, rank_texts
from xrt_jax.npz import save_npz
from xrt_jax.tree.chain import complete_chain, load_chain, matching_chain
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.label_embedding import label_embedding
from xrt_jax.xlinear.folder import load_ranker
from xrt_jax.xlinear.train import train_ranker


def arguments(data, workdir, *more):
    tree = ["--config.refined_tree.nr_splits=4", "--config.refined_tree.max_leaf_size=6"]
    return ["--config=configs/xlinear.py", f"--config.data.dir={data}", f"--workdir={workdir}", *tree, *more]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """(work directory, what was printed) of a run on texts."""
    workdir = tmp_path_factory.mktemp("run") / "w"
    result = run("xrt_jax.main", *arguments(data, workdir))
    assert result.returncode == 0, result.stderr
    return workdir, result


def test_a_run_on_texts(finished, data):
    workdir, result = finished
    assert "tree levels   4 -> 24" in result.stdout
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert set(metrics) == {"xr_linear", "seconds"} and metrics["xr_linear"]["prec"][0] > 80
    assert "By label frequency" in (workdir / "report.html").read_text()
    model = workdir / "model"
    assert {path.name for path in model.iterdir()} == {"config.json", "ranker", "tfidf", "labels.txt", "README.md"}
    result = run("xrt_jax.evaluate", f"--model={model}", f"--data={data}")
    assert result.returncode == 0, result.stderr
    precision = next(line.split() for line in result.stdout.splitlines() if line.startswith("P "))
    assert precision[:3] == ["P", "xr_linear", f"{metrics['xr_linear']['prec'][0]:.2f}"]


def test_a_mistake_before_the_first_result_can_be_put_right_in_the_same_work_directory(data, tmp_path):
    workdir = tmp_path / "w"
    wrong = run("xrt_jax.main", *arguments(tmp_path / "mistyped", workdir))
    assert wrong.returncode == 2 and "mistyped" in wrong.stderr
    assert {path.name for path in workdir.iterdir()} <= {"config.json", "metrics.jsonl", "error.txt"}
    right = run("xrt_jax.main", *arguments(data, workdir))
    assert right.returncode == 0, right.stderr
    assert (workdir / "model/config.json").is_file() and not (workdir / "error.txt").exists()
    assert "belongs to a run with another config" in run("xrt_jax.main", *arguments("mistyped", workdir)).stderr
    assert (workdir / "error.txt").is_file()  # and still the run's results are not another's
    assert "belongs to a run with another config" in run("xrt_jax.main", *arguments("mistyped", workdir)).stderr


def test_predict_with_a_model_of_texts(finished, tmp_path):
    split = toy_split(30, 9)
    (tmp_path / "texts.txt").write_text("\n".join(split.texts) + "\n")
    model, texts = f"--model={finished[0] / 'model'}", f"--input={tmp_path / 'texts.txt'}"
    result = run("xrt_jax.predict", model, texts, "--topk=1")
    assert result.returncode == 0, result.stderr
    best = [json.loads(line)["labels"][0][0] for line in result.stdout.splitlines()]
    hits = [split.Y[row, int(name.split()[1])] > 0 for row, name in enumerate(best)]
    assert len(hits) == 30 and np.mean(hits) > 0.8
    result = run("xrt_jax.encode", model, texts, f"--output={tmp_path / 'e.npy'}")
    assert result.returncode == 2 and "no encoder" in result.stderr and "Traceback" not in result.stderr


def test_rankings_of_several_models_are_joined(finished, data, tmp_path):
    split = toy_split(30, 9)
    (tmp_path / "texts.txt").write_text("\n".join(split.texts) + "\n")
    result = run("xrt_jax.main", *arguments(data, tmp_path / "w", "--config.ranker.Cp=0.01"))
    assert result.returncode == 0, result.stderr
    folders = [finished[0] / "model", tmp_path / "w/model"]
    models = [f"--model={folder}" for folder in folders]
    result = run("xrt_jax.predict", *models, f"--input={tmp_path / 'texts.txt'}", "--topk=4", "--ensemble=average")
    assert result.returncode == 0, result.stderr
    expected = combine("average", [rank_texts(load_model(folder), split.texts, tmp_path / "t") for folder in folders])
    for i, line in enumerate(result.stdout.splitlines()):
        first = slice(expected.indptr[i], expected.indptr[i] + 4)
        assert [name for name, _ in json.loads(line)["labels"]] == [f"label {j}" for j in expected.indices[first]]
        np.testing.assert_allclose([s for _, s in json.loads(line)["labels"]], expected.data[first], atol=1e-6)
    result = run("xrt_jax.evaluate", *models, f"--data={data}")
    assert result.returncode == 0, result.stderr
    assert [line.split()[1] for line in result.stdout.splitlines()[1:4]] == [*map(str, folders), "rank_average"]
    (tmp_path / "w/model/labels.txt").write_text("other\n" * 24)
    refused = run("xrt_jax.evaluate", *models, f"--data={data}")
    assert refused.returncode == 2 and "only models of the same labels are joined" in refused.stderr


def test_features_only(finished, tmp_path):
    """The same features, given, make the same model."""
    trn, tst = toy_split(300, 0), toy_split(80, 2)
    tfidf, X = fit_tfidf(trn.texts)
    features = Dataset(
        Split(None, trn.Y, csr_matrix(X)),
        None,
        Split(None, tst.Y, csr_matrix(transform(tfidf, tst.texts))),
        [f"label {i}" for i in range(24)],
    )
    save_dataset(tmp_path / "data", features)
    result = run("xrt_jax.main", *arguments(tmp_path / "data", tmp_path / "w"))
    assert result.returncode == 0, result.stderr
    of_texts = json.loads((finished[0] / "metrics.json").read_text())["xr_linear"]
    assert json.loads((tmp_path / "w/metrics.json").read_text())["xr_linear"] == of_texts
    assert not (tmp_path / "w/model/tfidf").exists()
    result = run("xrt_jax.predict", f"--model={tmp_path / 'w/model'}", f"--features={tmp_path / 'data/X.tst.npz'}")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 80
    result = run("xrt_jax.predict", f"--model={tmp_path / 'w/model'}")
    assert result.returncode == 2 and "give the features" in result.stderr


def test_normalized_features_and_other_trees(finished, tmp_path):
    """Rows of any length make the model that unit rows make, and so does prediction on them."""
    trn, tst = toy_split(300, 0), toy_split(80, 2)
    tfidf, X = fit_tfidf(trn.texts)
    X_tst = transform(tfidf, tst.texts)
    longer = [diags(np.random.default_rng(0).uniform(0.1, 9, A.shape[0])) @ A for A in (X, X_tst)]
    splits = [Split(None, split.Y, csr_matrix(A)) for split, A in zip((trn, tst), longer, strict=True)]
    save_dataset(tmp_path / "data", Dataset(splits[0], None, splits[1], [f"label {i}" for i in range(24)]))
    result = run("xrt_jax.main", *arguments(tmp_path / "data", tmp_path / "w", "--config.data.normalize=True"))
    assert result.returncode == 0 and "unequal" not in result.stderr, result.stderr
    of_texts = json.loads((finished[0] / "metrics.json").read_text())["xr_linear"]
    assert json.loads((tmp_path / "w/metrics.json").read_text())["xr_linear"] == of_texts
    result = run("xrt_jax.evaluate", f"--model={tmp_path / 'w/model'}", f"--data={tmp_path / 'data'}")
    assert f"{of_texts['prec'][0]:.2f}" in result.stdout, result.stderr

    np.save(tmp_path / "data/Z.npy", np.random.default_rng(0).random((24, 5)))
    changes = ["--config.refined_tree.embedding=pifa_lf_concat", "--config.refined_tree.do_sample=True"]
    features = "--config.data.label_features=Z.npy"
    result = run("xrt_jax.main", *arguments(tmp_path / "data", tmp_path / "w2", *changes, features))
    assert result.returncode == 0 and "try --config.data.normalize=True" in result.stderr, result.stderr
    result = run("xrt_jax.main", *arguments(tmp_path / "data", tmp_path / "w3", *changes))
    assert result.returncode == 2 and "needs data.label_features with 24 rows" in result.stderr


def same_weights(a, b) -> bool:
    return all((x.W != y.W).nnz == 0 and (x.C != y.C).nnz == 0 for x, y in zip(a, b, strict=True))


def test_given_tree_costs_and_negatives(finished, data, tmp_path):
    """The command trains on what data.clusters, data.relevance and data.matches name, as Python does."""
    trn = toy_split(300, 0)
    folder = shutil.copytree(data, tmp_path / "data")
    chain = load_chain(finished[0] / "xr_linear/tree")
    leaves = chain[-1][np.random.default_rng(0).permutation(24)]  # another tree than the run's own
    R = csr_matrix(trn.Y.multiply(np.random.default_rng(1).random(trn.Y.shape)), dtype=np.float32)
    M = sparse_random(300, leaves.shape[1], 0.3, format="csr", dtype=np.float32, random_state=2)
    for name, A in (("C.npz", leaves), ("R.npz", R), ("M.npz", M)):
        save_npz(folder / name, A)
    fields = {"data.clusters": "C.npz", "data.relevance": "R.npz", "data.matches": "M.npz"}
    fields |= {"ranker.rel_mode": "induce", "ranker.rel_norm": "l1", "ranker.negative_sampling": "tfn,usn+tfn"}
    changes = [f"--config.{key}={value}" for key, value in fields.items()]
    result = run("xrt_jax.main", *arguments(folder, tmp_path / "w", *changes))
    assert result.returncode == 0, result.stderr
    settings = {"rel_mode": "induce", "rel_norm": "l1", "negative_sampling": ("tfn", "usn+tfn")}
    chain = complete_chain(leaves, nr_splits=4, min_codes=None)
    X, matching = fit_tfidf(trn.texts)[1], matching_chain({1: M}, chain)
    expected = train_ranker(X, trn.Y, chain, R=R, matching=matching, **settings)
    assert same_weights(load_ranker(tmp_path / "w/model/ranker"), expected)
    assert not same_weights(expected, train_ranker(X, trn.Y, chain, R=R))
    assert not (tmp_path / "w/xr_linear/tree").exists()


def test_names_of_labels_are_trained_on(data, tmp_path):
    """The command does what Python does, and tells documents and names apart."""
    trn = toy_split(300, 0)
    result = run("xrt_jax.main", *arguments(data, tmp_path / "w", "--config.data.label_texts=names"))
    assert result.returncode == 0, result.stderr
    assert "300 / - / 80 documents" in result.stdout and "24 texts of labels are trained on too" in result.stdout
    assert "300 training and 80 test documents" in (tmp_path / "w/report.html").read_text()
    names = [f"label {label}" for label in range(24)]
    tfidf, X = fit_tfidf(trn.texts)
    X, Y = vstack([X, transform(tfidf, names)], format="csr"), vstack([trn.Y, identity(24)], format="csr")
    chain = load_chain(tmp_path / "w/xr_linear/tree")
    Z = label_embedding("pifa", Y, X)
    expected = hierarchical_kmeans(Z, nr_splits=4, max_leaf_size=6, seed=0)
    assert all((own != other).nnz == 0 for own, other in zip(chain, expected, strict=True))
    assert same_weights(load_ranker(tmp_path / "w/model/ranker"), train_ranker(X, Y, chain))
    assert not same_weights(load_ranker(tmp_path / "w/model/ranker"), train_ranker(X[:300], Y[:300], chain))


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"data.label_texts": "mistyped.txt"}, "there is no file"),
        ({"data.label_texts": "names", "data.label_text_copies": 0}, "label_text_copies is 0: it must be 1 or more"),
        ({"data.matches": "Y.trn.npz"}, "put usn into ranker.negative_sampling"),
        ({"data.relevance": "Y.trn.npz"}, "set ranker.rel_mode to induce or ranker-only"),
        ({"data.relevance": "Y.tst.npz", "ranker.rel_mode": "induce"}, "80 rows, but 300 training documents"),
        ({"data.relevance": "other.npz", "ranker.rel_mode": "induce"}, "label that the document does not have"),
        ({"data.relevance": "narrow.npz", "ranker.rel_mode": "induce"}, "must have the shape of Y, (300, 24)"),
        ({"data.matches": "narrow.npz", "ranker.negative_sampling": "usn"}, "for each of 24 labels or of 4 leaf"),
        ({"data.clusters": "narrow.npz"}, "is a tree of 300 labels, Y has 24"),
        ({"data.clusters": "none"}, "no cluster chain here"),
    ],
)
def test_what_is_given_must_fit(data, tmp_path, changes, expected):
    folder = shutil.copytree(data, tmp_path / "data")
    save_npz(folder / "narrow.npz", csr_matrix(np.ones((300, 3), np.float32)))
    save_npz(folder / "other.npz", csr_matrix(np.ones((300, 24), np.float32)))
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    result = run("xrt_jax.main", *arguments(folder, tmp_path / "w", *flags))
    assert result.returncode == 2 and expected in result.stderr and "Traceback" not in result.stderr


def test_jax_is_never_imported(data, tmp_path):
    code = (
        "import sys; from xrt_jax.main import run; status = run(sys.argv);"
        "sys.exit(status or any(name in sys.modules for name in ('jax', 'flax', 'transformers')))"
    )
    command = [sys.executable, "-c", code, *arguments(data, tmp_path / "w")]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, capture_output=True)


@pytest.mark.parametrize(
    "flag, expected",
    [
        ("--config.method=xr_quadratic", "choose one of xr_transformer, xr_linear"),
        ("--config.ranker.rel_norm=l7", "ranker.rel_norm is 'l7'"),
        ("--config.ranker.solver=SVM", "ranker.solver is 'SVM'"),
        ("--config.ranker.negative_sampling=usn", "needs data.matches"),
        ("--config.refined_tree.embedding=pfia", "refined_tree.embedding is 'pfia'"),
        ("--config.data.label_features=Z.npy", "there is no file"),
        ("--config.matcher.loss=hinge", "unknown config field 'matcher.loss'"),
    ],
)
def test_a_bad_setting_is_one_line(data, tmp_path, flag, expected):
    result = run("xrt_jax.main", *arguments(data, tmp_path / "w", flag))
    assert result.returncode == 2 and expected in result.stderr and "Traceback" not in result.stderr
