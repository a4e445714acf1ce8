"""The benchmark of XR-Linear over MPI: a small run of it, the simulation on hand-made loads, the cost model."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))  # scripts, no package: they import each other by name

import scaling
from simulation import (
    Machine,
    Sizes,
    Stage,
    draw_frequencies,
    draw_tree,
    exchange_seconds,
    fit_growth,
    fit_pace,
    fit_rarity,
    plan,
    run_all,
    run_stage,
    run_units,
)

HAS_MPI = Path(sys.executable).with_name("mpiexec").exists()
SMALL = {"a small set": Sizes(20_000, 5_000, 40_000, 30.0, 8.0)}
FIT = {"pace": 1e-8, "r2": 1.0, "median_error": 0.0}
MODEL = dict.fromkeys(("read", "transpose", "embed", "problems", "fingerprint", "jobs", "save", "load"), 1e-8)
MODEL |= {"train": FIT, "cluster": FIT, "top": FIT, "kernels": 0.1, "weights": 1.0, "job_bytes": 20.0}
MODEL |= {"growth": 0.8, "rarity": [0.8, 0.5]}


# ---------------------------------------------------------------------------- the command


@pytest.mark.skipif(not HAS_MPI, reason="no mpiexec beside python: pip install -e '.[mpi]'")
def test_small_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "SETS", SMALL)
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--synthetic=tiny", "--ranks=1,2", "--repeats=1"])
    sys.argv.append(f"--out={tmp_path}")
    scaling.main()
    told = capsys.readouterr().out
    rows = [line.split("|")[1:-1] for line in told.splitlines() if line.startswith("| ours, ")]
    assert [row[0].strip() for row in rows] == ["ours, 1", "ours, 2"]
    for row in rows:
        assert all(float(cell.split()[0]) > 0 for cell in row[1:])
    assert "equal in all runs of ours" in told and "Simulated, not measured" in told
    assert re.search(r"XR-Linear, 1 ranks: simulated [\d.]+ s, measured [\d.]+ s", told)
    parts = json.loads((tmp_path / "parts.json").read_text())
    assert parts["sizes"][2] == 300 and parts["model"]["train"]["pace"] > 0
    sys.argv.append("--simulate-only")
    scaling.main()
    assert capsys.readouterr().out == told[told.index("Simulated, not") :]


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--ranks=1,x"], "give numbers with commas between"),
        (["--ranks=0"], "must be at least 1"),
        (["--simulate-only"], "leave out --simulate-only"),
        (["--peer-python=/nowhere/python"], "there is no mpiexec beside"),
    ],
)
def test_wrong_flags(tmp_path, arguments, remedy, capsys):
    with pytest.raises(SystemExit) as stop:
        scaling.parse_arguments([f"--out={tmp_path}", *arguments])
    assert stop.value.code == 2
    assert remedy in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("labels", "tree", "ranks", "expected"),
    [(300, (4, 10), 2, 300), (30_939, (16, 100), 2, 30_938), (30_938, (16, 100), 4, 30_912), (11, (2, 2), 2, 10)],
)
def test_labels_that_pecos_survives(labels, tree, ranks, expected):
    assert scaling.equal_labels(labels, tree, ranks) == expected


# ---------------------------------------------------------------------------- the simulation


def test_units_are_taken_as_ranks_take_them():
    seconds, took = run_units(np.array([5.0, 4.0, 3.0, 3.0, 3.0]), 2)
    assert (seconds, took) == (10.0, [[0, 3], [1, 2, 4]])  # as LPT assigns them: 5 + 3 and 4 + 3 + 3
    assert run_units(np.array([7.0, 1.0, 1.0]), 1)[0] == 9
    assert run_units(np.zeros(0), 4)[0] == 0
    assert run_units(np.array([2.0]), 3) == (2.0, [[0], [], []])


def test_threads_disk_and_memory_of_a_stage():
    stage = Stage(
        "a stage",
        first=1.0,
        every=2.0,
        even=16.0,
        units=np.array([8.0, 8.0]),
        longest=np.array([1.0, 5.0]),
        written=100.0,
        gathered=400.0,
        mapped=((1000.0, np.array([0.5, 0.2])),),
        own=np.array([100.0, 0.0]),
        common=50.0,
        private=7.0,
        of_first=10.0,
    )
    seconds, memory = run_stage(stage, Machine(1, 4, 100.0, 100.0))
    assert seconds == 1 + 2 + 16 / 4 + 2 + 5
    np.testing.assert_allclose(memory, [1000 * (1 - 0.5 * 0.8) + 100 + 50 + 7 + 10])
    seconds, memory = run_stage(stage, Machine(2, 4, 100.0, 150.0))
    moved = 100 / 100 + 400 / 150 + max(650 / 100, (650 + 250) / 150)
    assert seconds == pytest.approx(1 + 2 + 16 / 8 + 5 + moved + exchange_seconds(2))
    np.testing.assert_allclose(sorted(memory - [10, 0]), [257, 657])


def test_a_plan_of_a_large_set():
    sizes = SMALL["a small set"]
    frequency = draw_frequencies(sizes)
    assert frequency.mean() == pytest.approx(sizes.n * sizes.positives / sizes.labels, rel=1e-3)
    assert frequency.min() >= 1 and frequency.max() <= sizes.n
    tree = draw_tree(sizes, MODEL)
    assert tree.parents == [1, 2, 32, 512] and [len(found) for found in tree.instances] == tree.parents
    runs = {n: run_all(plan(sizes, tree, MODEL, n), Machine(n, 1, 1e9, 1e10), 0) for n in (1, 2, 8)}
    alone = runs[1]["parts"]
    work = sum(float((found * groups).sum()) for found, groups in zip(tree.instances, tree.groups, strict=True))
    assert alone["training"] == pytest.approx(1e-8 * sizes.nnz * work)
    assert runs[8]["parts"]["training"] < runs[2]["parts"]["training"] < alone["training"]
    assert runs[8]["others"] < runs[2]["others"] and runs[8]["others"] < runs[8]["first"]


# ---------------------------------------------------------------------------- the cost model


def test_fits_find_what_made_the_numbers():
    rng = np.random.default_rng(0)
    work = rng.uniform(1e6, 1e7, 40)
    fit = fit_pace(work, 3e-8 * work)
    assert fit == pytest.approx({"pace": 3e-8, "r2": 1, "median_error": 0}, abs=1e-9)
    noisy = fit_pace(work, 3e-8 * work * rng.uniform(0.9, 1.1, 40))
    assert noisy["pace"] == pytest.approx(3e-8, rel=0.05) and noisy["r2"] > 0.9 and 0 < noisy["median_error"] < 0.1
    positives = rng.uniform(10, 900, 30)
    assert fit_rarity(1000, 1000 * -np.expm1(-0.7 * positives / 1000), positives) == pytest.approx(0.7)
    counts = rng.integers(1, 100, 50)
    assert fit_growth(20, counts, 20 * (counts**0.6).sum()) == pytest.approx(0.6)
