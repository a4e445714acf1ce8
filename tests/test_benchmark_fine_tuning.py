"""benchmarks/fine_tuning.py on a run of the toy set that trained on a part of its texts."""

import json
import shutil
import sys
from itertools import pairwise

import numpy as np
import pytest
from commands import ROOT, run
from scipy.sparse import load_npz
from test_benchmark_ablation import rows_of
from toy import arguments

sys.path.insert(0, str(ROOT / "benchmarks"))  # scripts, no package

import fine_tuning


@pytest.fixture(scope="module")
def workdir(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fine_tuning")
    first = run("xrt_jax.main", *arguments(data, folder / "first", matcher__max_steps=2, xr_linear=False))
    assert first.returncode == 0, first.stderr
    np.savetxt(folder / "part.idx", np.arange(0, 300, 2), "%d")
    changes = {"encoder__name": folder / "first/encoder_start", "data__trn_rows": folder / "part.idx"}
    found = run("xrt_jax.main", *arguments(data, folder / "run", xr_linear=False, **changes))
    assert found.returncode == 0, found.stderr
    return folder / "run"


def table(workdir, capsys, monkeypatch, *flags):
    monkeypatch.setattr("sys.argv", ["fine_tuning.py", str(workdir), *flags])
    fine_tuning.main()
    return rows_of(capsys.readouterr().out)


def test_rows_differ_and_a_second_call_says_the_same(workdir, capsys, monkeypatch):
    rows = table(workdir, capsys, monkeypatch, "--seeds=0", "--shares=0.25")
    shares = [f"share {share}" for share in ("0", "0.25", "0.5", "1")]
    assert list(rows)[:4] == shares and len(rows) == 8
    emb = [np.load(workdir / f"fine_tuning/embeddings.{share}.unseen.npy") for share in ("0", "0.25", "0.5", "1")]
    assert all(np.abs(one - two).max() > 1e-3 for one, two in pairwise(emb))
    assert rows["share 1"] != rows["matcher alone"] != rows["share 0.5 joined with the matcher"]
    assert all(10 < float(value) <= 100 for row in rows.values() for value in row)
    files = sorted((workdir / "fine_tuning").glob("*.npy"))
    times = [path.stat().st_mtime_ns for path in files]
    assert rows == table(workdir, capsys, monkeypatch, "--seeds=0", "--shares=0.25")
    assert [path.stat().st_mtime_ns for path in files] == times and len(files) == 8


def test_the_matcher_and_the_share_of_one_are_those_of_the_run(data, workdir, capsys, monkeypatch):
    """On the test texts in place of unseen ones, the run's own metrics come out."""
    tst = fine_tuning.load_dataset(data).tst
    monkeypatch.setattr(fine_tuning, "unseen_texts", lambda config, count: tst)
    other = workdir.with_name("copy")  # whose embeddings are of other texts
    shutil.copytree(workdir, other, ignore=shutil.ignore_patterns("fine_tuning"))
    rows = table(other, capsys, monkeypatch, "--seeds=0", "--shares=1")
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert [float(value) for value in rows["matcher alone"]] == [metrics["matcher"]["prec"][k - 1] for k in (1, 3, 5)]
    ranked = [metrics["xr_transformer"]["prec"][k - 1] for k in (1, 3, 5)]
    np.testing.assert_allclose([float(value) for value in rows["share 1"]], ranked, atol=3)


def test_texts_that_the_run_has_seen_are_left_out(data, workdir):
    config = fine_tuning.read_config(workdir)
    unseen = fine_tuning.unseen_texts(config, 40)
    assert len(unseen.texts) == 40
    Y, texts = load_npz(data / "Y.trn.npz").tocsr(), (data / "X.trn.txt").read_text().splitlines()
    rows = [texts.index(text) for text in unseen.texts]
    assert all(row % 2 for row in rows) and (Y[rows] != unseen.Y).nnz == 0
    assert len(fine_tuning.unseen_texts(config, 10_000).texts) == 150


def test_a_run_on_all_texts_is_refused(workdir, tmp_path, monkeypatch):
    fields = json.loads((workdir / "config.json").read_text()) | {"data.trn_rows": ""}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    monkeypatch.setattr("sys.argv", ["fine_tuning.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="is no run that fine-tuned a given encoder"):
        fine_tuning.main()
