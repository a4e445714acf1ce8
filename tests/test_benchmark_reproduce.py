"""benchmarks/reproduce.py: its tables of given figures, what it skips and leaves out, and small rows of it."""

import json
import subprocess
import sys
from argparse import Namespace

import pytest
from commands import ROOT, environment
from toy import SMALL, toy_dataset

from xrt_jax.data.folders import load_dataset
from xrt_jax.disk import read_json
from xrt_jax.metrics import all_metrics

sys.path.insert(0, str(ROOT / "benchmarks"))  # scripts, no package

import reproduce
import reproduce_rows
import reproduce_table
from nearest_neighbours import features, vote

CONFIG = f"""
from xrt_jax.config import override
from xrt_jax.default_config import get_config as default


def get_config():
    config = default()
    override(config, {SMALL!r})
    return config
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with the set toy and, beside it, its configuration."""
    folder = tmp_path_factory.mktemp("root")
    toy_dataset(folder / "toy")
    (folder / "toy.py").write_text(CONFIG)
    return folder


def run(root, out, *flags: str) -> subprocess.CompletedProcess:
    """The command on the set toy, with one thread and an encoder of its own."""
    of_set = [f"--data={root}", f"--out={out}", f"--sets=toy={root / 'toy.py'}", "--encoder=", "--threads=1"]
    command = [sys.executable, str(ROOT / "benchmarks/reproduce.py"), *of_set, *flags]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


def arguments(root, out, *flags: str) -> Namespace:
    sets = f"--sets=toy={root / 'toy.py'}"
    return reproduce.parse_arguments([f"--data={root}", f"--out={out}", sets, "--encoder=", *flags])


# ---------------------------------------------------------------------------- the table


def row(name: str, seed: int, first: float, **changes) -> dict:
    """A row's file: P@1 is `first`, each other metric one less than the one before."""
    return {
        "set": "eurlex57k",
        "row": name,
        "seed": seed,
        "metrics": {metric: first - place for place, metric in enumerate(reproduce_table.METRICS)},
        "train": 30.0,
        "p50": 0.002,
        "texts_per_second": 1234.0,
        "memory": 2**30,
        "is_resumed": False,
        "machine": "a machine",
        "commit": "c0ffee",
        "command": "python it",
        **changes,
    }


def write_rows(out, *rows: dict) -> None:
    about = {"trn": 45000, "tst": 6000, "labels": 4271, "features": 100000, "tfidf_seconds": 62.0, "tfidf_p50": 0.001}
    for folder, name, value in [
        ("features/eurlex57k", "about", about),
        *[("rows", f"{found['set']}.{found['row']}.{found['seed']}", found) for found in rows],
    ]:
        (out / folder).mkdir(parents=True, exist_ok=True)
        (out / folder / f"{name}.json").write_text(json.dumps(value))


