"""The command, start to finish: what it prints and writes, resuming after a kill, and bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import jax
import numpy as np
import pytest
from commands import ROOT, environment, run
from safetensors.numpy import load_file
from scipy.sparse import csr_matrix, load_npz, save_npz
from toy import NR_LABELS, arguments, toy_split

from xrt_jax.data.tfidf import transform
from xrt_jax.encoders.huggingface import load_encoder
from xrt_jax.metrics import precision_recall
from xrt_jax.model import encode_texts, join_features, load_model, rank_texts
from xrt_jax.predict import named_rows
from xrt_jax.stages import percent
from xrt_jax.tree.chain import load_chain
from xrt_jax.xlinear.folder import load_ranker
from xrt_jax.xlinear.predict import predict


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """(work directory, what was printed) of an unbroken run."""
    workdir = tmp_path_factory.mktemp("run") / "w"
    result = run("xrt_jax.main", *arguments(data, workdir))
    assert result.returncode == 0, result.stderr
    return workdir, result


def test_the_run_tells_what_it_does(finished):
    _, result = finished
    header = result.stdout[: result.stdout.index("tfidf ...")]
    assert "300 / 40 / 80 documents (trn / dev / tst)" in header
    assert "labels        24, " in header
    assert "4 -> 8 -> 24, the first 3 fine-tuned" in header
    assert "memory" in header
    assert "devices" in header
    for stage in ("xr_linear", "level_0", "level_2", "ranker"):
        assert f"\n{stage} ..." in result.stdout
    table = result.stdout.splitlines()[-10:-3]
    assert table[0].split() == ["percent", *(f"@{k}" for k in range(1, 11))]
    assert [line.split()[:2] for line in table[1:]] == [
        [m, name] for m in "PR" for name in ("xr_linear", "matcher", "xr_transformer")
    ]
    for bar in ("tokenize", "fine-tune", "score"):
        assert bar in result.stderr
    assert "it/s" in result.stderr or "s/it" in result.stderr
    assert "Traceback" not in result.stderr


def test_metrics_are_those_of_the_written_model(finished, data):
    workdir, _ = finished
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert set(metrics) == {"xr_linear", "matcher", "xr_transformer", "seconds"}
    assert {"data", "tfidf", "level_0", "ranker"} <= set(metrics["seconds"])
    for name in ("xr_linear", "matcher", "xr_transformer"):
        assert len(metrics[name]["prec"]) == len(metrics[name]["recall"]) == 10
        assert name == "matcher" or metrics[name]["prec"][0] > 80  # a label's own words make it easy; chance is 8
    entries = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {entry["level"] for entry in entries if "loss" in entry and "level" in entry} == {0, 1, 2}
    assert {entry["level"] for entry in entries if "P@1" in entry} == {0, 1, 2}
    assert all(entry["utilisation"] > 0 for entry in entries if "loss" in entry and "level" in entry)
    assert {"encoder", "level_0", "level_2"} <= {entry["stage"] for entry in entries if "compilations" in entry}
    assert {path.name for path in (workdir / "tensorboard").iterdir()} == {"mlm", "level_0", "level_1", "level_2"}

    result = run("xrt_jax.evaluate", f"--model={workdir / 'model'}", f"--data={data}")
    assert result.returncode == 0, result.stderr
    assert f"{metrics['xr_transformer']['prec'][0]:.2f}" in result.stdout
    assert f"{metrics['xr_transformer']['recall'][9]:.2f}" in result.stdout


def test_the_model_folder_holds_what_design_says(finished):
    model = finished[0] / "model"
    assert {path.name for path in model.iterdir()} == {
        "config.json",
        "encoder",
        "ranker",
        "tfidf",
        "labels.txt",
        "README.md",
    }
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (model / "encoder").iterdir()
    }
    assert (model / "labels.txt").read_text().splitlines() == [f"label {i}" for i in range(NR_LABELS)]
    assert not [path for path in model.rglob("*") if path.suffix in (".pkl", ".pt", ".bin", ".joblib")]


def test_the_report_shows_curves_metrics_and_examples(finished):
    page = (finished[0] / "report.html").read_text()
    for part in ("training loss", "validation P@1", "level 2", "P xr_transformer", "xr_linear", "label 7", "Document "):
        assert part in page
    assert page.count("<polyline") == 2 * 3 + 2 * 3  # levels twice, rankings twice
    assert "http" not in page and "<script" not in page


def test_predict_and_encode_on_new_texts(finished, tmp_path):
    workdir, _ = finished
    split = toy_split(30, 9)
    (tmp_path / "texts.txt").write_text("\n".join(split.texts) + "\n")
    result = run(
        "xrt_jax.predict",
        f"--model={workdir / 'model'}",
        f"--input={tmp_path / 'texts.txt'}",
        f"--output={tmp_path / 'ranked.jsonl'}",
        "--topk=3",
    )
    assert result.returncode == 0, result.stderr
    ranked = [json.loads(line)["labels"] for line in (tmp_path / "ranked.jsonl").read_text().splitlines()]
    assert len(ranked) == 30
    assert all(len(pairs) == 3 and pairs == sorted(pairs, key=lambda pair: -pair[1]) for pairs in ranked)
    P = np.zeros((30, NR_LABELS), np.float32)
    for i, pairs in enumerate(ranked):
        for name, score in pairs:
            P[i, int(name.split()[1])] = score
    assert precision_recall(split.Y, csr_matrix(P), 1)["prec"][0] > 0.7

    out = tmp_path / "emb.npy"
    result = run(
        "xrt_jax.encode", f"--model={workdir / 'model'}", f"--input={tmp_path / 'texts.txt'}", f"--output={out}"
    )
    assert result.returncode == 0, result.stderr
    assert np.load(out).shape == (30, 16)


def test_a_calibrated_xr_transformer(finished, data, tmp_path):
    """Both places of calibration go through the encoder; texts from a table, labels by probability."""
    model = shutil.copytree(finished[0] / "model", tmp_path / "model")
    result = run("xrt_jax.calibrate", f"--model={model}", f"--data={data}", "--per_level=platt", "--method=platt")
    assert result.returncode == 0, result.stderr
    assert (
        len(load_model(model).calibration.levels) == len(load_ranker(model / "ranker"))
        and "test split" in result.stdout
    )
    split = toy_split(30, 9)
    (tmp_path / "texts.csv").write_text("".join(f"{line}\n" for line in ["title", *split.texts]))
    texts = [f"--text={tmp_path / 'texts.csv'}", "--text_column=title"]
    result = run("xrt_jax.predict", f"--model={model}", *texts, "--threshold=0.5", f"--output={tmp_path / 'P.npz'}")
    assert result.returncode == 0 and "no calibrated" not in result.stderr, result.stderr
    P = load_npz(tmp_path / "P.npz")
    assert P.shape == (30, NR_LABELS) and P.data.min() >= 0.5
    assert P.multiply(split.Y > 0).nnz > 0.7 * P.nnz > 10


def test_a_run_on_windows_and_what_its_model_folder_ranks(data, tmp_path):
    """Texts of more than 8 tokens go on in a second window, in the run and in the model folder alike."""
    workdir = tmp_path / "w"
    changes = {"encoder__truncate_length": 8, "encoder__windows": 2, "matcher__max_steps": 4, "xr_linear": False}
    changes |= {"matcher__max_match_clusters": 8}  # two of the three levels
    result = run("xrt_jax.main", *arguments(data, workdir, **changes))
    assert result.returncode == 0, result.stderr
    settings = json.loads((workdir / "model/config.json").read_text())
    assert (settings["truncate_length"], settings["windows"]) == (8, 2)
    offsets = np.load(workdir / "tokens/tst/offsets.npz")
    assert set(np.diff(offsets["text_offsets"])) == {1, 2} and np.diff(offsets["offsets"]).max() == 8

    texts, model = data / "X.tst.txt", workdir / "model"
    emb, ranked = tmp_path / "emb.npy", tmp_path / "ranked.jsonl"
    result = run("xrt_jax.encode", f"--model={model}", f"--input={texts}", f"--output={emb}")
    assert result.returncode == 0, result.stderr
    own_emb = np.load(workdir / "embeddings.tst.npy")
    np.testing.assert_array_equal(np.load(emb), own_emb)

    result = run("xrt_jax.predict", f"--model={model}", f"--input={texts}", f"--output={ranked}")
    assert result.returncode == 0, result.stderr
    loaded = load_model(model)
    X = join_features(transform(loaded.tfidf, texts.read_text().splitlines()), own_emb)
    own = predict(load_ranker(workdir / "xr_transformer/ranker"), X, only_topk=10)
    assert own.nnz == 800
    found = [json.loads(line)["labels"] for line in ranked.read_text().splitlines()]
    assert found == list(named_rows(own, loaded.labels))
    metrics = json.loads((workdir / "metrics.json").read_text())["xr_transformer"]
    assert percent(precision_recall(load_npz(data / "Y.tst.npz"), own, 10)) == metrics

    # a folder from before there were windows is one of plain truncation
    old = {key: value for key, value in settings.items() if key != "windows"}
    by_old = {}
    for name, written in (("old", old), ("one", settings | {"windows": 1})):
        (model / "config.json").write_text(json.dumps(written))
        by_old[name] = encode_texts(load_model(model), texts.read_text().splitlines(), tmp_path / name)
    np.testing.assert_array_equal(by_old["old"], by_old["one"])
    moved = np.abs(by_old["old"] - own_emb).max(axis=1) > 1e-4
    np.testing.assert_array_equal(moved, np.diff(offsets["text_offsets"]) == 2)


def test_started_again_a_finished_run_only_prints_its_table(finished, data):
    workdir, first = finished
    before = json.loads((workdir / "metrics.json").read_text())
    result = run("xrt_jax.main", *arguments(data, workdir))
    assert result.returncode == 0, result.stderr
    assert "fine-tune" not in result.stderr
    assert result.stdout.splitlines()[-10:] == first.stdout.splitlines()[-10:]
    after = json.loads((workdir / "metrics.json").read_text())
    assert {k: v for k, v in after.items() if k != "seconds"} == {k: v for k, v in before.items() if k != "seconds"}


def test_killed_in_level_1_the_run_goes_on_and_ends_with_the_same_model(finished, data, tmp_path):
    whole, _ = finished
    workdir = tmp_path / "w"
    command = [sys.executable, "-m", "xrt_jax.main", *arguments(data, workdir)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    in_level_1 = '"level": 1, "step": 10'
    deadline = time.time() + 240
    while not (workdir / "metrics.jsonl").exists() or in_level_1 not in (workdir / "metrics.jsonl").read_text():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.time() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (workdir / "level_0/done").exists()
    assert not (workdir / "level_1/done").exists()

    result = run("xrt_jax.main", *arguments(data, workdir))
    assert result.returncode == 0, result.stderr
    log = (workdir / "metrics.jsonl").read_text()
    assert log.count('"level": 0, "step": 10') == 1  # level 0 was not trained again
    assert log.count(in_level_1) == 2
    files = sorted(path.relative_to(whole / "model") for path in (whole / "model").rglob("*") if path.is_file())
    assert len(files) > 10
    for file in files:
        assert (workdir / "model" / file).read_bytes() == (whole / "model" / file).read_bytes(), file


def test_the_ranker_takes_an_encoder_between_start_and_end(finished, data, tmp_path):
    whole, workdir = finished[0], tmp_path / "w"
    result = run("xrt_jax.main", *arguments(data, workdir, encoder__fine_tuned_share=0.25))
    assert result.returncode == 0, result.stderr

    def weights(folder):
        return load_encoder(folder)[1]

    end = weights(whole / "model/encoder")
    expected = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, weights(whole / "encoder_start"), end)
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), expected, end))) > 1e-3
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), weights(workdir / "model/encoder"), expected)

    # levels are fine-tuned, and rank alone, as they were; the ranker has the embeddings of the written encoder
    metrics, before = (json.loads((folder / "metrics.json").read_text()) for folder in (workdir, whole))
    assert metrics["matcher"] == before["matcher"] and metrics["xr_transformer"]["prec"][0] > 80
    texts = (data / "X.tst.txt").read_text().splitlines()
    expected = encode_texts(load_model(workdir / "model"), texts, tmp_path / "tokens")
    np.testing.assert_allclose(np.load(workdir / "embeddings.tst.npy"), expected, atol=1e-5)
    assert not (workdir / "level_2/embeddings.trn.npy").exists()  # of an encoder that nobody asks for any more


def test_another_config_is_refused_and_the_fields_named(finished, data):
    result = run("xrt_jax.main", *arguments(data, finished[0], seed=7, matcher__batch_size=8))
    assert result.returncode == 2
    assert "belongs to a run with another config (matcher.batch_size: [16] -> [8]; seed: 0 -> 7)" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_features_and_encoder_folder_can_be_given(finished, data, tmp_path):
    """Features from the data set instead of TF-IDF, the encoder of another run, text in .xz."""
    import lzma

    workdir, _ = finished
    given = tmp_path / "given"
    shutil.copytree(data, given)
    for split, rows in (("trn", 300), ("dev", 40), ("tst", 80)):
        rng = np.random.default_rng(len(split) + rows)
        noise = rng.random((rows, 5)).astype(np.float32) / 10
        dense = np.hstack([load_npz(data / f"Y.{split}.npz").toarray() * 0.5, noise]).astype(np.float32)
        save_npz(given / f"X.{split}.npz", csr_matrix(dense))
        text = given / f"X.{split}.txt"
        with lzma.open(f"{text}.xz", "wb") as out:
            out.write(text.read_bytes())
        text.unlink()
    changes = {"encoder__name": workdir / "model/encoder", "matcher__bootstrap": "inherit", "matcher__max_steps": 2}
    # without man the training texts have no beams: concat models and the levels below go without
    changes |= {"matcher__negative_sampling": "tfn", "matcher__ensemble": "transformer-only,concat-only,average"}
    changes |= {"matcher__score_test": False}
    changes |= {"matcher__lr_schedule": "cosine", "matcher__gradient_accumulation": 2, "matcher__loss": "cross-entropy"}
    result = run("xrt_jax.main", *arguments(given, tmp_path / "w", **changes, xr_linear=False))
    assert result.returncode == 0, result.stderr
    assert "29 given" in result.stdout
    metrics = json.loads((tmp_path / "w/metrics.json").read_text())
    assert set(metrics) == {"xr_transformer", "seconds"}
    assert metrics["xr_transformer"]["prec"][0] > 90
    texts = tmp_path / "t.txt"
    texts.write_text("aword1 aword1\n")
    refused = run("xrt_jax.predict", f"--model={tmp_path / 'w/model'}", f"--input={texts}")
    assert refused.returncode == 2
    assert "trained on given features: give the features" in refused.stderr
    wide = tmp_path / "x.npz"
    save_npz(wide, csr_matrix(np.ones((1, 31), np.float32)))
    refused = run("xrt_jax.predict", f"--model={tmp_path / 'w/model'}", f"--input={texts}", f"--features={wide}")
    assert refused.returncode == 2
    assert "47" in refused.stderr
    assert "45" in refused.stderr


def test_a_ranker_on_the_embedding_alone(finished, data, tmp_path):
    """The encoder of another run, taken as it comes: tree, ranker and predictions without TF-IDF."""
    whole, _ = finished
    changes = {"do_fine_tune": False, "encoder__name": whole / "model/encoder", "xr_linear": False}
    changes |= {"ranker_features": "embedding", "data__normalize": True}
    result = run("xrt_jax.main", *arguments(data, tmp_path / "w", **changes))
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "w/model"
    assert not (folder / "tfidf").exists()
    model = load_model(folder)
    assert (model.settings["ranker_features"], model.settings["normalize"]) == ("embedding", False)
    assert all(level.W.shape[0] == 16 + 1 for level in model.ranker)  # the embedding and the bias

    texts = (data / "X.tst.txt").read_text().splitlines()
    emb = np.load(tmp_path / "w/embeddings.tst.npy")
    np.testing.assert_array_equal(emb, np.load(whole / "embeddings.tst.npy"))  # the fine-tuned encoder's own
    ranked = predict(model.ranker, join_features(None, emb))
    metrics = json.loads((tmp_path / "w/metrics.json").read_text())["xr_transformer"]
    assert percent(precision_recall(load_npz(data / "Y.tst.npz"), ranked, 10)) == metrics
    assert metrics["prec"][0] > 80

    # this process rounds embeddings in another way than the run
    expected = predict(model.ranker, join_features(None, encode_texts(model, texts, tmp_path / "tokens")))
    for number, X in enumerate((None, csr_matrix(np.ones((80, 3), np.float32)))):  # features are left aside
        assert (rank_texts(model, texts, tmp_path / f"tokens{number}", X=X) != expected).nnz == 0


def test_an_encoder_as_it_comes_on_a_given_tree(finished, data, tmp_path):
    whole, _ = finished
    changes = {"do_fine_tune": False, "fix_clustering": True, "data__clusters": whole / "preliminary_tree"}
    changes |= {"encoder__name": whole / "model/encoder", "xr_linear": False, "data__label_texts": "names"}
    result = run("xrt_jax.main", *arguments(data, tmp_path / "w", **changes))
    assert result.returncode == 0, result.stderr
    assert len(np.load(tmp_path / "w/embeddings.trn.npy")) == len((data / "X.trn.txt").read_text().splitlines()) + 24
    assert "4 -> 8 -> 24, the first 0 fine-tuned" in result.stdout and "fine-tune " not in result.stderr
    for name in ("level_0", "preliminary_tree", "xr_transformer/tree"):
        assert not (tmp_path / "w" / name).exists()
    for level, C in enumerate(load_chain(whole / "preliminary_tree")):
        assert (load_npz(tmp_path / f"w/model/ranker/ranker/{level}.model/C.npz") != C).nnz == 0
    before, after = (load_file(folder / "model/encoder/model.safetensors") for folder in (whole, tmp_path / "w"))
    assert before.keys() == after.keys() and all(np.array_equal(before[key], after[key]) for key in before)
    assert json.loads((tmp_path / "w/metrics.json").read_text())["xr_transformer"]["prec"][0] > 80


def test_an_encoder_alone_with_every_option_of_the_matcher(finished, data, tmp_path):
    """Beams of the concat model, short shortlists, both listed heads, an early end; the folder embeds, not ranks."""
    whole, _ = finished
    changes = {"only_encoder": True, "encoder__name": whole / "model/encoder", "xr_linear": False}
    changes |= {"matcher__ensemble": "concat-only,rank_average,average", "matcher__max_active_labels": 5}
    changes |= {"matcher__head": "auto,gather,union", "matcher__cost_sensitive": True, "matcher__eval_steps": 2}
    changes |= {"matcher__bootstrap": "inherit", "matcher__first_bootstrap": "none"}
    changes |= {
        "matcher__max_no_improve": 1,
        "matcher__learning_rate": 0,
        "matcher__head_learning_rate": 0,
        "matcher__lr_schedule": "constant",
    }
    result = run("xrt_jax.main", *arguments(data, tmp_path / "w", **changes))
    assert result.returncode == 0, result.stderr
    for bar in ("whole head", "gather head", "union head", "training 4 classifiers", "training 8 classifiers"):
        assert bar in result.stderr
    assert "training 24 classifiers" not in result.stderr  # the last level hands nothing on
    entries = [json.loads(line) for line in (tmp_path / "w/metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "P@1" in entry] == [2, 4] * 3  # no better at a rate of 0
    metrics = json.loads((tmp_path / "w/metrics.json").read_text())
    assert set(metrics) == {"matcher", "seconds"} and metrics["matcher"]["prec"][0] > 0
    assert {path.name for path in (tmp_path / "w/model").iterdir()} == {
        "config.json",
        "encoder",
        "labels.txt",
        "README.md",
    }
    texts, out = tmp_path / "t.txt", tmp_path / "e.npy"
    texts.write_text("aword1 aword1\n")
    result = run("xrt_jax.encode", f"--model={tmp_path / 'w/model'}", f"--input={texts}", f"--output={out}")
    assert result.returncode == 0 and np.load(out).shape == (1, 16)
    refused = run("xrt_jax.predict", f"--model={tmp_path / 'w/model'}", f"--input={texts}")
    assert refused.returncode == 2 and "is an encoder alone" in refused.stderr


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data__dir": "nowhere"}, "nowhere"),
        ({"encoder__name": "tests"}, "config.json"),
        ({"matcher__loss": "hing"}, "matcher.loss is 'hing': choose one of"),
        ({"matcher__lr_schedule": "square"}, "matcher.lr_schedule is 'square': choose one of"),
        ({"matcher__gradient_accumulation": "0"}, "matcher.gradient_accumulation is 0"),
        ({"matcher__head": "all"}, "matcher.head is 'all': choose one of"),
        ({"matcher__ensemble": "all"}, "matcher.ensemble is 'all': choose one of"),
        ({"matcher__max_no_improve": 2, "matcher__eval_steps": 0}, "set matcher.eval_steps and data.dev_size"),
        ({"matcher__max_active_labels": 2, "matcher__head": "whole"}, "matcher.head must be auto, union or gather"),
        ({"only_encoder": True, "do_fine_tune": False}, "leaves nothing to train"),
        ({"ranker_features": "tfidf"}, "ranker_features is 'tfidf': choose one of both, embedding"),
        ({"data__clusters": "Y.trn.npz"}, "is a tree of 300 labels, Y has 24"),
        ({"matcher__max_steps": "1,2"}, "matcher.max_steps has 2 values for 3 levels"),
        ({"ranker__Cp": "1,2,3,4,5"}, "ranker.Cp has 5 values for 2 levels"),
        ({"mesh__label": 3}, "mesh.label is 3"),
        ({"encoder__dtype": "float16"}, "encoder.dtype is 'float16'"),
        ({"encoder__fine_tuned_share": 0.0}, "encoder.fine_tuned_share is 0.0: it must be above 0, at most 1"),
        ({"encoder__windows": 0}, "encoder.windows is 0: it must be 1 or more"),
        ({"ranker__post_processor": "l-hinge"}, "ranker.post_processor='l-hinge'"),
        ({"ranker__rel_mode": "x"}, "ranker.rel_mode is 'x': choose one of"),
    ],
)
def test_a_bad_setting_is_one_line_before_any_long_stage(data, tmp_path, changes, expected):
    result = run("xrt_jax.main", *arguments(data, tmp_path / "w", **changes))
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert expected in lines[0]
    assert "xr_linear ..." not in result.stdout
    assert "Traceback" not in result.stderr
