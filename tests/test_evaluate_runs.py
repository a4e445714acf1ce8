"""xrt-jax evaluate --workdir: runs on one data set, each and all joined as their configuration says."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from commands import run
from scipy.sparse import load_npz
from toy import NR_LABELS, linear_runs, toy_split

from xrt_jax.data.folders import Dataset, save_dataset
from xrt_jax.ensemble import combine
from xrt_jax.evaluate import main, read_run
from xrt_jax.metrics import format_table, precision_recall
from xrt_jax.model import load_model, rank_texts
from xrt_jax.stages import TEST_RANKING, percent


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return linear_runs(tmp_path_factory.mktemp("runs"))


def kept(workdir):
    return load_npz(workdir / "xr_linear" / TEST_RANKING)


def evaluate(*args, status=0):
    """Standard output, or the one line of an error."""
    result = run("xrt_jax.evaluate", *map(str, args))
    assert result.returncode == status, result.stderr
    if not status:
        return result.stdout
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def flags_of(workdirs):
    return [f"--workdir={workdir}" for workdir in workdirs]


def table_of(workdirs, rule):
    """What is printed of these runs and of all joined by the rule."""
    rankings = [kept(workdir) for workdir in workdirs]
    named = dict(zip(map(str, workdirs), rankings, strict=True)) | {rule: combine(rule, rankings)}
    return {name: precision_recall(toy_split(80, 2).Y, P) for name, P in named.items()}


def test_runs_are_joined_by_the_rule_that_they_name(runs, tmp_path):
    expected = table_of(runs, "softmax_average")
    assert len({tuple(values["prec"]) for values in expected.values()}) == 4  # no two rankings are the same
    assert evaluate(*flags_of(runs), f"--output={tmp_path / 'all'}") == format_table(expected) + "\n"
    metrics = json.loads((tmp_path / "all/metrics.json").read_text())
    assert metrics == {name: percent(values) for name, values in expected.items()}
    P, joined = load_npz(tmp_path / "all/predictions.npz"), combine("softmax_average", [kept(run) for run in runs])
    np.testing.assert_array_equal(P.toarray(), joined.toarray())
    assert {path.name for path in (tmp_path / "all").iterdir()} == {"metrics.json", "predictions.npz"}


def test_what_a_run_keeps_is_what_its_model_says_and_its_metrics_tell(runs):
    for workdir in runs:
        model, split = load_model(workdir / "model"), toy_split(80, 2)
        np.testing.assert_array_equal(kept(workdir).toarray(), rank_texts(model, split.texts, "").toarray())
        metrics = json.loads((workdir / "metrics.json").read_text())
        assert metrics["xr_linear"] == percent(precision_recall(split.Y, kept(workdir)))


def test_a_finished_run_started_again_takes_the_ranking_that_it_kept(runs, tmp_path):
    workdir = shutil.copytree(runs[0], tmp_path / "w")
    (workdir / "xr_linear" / TEST_RANKING).write_bytes((runs[1] / "xr_linear" / TEST_RANKING).read_bytes())
    result = run("xrt_jax.main", f"--config=configs/json.py:{workdir}/config.json", f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    metrics = [json.loads((folder / "metrics.json").read_text())["xr_linear"] for folder in (workdir, *runs[:2])]
    assert metrics[0] == metrics[2] != metrics[1]


def test_rankings_that_are_not_kept_are_computed(runs, tmp_path):
    copies = [shutil.copytree(workdir, tmp_path / workdir.name) for workdir in runs]
    (copies[1] / "xr_linear" / TEST_RANKING).unlink()
    found = evaluate(*flags_of(copies)).splitlines()
    expected = format_table(table_of(runs, "softmax_average")).splitlines()
    assert [line.split()[2:] for line in found] == [line.split()[2:] for line in expected]
    # texts that are named: those of another folder, and some of them
    moved = shutil.copytree(runs[0].parent / "data", tmp_path / "data")
    (moved / "few.idx").write_text("3\n5\n")
    for copy in copies:
        fields = json.loads((copy / "config.json").read_text()) | {"data.dir": "gone"}
        (copy / "config.json").write_text(json.dumps(fields))
    assert "gone" in evaluate(*flags_of(copies), status=2)
    found = evaluate(*flags_of(copies), f"--data={moved}").splitlines()
    assert [line.split()[2:] for line in found] == [line.split()[2:] for line in expected]
    evaluate(*flags_of(copies), f"--data={moved}", "--tst_rows=few.idx", f"--output={tmp_path / 'few'}")
    joined = combine("softmax_average", [kept(workdir)[[3, 5]] for workdir in runs])
    np.testing.assert_array_equal(load_npz(tmp_path / "few/predictions.npz").toarray(), joined.toarray())


def test_one_run_and_another_rule(runs, tmp_path):
    alone = evaluate(f"--workdir={runs[0]}")
    assert f"P  {runs[0]} " in alone and "average" not in alone
    printed = evaluate(*flags_of(runs), "--ensemble=rank_average")
    assert printed == format_table(table_of(runs, "rank_average")) + "\n"
    other = shutil.copytree(runs[1], tmp_path / "other")
    fields = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(fields | {"ensemble": "rank_average"}))
    error = evaluate(*flags_of([runs[0], other]), status=2)
    assert f"{runs[0]} is joined by softmax_average, {other} by rank_average: choose by --ensemble" in error
    assert "rank_average" in evaluate(*flags_of([runs[0], other]), "--ensemble=rank_average")
    (other / "config.json").write_text(json.dumps(fields | {"ensemble": "mean"}))
    assert "ensemble method 'mean' is unknown" in evaluate(f"--workdir={other}", status=2)


def test_models_are_written_too(runs, tmp_path):
    data, models = f"--data={runs[0].parent / 'data'}", [f"--model={workdir / 'model'}" for workdir in runs]
    evaluate(data, *models, "--ensemble=softmax_average", f"--output={tmp_path}")
    joined = combine("softmax_average", [kept(run) for run in runs])
    np.testing.assert_array_equal(load_npz(tmp_path / "predictions.npz").toarray(), joined.toarray())
    evaluate(data, models[1], f"--output={tmp_path}")
    assert list(json.loads((tmp_path / "metrics.json").read_text())) == ["xr_linear"]
    np.testing.assert_array_equal(load_npz(tmp_path / "predictions.npz").toarray(), kept(runs[1]).toarray())


@pytest.fixture
def other(runs, tmp_path):
    """A copy of the second run on a copy of the data."""
    workdir = shutil.copytree(runs[1], tmp_path / "other")
    shutil.copytree(runs[1].parent / "data", tmp_path / "data")
    fields = json.loads((workdir / "config.json").read_text()) | {"data.dir": str(tmp_path / "data")}
    (workdir / "config.json").write_text(json.dumps(fields))
    return workdir


@pytest.mark.parametrize(
    ("n", "seed", "label", "expected"),
    [
        (80, 2, "label", ""),
        (80, 2, "name", "other has other labels than"),
        (70, 2, "label", "other has other test texts (70) than"),
        (80, 3, "label", "other has other test texts (80) than"),
    ],
)
def test_runs_on_another_data_set_are_refused(runs, other, n, seed, label, expected):
    names = [f"{label} {i}" for i in range(NR_LABELS)]
    save_dataset(other.parent / "data", Dataset(toy_split(60, 0), None, toy_split(n, seed), names))
    printed = evaluate(*flags_of([runs[0], other]), status=2 if expected else 0)
    assert expected in printed and (not expected or f"{runs[0]}" in printed)


def test_data_that_changed_since_the_run_is_told(other):
    names = [f"label {i}" for i in range(NR_LABELS)]
    for n, labels in ((70, names), (80, names[::-1])):
        save_dataset(other.parent / "data", Dataset(toy_split(60, 0), None, toy_split(n, 2), labels))
        error = evaluate(f"--workdir={other}", status=2)
        assert f"{other.parent / 'data'} has other test texts or labels than when {other} was run on it" in error


def test_what_is_no_finished_run_is_told(runs, other):
    shutil.rmtree(other / "model")
    error = evaluate(*flags_of([runs[0], other]), status=2)
    assert f"{other} is no work directory of a finished run" in error
    with pytest.raises(FileNotFoundError, match="no work directory of a finished run"):
        read_run(str(runs[0] / "model"))


def test_an_encoder_alone_ranks_nothing(other):
    fields = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(fields | {"only_encoder": True}))
    with pytest.raises(ValueError, match="only_encoder: it ranks no labels"):
        read_run(str(other))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"workdir": ["w"], "model": ["m"]}, "give --workdir, or --model and --data, or --truth and --pred"),
        ({"model": ["m"]}, "give --workdir, or --model and --data, or --truth and --pred"),
        ({"truth": "t"}, "give --workdir, or --model and --data, or --truth and --pred"),
        ({"workdir": ["w", "v", "w"]}, "--workdir=w is given twice"),
        ({"model": ["m", "m"], "data": "d"}, "--model=m is given twice"),
        ({"truth": "t", "pred": "p", "output": "o"}, "of --truth and --pred nothing is written"),
    ],
)
def test_flags_that_do_not_go_together(given, expected):
    none = dict.fromkeys(("workdir", "model", "data", "truth", "pred", "output"))
    with pytest.raises(ValueError, match=expected):
        main(SimpleNamespace(**none | given))


def test_a_rule_that_there_is_not_is_told_before_training(runs, tmp_path):
    data = f"--config.data.dir={runs[0].parent / 'data'}"
    result = run(
        "xrt_jax.main", "--config=configs/xlinear.py", data, f"--workdir={tmp_path}/w", "--config.ensemble=mean"
    )
    assert result.returncode == 2 and result.stderr.count("error:") == 1
    assert "ensemble method 'mean' is unknown: choose one of average, rank_average" in result.stderr