def test_table_of_given_rows(tmp_path):
    write_rows(
        tmp_path,
        row("xrt", 0, 90.0, train=3000.0),
        row("xrt", 1, 91.0, train=9000.0, memory=2**31, is_resumed=True, commit="decaf"),
        row("xrt-text", 0, 80.5),
        row("knn", 0, 85.0, train=None, p50=0.0123456),
    )
    path = reproduce_table.write_table(
        tmp_path,
        {"eurlex57k": "EURLEX57K", "yso30k": "YSO"},
        {"eurlex57k": {"xrt-pecos 0": "no peer"}, "yso30k": {"knn 0": "no folder", "xrt 0": "no folder"}},
    )
    lines = path.read_text().splitlines()
    assert lines[lines.index("## EURLEX57K") + 2].endswith("100,000 features. TF-IDF: 62 s to fit, 1 ms a text.")
    first = lines.index("|---|" + "--:|" * 13)
    metrics = "P@1 | P@3 | P@5 | nDCG@5 | PSP@1 | PSP@3 | PSP@5 | R@10"
    assert lines[first - 1] == f"|  | seed | {metrics} | training | a query | queries/s | memory |"
    rest = "2 ms | 1,234 |"
    of_90 = "90.00 | 89.00 | 88.00 | 87.00 | 86.00 | 85.00 | 84.00 | 83.00"
    of_91 = "91.00 | 90.00 | 89.00 | 88.00 | 87.00 | 86.00 | 85.00 | 84.00"
    assert lines[first + 1].startswith("| TF-IDF, 15 nearest neighbours | 0 | 85.00 | 84.00 |")
    assert lines[first + 1].endswith("| – | 12.3 ms | 1,234 | 1.00 GiB |")
    assert lines[first + 2].startswith("| XR-Transformer | mean of 2 | 90.50 | 89.50 |")
    assert lines[first + 2].endswith(f"| 1 h 40 min* | {rest} 2.00 GiB* |")
    assert lines[first + 3] == f"|  | 0 | {of_90} | 50 min | {rest} 1.00 GiB |"
    assert lines[first + 4] == f"|  | 1 | {of_91} | 2 h 30 min* | {rest} 2.00 GiB* |"
    assert lines[first + 5].startswith("| XR-Transformer, text only | 0 | 80.50 |") and "| + 30 s |" in lines[first + 5]
    assert "knn 0, xrt 0, xrt-text 0: a machine; commit c0ffee; `python it`" in lines
    assert "xrt 1: a machine; commit decaf; `python it`" in lines
    assert "- xrt-pecos 0: no peer" in lines
    published = lines.index("### Published elsewhere, not measured here")
    assert published > lines.index("- xrt-pecos 0: no peer") and published < lines.index("## YSO")
    assert lines[lines.index("## YSO") + 2] == "Left out: no folder"


def test_rows_of_one_command_are_told_in_one_line(tmp_path):
    rows = [row("knn", 0, 85.0), row("xrt", 0, 90.0)]
    assert reproduce_table.provenance(rows) == ["All rows: a machine; commit c0ffee; `python it`"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "–"), (0.00123, "1.23 ms"), (99.94, "99.9 s"), (431.0, "431 s"), (3540.0, "59 min"), (7290.0, "2 h 2 min")],
)
def test_durations(seconds, expected):
    assert reproduce_table.duration(seconds) == expected


# ---------------------------------------------------------------------------- what is measured


def test_rows_that_are_there_are_not_measured_again(root, tmp_path, monkeypatch):
    args = arguments(root, tmp_path, "--rows=xrt,knn,xlinear", "--seeds=0,1")
    (tmp_path / "rows").mkdir()
    for name in ("toy.xlinear.0.json", "toy.xrt.1.json"):
        (tmp_path / "rows" / name).write_text("{}")
    asked = []

    def worker(args, phase, spec, log):
        asked.append((phase, spec["row"], spec["seed"]))
        return "failed: it broke" if spec["row"] == "xrt" else ""

    monkeypatch.setattr(reproduce, "run_worker", worker)
    left_out = reproduce.measure_rows(args, {"commit": "", "command": ""})
    # in the order of cost; nearest neighbours have nothing random
    assert asked == [("prepare", "", 0), ("measure", "knn", 0), ("measure", "xlinear", 1), ("measure", "xrt", 0)]
    assert left_out == {"toy": {"xrt 0": "failed: it broke"}}


@pytest.mark.parametrize(
    ("name", "row", "backend", "flags", "reason"),
    [
        ("yso30k", "xlinear-pecos", "cpu", [], "no environment with PECOS"),
        ("yso30k", "xlinear-omikuji", "cpu", ["--peer-python={python}"], ""),
        ("eurlex57k", "xrt", "cpu", [], "there is no accelerator"),
        ("eurlex57k", "xrt", "gpu", [], ""),
        ("eurlex57k", "xrt", "cpu", ["--fine-tune-on-cpu"], ""),
        ("eurlex57k", "xrt-pecos", "gpu", ["--peer-python={python}"], "runs on CPU here"),
        ("eurlex57k", "xrt-plain", "cpu", [], ""),
        ("eurlex15k", "xrt", "cpu", [], ""),
        ("eurlex15k", "xrt-text", "cpu", [], "takes the encoder of the row xrt"),
    ],
)
def test_what_cannot_run_has_a_reason(root, tmp_path, monkeypatch, name, row, backend, flags, reason):
    monkeypatch.delenv("XRT_PEERS_PYTHON", raising=False)
    flags = [flag.format(python=sys.executable) for flag in flags]
    args = reproduce.parse_arguments([f"--data={root}", f"--out={tmp_path}", *flags])
    monkeypatch.setattr(reproduce, "find_backend", lambda: backend)
    found = reproduce.why_not(args, name, row, 0)
    assert found.startswith(reason) and bool(found) == bool(reason)


