"""XR-Linear alone, as a user runs it: python -m xrt_jax.main --config=configs/xlinear.py."""

import json
import subprocess
import sys

import numpy as np
import pytest
from commands import ROOT, environment, run
from scipy.sparse import csr_matrix, diags
from toy import toy_split

from xrt_jax.data.folders import Dataset, Split, save_dataset
from xrt_jax.data.tfidf import fit_tfidf, transform


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
    model = workdir / "model"
    assert {path.name for path in model.iterdir()} == {"config.json", "ranker", "tfidf", "labels.txt", "README.md"}
    result = run("xrt_jax.evaluate", f"--model={model}", f"--data={data}")
    assert result.returncode == 0, result.stderr
    precision = next(line.split() for line in result.stdout.splitlines() if line.startswith("P "))
    assert precision[:3] == ["P", "xr_linear", f"{metrics['xr_linear']['prec'][0]:.2f}"]


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
        ("--config.ranker.negative_sampling=usn", "needs the argument `matching`"),
        ("--config.refined_tree.embedding=pfia", "refined_tree.embedding is 'pfia'"),
        ("--config.data.label_features=Z.npy", "there is no file"),
        ("--config.matcher.loss=hinge", "unknown config field 'matcher.loss'"),
    ],
)
def test_a_bad_setting_is_one_line(data, tmp_path, flag, expected):
    result = run("xrt_jax.main", *arguments(data, tmp_path / "w", flag))
    assert result.returncode == 2 and expected in result.stderr and "Traceback" not in result.stderr
