"""The benchmark of XR-Linear: a small run of it, its made-up data, and what it prints of given figures."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from toy import toy_dataset

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # scripts, no package: they import each other by name

import floor  # noqa: E402
import synthetic  # noqa: E402
import xlinear  # noqa: E402
from xlinear_peers import one_csr, write_text  # noqa: E402

KEYS = ["train_ratio", "cluster_ratio", "predict_ratio", "latency_ratio", "rss_ratio", "dP1", "dP3", "dP5"]


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BENCHMARKS / "xlinear.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def last_line(text: str) -> dict[str, float]:
    pairs = [pair.split("=") for pair in text.splitlines()[-1].split()]
    return {key: float(value) for key, value in pairs}


# ---------------------------------------------------------------------------- the command


def test_small_run():
    done = run("--synthetic=tiny", "--peer=none", "--repeats=1", "--threads=1", "--dense=3")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "400 / 100 rows × 500 + 3 dense features" in lines[0]
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in lines if line.startswith("| ")}
    stages = ["label embedding", "clustering", "training", "batch prediction", "single query", "load", "peak memory"]
    for stage in [*stages, "model", "P@"]:
        assert any(
            name.startswith(stage) and float(row[0].split()[0].replace(",", "")) > 0 for name, row in rows.items()
        )
    assert float(rows["P@1"][0].split()[0]) > 20  # the most frequent label is on an eighth of the rows
    assert list(last_line(done.stdout)) == KEYS
    assert all(math.isnan(value) for value in last_line(done.stdout).values())


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--peer=pecos", "--peer-python=/nowhere/python"], "--peer-python or XRT_PEERS_PYTHON"),
        (["--peer=none", "--threads=1000000"], "--threads=1000000 must be from 1 to"),
        (["--peer=none", "--repeats=0"], "at least 1"),
    ],
)
def test_wrong_flags(arguments, remedy, capsys):
    with pytest.raises(SystemExit) as stop:
        xlinear.parse_arguments(["--synthetic=tiny", *arguments])
    assert stop.value.code == 2
    assert remedy in capsys.readouterr().err.splitlines()[-1]


# ---------------------------------------------------------------------------- what is printed


def figures(factor: float) -> dict[str, float]:
    keys = ["tree", "train", "fit", "npz.predict", "npz.p50", "train_memory"]
    return {key: factor * (i + 1) for i, key in enumerate(keys)} | {"P1": 80.0 + factor, "P3": 70.0, "P5": 60.0}


def test_ratio_line():
    peer = figures(4.0) | {"tree": 0.5}
    found = last_line(xlinear.ratio_line(figures(1.0), peer))
    assert list(found) == KEYS
    assert found == pytest.approx({key: 0.25 for key in KEYS} | {"cluster_ratio": 2, "dP1": -3, "dP3": 0, "dP5": 0})
    del peer["tree"]
    assert math.isnan(last_line(xlinear.ratio_line(figures(1.0), peer))["cluster_ratio"])
    del peer["train"]  # omikuji's, with all the rest
    peer["fit"] = 6.0
    assert last_line(xlinear.ratio_line(figures(1.0), peer))["train_ratio"] == 0.5


def test_table_of_given_figures():
    ours = {"train": 1.5, "npz.p50": 0.00025, "bytes": 3 * 2**20, "P1": 80.0, "P3": 70.0, "P5": 60.0}
    peer = {"train": 6.0, "npz.p50": 0.001, "mmap.load": 0.02, "bytes": 2**20, "P1": 79.5, "P3": 70.0, "P5": 60.0}
    lines = xlinear.table(ours, peer, "pecos", {"train": 0.03}).splitlines()
    assert lines[0] == "| stage | ours | pecos | ours / peer | floor | × floor |"
    assert lines[2:7] == [
        "| training | 1.50 s | 6.00 s | 0.250 | 30.0 ms | 50.0 |",
        "| single query, p50 | 250 µs | 1.00 ms | 0.250 | - | - |",
        "| memory-mapped: load | - | 20.0 ms | - | - | - |",
        "| model | 3.00 MiB | 1.00 MiB | 3.00 | - | - |",
        "| P@1 | 80.00 % | 79.50 % | +0.50 points | - | - |",
    ]
    assert xlinear.table(ours, {}, "none", {}).splitlines()[2] == "| training | 1.50 s | - | - |"


# ---------------------------------------------------------------------------- floor


def test_training_work_against_loops():
    rng = np.random.default_rng(0)
    n, L, nr_dense = 20, 300, 2
    X = sp.random(n, 30, 0.3, format="csr", dtype=np.float32, random_state=rng)
    Y = sp.random(n, L, 0.02, format="csr", dtype=np.float32, random_state=rng)
    parent = rng.integers(0, 5, L)  # 5 leaves of 16 splits or fewer: two levels
    C = sp.csc_matrix((np.ones(L, np.float32), (np.arange(L), parent)), shape=(L, 5))
    nr_bytes, nr_flops = 0, 0
    for i in range(n):
        nnz = X[i].nnz
        nr_bytes += 8 * nnz + 4 * nr_dense
        nr_flops += 4 * (nnz + nr_dense + 1) * 5
        for leaf in set(parent[Y[i].indices]):
            nr_bytes += 8 * nnz + 4 * nr_dense
            nr_flops += 4 * (nnz + nr_dense + 1) * (parent == leaf).sum()
    assert floor.training_work(X, nr_dense, Y, C) == pytest.approx((nr_bytes, nr_flops))
    visited = 1 + 5  # of at most 10
    assert floor.prediction_work(X, nr_dense, C)[0] == pytest.approx(visited * (8 * X.nnz / n + 4 * nr_dense))
    assert floor.seconds_at_least((8.0, 3.0), bandwidth=2.0, flops=3.0) == 4


# ---------------------------------------------------------------------------- data


@pytest.mark.parametrize(("name", "nnz", "labels"), [("tiny", 29, 4), ("wiki10", 200, 19)])
def test_synthetic_data(name, nnz, labels):
    preset = synthetic.PRESETS[name]
    trn, tst = synthetic.make_dataset(name)
    for split, n in ((trn, preset.trn), (tst, preset.tst)):
        assert split.X.shape == (n, preset.features)
        assert split.Y.shape == (n, preset.nr_labels)
        np.testing.assert_allclose(np.sqrt(split.X.multiply(split.X).sum(axis=1)), 1, rtol=1e-5)
        assert split.X.nnz / n == pytest.approx(nnz, rel=0.1)
        assert split.Y.nnz / n == pytest.approx(labels, rel=0.1)
        assert set(split.Y.data) == {1}
        assert np.diff(split.Y.indptr).min() >= 1


def test_labels_follow_a_power_law_and_topics():
    preset = synthetic.PRESETS["wiki10"]
    Y = synthetic.make_dataset("wiki10")[0].Y
    count = np.sort(np.asarray(Y.sum(axis=0)).ravel())[::-1]
    slope = np.polyfit(np.log(np.arange(30, 3000)), np.log(count[30:3000]), 1)[0]
    assert slope == pytest.approx(-1, abs=0.25)
    topic = np.arange(preset.nr_labels) // synthetic.TOPIC_SIZE
    same = np.mean([np.bincount(topic[Y[i].indices]).max() / Y[i].nnz for i in range(200)])
    assert same > 0.3  # by chance, 2 of 19 labels


def test_synthetic_data_comes_from_its_seed():
    first, again, other = (synthetic.make_dataset("tiny", seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.X.toarray(), again.X.toarray())
    np.testing.assert_array_equal(first.Y.toarray(), again.Y.toarray())
    assert (first.Y != other.Y).nnz > 0


def test_folder_of_texts(tmp_path):
    trn, tst = xlinear.read_folder(str(toy_dataset(tmp_path / "toy")))
    assert trn.X.shape == (300, tst.X.shape[1])
    assert tst.X.shape[0] == tst.Y.shape[0] == 80
    for name in ("X.tst.txt", "Y.tst.npz"):
        (tmp_path / "toy" / name).unlink()
    with pytest.raises(SystemExit, match=r"no test split: add Y\.tst\.npz"):
        xlinear.read_folder(str(tmp_path / "toy"))


def test_random_projection_keeps_angles():
    trn, tst = synthetic.make_dataset("tiny")
    dense_trn, dense_tst = xlinear.random_projection([trn.X, tst.X], 2000)
    np.testing.assert_allclose(np.linalg.norm(dense_trn, axis=1), 1, rtol=1e-5)
    expected = (trn.X @ tst.X.T).toarray()
    assert np.corrcoef((dense_trn @ dense_tst.T).ravel(), expected.ravel())[0, 1] > 0.8


def test_text_for_omikuji(tmp_path):
    X = sp.csr_matrix(np.float32([[0, 0.5, 0], [0.25, 0, 1]]))
    Y = sp.csr_matrix(np.float32([[1, 0, 1], [0, 1, 0]]))
    write_text(tmp_path / "empty.txt", sp.csr_matrix(np.float32([[0, 0], [0, 3]])), Y)
    assert (tmp_path / "empty.txt").read_text() == "1 2 3\n1 1:3\n"
    write_text(tmp_path / "trn.txt", one_csr(X, np.float32([[2], [0.125]])), Y)
    expected = "2 4 3\n0,2 1:0.5 3:2\n1 0:0.25 2:1 3:0.125\n"
    assert (tmp_path / "trn.txt").read_text() == expected


def test_prepared_data_is_kept_and_read_again(tmp_path, monkeypatch):
    args = xlinear.parse_arguments(
        ["--synthetic=tiny", "--peer=none", f"--cache={tmp_path / 'cache'}", "--limit=50", "--dense=2"]
    )
    xlinear.prepare_data(args, tmp_path / "first")
    monkeypatch.setattr(xlinear, "make_dataset", None)  # from now on, only the cache is left
    xlinear.prepare_data(args, tmp_path / "second")
    for name, n in (("trn", 50), ("tst", 100)):
        first, second = (xlinear.load_split(tmp_path / run, name) for run in ("first", "second"))
        assert first[0].shape == (n, 500)
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(*(part.toarray() if sp.issparse(part) else part for part in (a, b)))