@pytest.mark.parametrize(
    ("flag", "remedy"),
    [
        ("--data=/nowhere", "--data=/nowhere: there is no such folder"),
        ("--rows=knn,svm", "there is no row 'svm', choose of knn, xlinear"),
        ("--sets=wiki", "there is no set 'wiki': choose of eurlex57k"),
        ("--peer-python=/nowhere/python", "/nowhere/python: there is no such file"),
        ("--threads=1000000", "must be from 1 to"),
        ("--seeds=a", "--seeds"),
    ],
)
def test_wrong_flags(root, tmp_path, flag, remedy, capsys):
    with pytest.raises(SystemExit) as stop:
        reproduce.parse_arguments([f"--data={root}", f"--out={tmp_path}", flag])
    assert stop.value.code == 2
    assert remedy in capsys.readouterr().err.splitlines()[-1]


def test_a_part_of_a_set_is_drawn_or_listed(root):
    whole = load_dataset(root / "toy")
    drawn, again = (reproduce_rows.cut_dataset(root / "toy", {"sizes": [30, 8]}) for _ in range(2))
    assert (drawn.trn.Y.shape[0], drawn.tst.Y.shape[0]) == (30, 8) and drawn.trn.texts == again.trn.texts
    places = [whole.trn.texts.index(text) for text in drawn.trn.texts]
    assert places == sorted(set(places)) and (whole.trn.Y[places] != drawn.trn.Y).nnz == 0
    for name, rows in (("trn", [5, 2]), ("tst", [1])):
        (root / "toy" / f"few.{name}.idx").write_text("".join(f"{number}\n" for number in rows))
    listed = reproduce_rows.cut_dataset(root / "toy", {"lists": ["few.trn.idx", "few.tst.idx"]})
    assert listed.trn.texts == [whole.trn.texts[5], whole.trn.texts[2]] and listed.tst.texts == [whole.tst.texts[1]]


# ---------------------------------------------------------------------------- rows


def test_small_rows(root, tmp_path):
    """Two rows, one of them by a run of xrt_jax.main, and a peer that is not installed in its environment."""
    rows = "--rows=knn,xlinear-tuned,xlinear-pecos"
    done = run(root, tmp_path, rows, "--seeds=0", f"--peer-python={sys.executable}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "results.md")
    assert {path.name for path in (tmp_path / "rows").iterdir()} == {"toy.knn.0.json", "toy.xlinear-tuned.0.json"}, (
        done.stderr
    )

    dataset = load_dataset(root / "toy", dev_size=0)
    X, Z = features(dataset)
    truth, trained = dataset.tst.Y, dataset.trn.Y
    expected = all_metrics(truth, vote(Z, X.T.tocsr(), trained, 15), 10, trained)
    found = read_json(tmp_path / "rows/toy.knn.0.json")
    assert found["metrics"] == pytest.approx(
        {f"P@{k}": 100 * expected["prec"][k - 1] for k in (1, 3, 5)}
        | {f"PSP@{k}": 100 * expected["psp"][k - 1] for k in (1, 3, 5)}
        | {"nDCG@5": 100 * expected["ndcg"][4], "R@10": 100 * expected["recall"][9]}
    )
    assert found["train"] is None and found["p50"] > 0 and found["memory"] > 2**20

    linear = read_json(tmp_path / "rows/toy.xlinear-tuned.0.json")
    of_run = read_json(tmp_path / "work/toy.xlinear-tuned.0/metrics.json")
    assert linear["metrics"]["P@3"] == pytest.approx(of_run["xr_linear"]["prec"][2], abs=0.005)
    assert 0 < linear["train"] <= sum(of_run["seconds"].values()) and not linear["is_resumed"]
    assert linear["command"] == (
        "python benchmarks/reproduce.py --data=ROOT --out=DIR --encoder= --threads=1 --seeds=0 "
        "--peer-python=PEERS/bin/python"
    )

    table = (tmp_path / "results.md").read_text()
    assert f"| TF-IDF, 15 nearest neighbours | 0 | {found['metrics']['P@1']:.2f} |" in table
    reason = next(line for line in table.splitlines() if line.startswith("- xlinear-pecos 0: failed: pecos, fit: "))
    assert "cannot import a peer" in reason and reason.endswith(" (DIR/logs/toy.xlinear-pecos.0.log)")

    before = (tmp_path / "rows/toy.knn.0.json").stat().st_mtime_ns
    done = run(root, tmp_path, "--table")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results.md").read_text() == table
    assert (tmp_path / "rows/toy.knn.0.json").stat().st_mtime_ns == before


def test_a_set_that_is_not_there_is_left_out(root, tmp_path):
    (tmp_path / "data").mkdir()
    done = run(tmp_path / "data", tmp_path / "out", "--rows=knn", f"--sets=toy={root / 'toy.py'}")
    assert done.returncode == 0, done.stderr
    assert "Left out: failed: FileNotFoundError: toy: no such data folder" in (tmp_path / "out/results.md").read_text()


def test_features_of_other_settings_are_refused(root, tmp_path):
    spec = reproduce.spec_of(arguments(root, tmp_path), "toy", "", 0, {"commit": "", "command": ""})
    about = tmp_path / "features/toy/about.json"
    reproduce_rows.prepare(reproduce_rows.Spec(**spec))
    first = about.stat().st_mtime_ns
    reproduce_rows.prepare(reproduce_rows.Spec(**spec))
    assert about.stat().st_mtime_ns == first
    other = tmp_path / "other.py"
    other.write_text(CONFIG.replace("config = default()", "config = default()\n    config.tfidf.min_df = 3"))
    with pytest.raises(ValueError, match="made with other settings of TF-IDF: take another --out"):
        reproduce_rows.prepare(reproduce_rows.Spec(**spec | {"config": str(other)}))


@pytest.mark.slow
def test_rows_with_an_encoder(root, tmp_path):
    """Fine-tuned, not fine-tuned, and the fine-tuned encoder without TF-IDF; a run that was begun goes on."""
    begun = tmp_path / "work/toy.xrt-plain.0"
    begun.mkdir(parents=True)
    done = run(root, tmp_path, "--rows=xrt-plain,xrt,xrt-text", "--seeds=0")
    assert done.returncode == 0, done.stderr
    found = {name: read_json(tmp_path / f"rows/toy.{name}.0.json") for name in ("xrt-plain", "xrt", "xrt-text")}
    assert [row["is_resumed"] for row in found.values()] == [True, False, False]
    for name, result in found.items():
        of_run = read_json(tmp_path / f"work/toy.{name}.0/metrics.json")
        assert set(of_run) <= {"xr_transformer", "seconds", "matcher"}  # no XR-Linear beside it
        assert result["metrics"]["P@1"] == pytest.approx(of_run["xr_transformer"]["prec"][0], abs=0.005)
        assert 0 < result["train"] < sum(of_run["seconds"].values())
    assert (tmp_path / "work/toy.xrt.0.json").is_file()  # of this seed alone
    text_only = tmp_path / "work/toy.xrt-text.0/model"
    assert not (text_only / "tfidf").exists()
    encoders = [tmp_path / f"work/toy.{name}.0/model/encoder/model.safetensors" for name in ("xrt", "xrt-text")]
    assert encoders[0].read_bytes() == encoders[1].read_bytes()
