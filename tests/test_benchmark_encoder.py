"""The benchmark of the encoders: small runs, beside torch where there is one, and what it prints of given figures."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
GOLDEN, BENCHMARKS = ROOT / "tests" / "golden", ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # scripts, no package: they import each other by name

import encoder  # noqa: E402

PEER = os.environ.get("XRT_PEERS_PYTHON")
SMALL = ["--batch=4", "--length=16", "--repeats=2", "--threads=1"]


def run(*arguments: str, peer: str | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BENCHMARKS / "encoder.py"), *SMALL, *arguments]
    environment = {key: value for key, value in os.environ.items() if key not in ("XRT_PEERS_PYTHON", "XLA_FLAGS")}
    environment |= {"XRT_PEERS_PYTHON": peer} if peer else {}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def ratios(text: str) -> dict[str, float]:
    return {key: float(value) for key, value in (pair.split("=") for pair in text.splitlines()[-1].split())}


def rows_of(text: str) -> dict[str, list[float]]:
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    return {name: [float(value.replace(",", "")) for value in values] for name, *values in lines}


def write_lengths(path: Path) -> Path:
    path.write_text("\n".join(map(str, [3] * 9 + [20] * 5)))
    return path


def test_small_run_of_ours_alone(tmp_path):
    done = run(f"--encoder={GOLDEN / 'bert_tiny'}", f"--lengths={write_lengths(tmp_path / 'lengths')}")
    assert done.returncode == 0, done.stderr
    assert "bert_tiny: 4 texts × 16 tokens, float32" in done.stdout.splitlines()[0]
    rows = rows_of(done.stdout)
    for step in encoder.STEPS:
        for figure in ("ms a step", "tokens/s", "GFLOP/s"):
            assert rows[f"{step}: {figure}"][0] > 0
    assert "3 batches of an epoch, s" in rows  # 14 texts: the last batch is not full
    assert list(ratios(done.stdout)) == ["train_ratio", "encode_ratio", "epoch_ratio"]
    assert all(math.isnan(value) for value in ratios(done.stdout).values())


@pytest.mark.skipif(not PEER, reason="no python with torch and transformers in XRT_PEERS_PYTHON")
@pytest.mark.parametrize("name", ["bert_tiny", "roberta_tiny", "distilbert_tiny", "modernbert_tiny"])
def test_both_sides_take_the_same_step(name, tmp_path):
    lengths = f"--lengths={write_lengths(tmp_path / 'lengths')}"
    done = run(f"--encoder={GOLDEN / name}", "--dropout=0", lengths, peer=PEER)
    assert done.returncode == 0, done.stderr + done.stdout
    apart = next(line for line in done.stdout.splitlines() if line.startswith("embeddings: "))
    assert float(apart.split()[1]) < 1e-4
    rows = rows_of(done.stdout)
    for figure in ("loss", "gradient norm"):
        ours, theirs, _ = rows[f"first update: {figure}"]
        assert ours == pytest.approx(theirs, rel=1e-3)
    assert all(value > 0 for value in ratios(done.stdout).values())
    assert len(ratios(done.stdout)) == 3


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--encoder=/nowhere"], "no config.json there"),
        ([f"--encoder={GOLDEN / 'xlnet_tiny'}"], "model_type 'xlnet' is not one of bert"),
        ([f"--encoder={GOLDEN / 'bert_tiny'}", "--peer-python=/nowhere/python"], "no such file"),
        ([f"--encoder={GOLDEN / 'bert_tiny'}", "--threads=1000000"], "--threads=1000000 must be from 1 to"),
        ([f"--encoder={GOLDEN / 'bert_tiny'}", "--repeats=0"], "at least 1"),
        ([f"--encoder={GOLDEN / 'bert_tiny'}", "--lengths=/nowhere/lengths"], "no such file"),
    ],
)
def test_wrong_flags(arguments, remedy, capsys):
    with pytest.raises(SystemExit) as stop:
        encoder.parse_arguments(arguments)
    assert stop.value.code == 2
    assert remedy in capsys.readouterr().err.splitlines()[-1]


def test_too_few_texts(tmp_path):
    (tmp_path / "lengths").write_text("3\n4\n")
    done = run(f"--encoder={GOLDEN / 'bert_tiny'}", f"--lengths={tmp_path / 'lengths'}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "2 texts do not fill one batch of 4: lower --batch"


def test_a_dead_worker_is_one_line(tmp_path):
    (tmp_path / "settings.json").write_text(
        '{"encoder": "/nowhere", "dtype": "float32", "dropout": 0, "attention": "auto"}'
    )
    np.savez(tmp_path / "arrays.npz")
    side = encoder.Side("ours", sys.executable, tmp_path, 1, alone=True)
    with pytest.raises(SystemExit, match="ours, about: FileNotFoundError: /nowhere is not a folder"):
        side("about")
    side.close()


# ---------------------------------------------------------------------------- inputs and what is printed


def test_labels_of_both_forms():
    labels = encoder.make_labels(np.random.default_rng(0), 3)
    for i in range(3):
        parents = labels["parent"][None] == labels["clusters"][i][:, None]
        listed = set(np.flatnonzero(parents.any(axis=0))) | set(labels["labels"][i])
        assert set(np.flatnonzero(labels["listed"][i])) == listed
        assert len(listed) >= encoder.CLUSTERS_A_TEXT * encoder.NR_LABELS // encoder.NR_CLUSTERS
        found = dict(zip(labels["labels"][i].tolist(), labels["values"][i].tolist(), strict=True))
        assert {int(j): labels["y"][i, j] for j in np.flatnonzero(labels["y"][i])} == found


def test_batches_of_an_epoch_go_to_their_buckets(tmp_path):
    arguments = [f"--encoder={GOLDEN / 'bert_tiny'}", f"--lengths={write_lengths(tmp_path / 'lengths')}", *SMALL]
    args = encoder.parse_arguments(arguments)
    padded = encoder.prepare(args, tmp_path)
    arrays = np.load(tmp_path / "arrays.npz")
    assert sorted(padded) == [4, 4, 16]  # 3 tokens: the first of four buckets; 20: cut to 16
    for i, length in enumerate(padded):
        assert arrays[f"ids_{i}"].shape == arrays[f"mask_{i}"].shape == (4, length)
        assert (arrays[f"ids_{i}"] == 0).sum() == (~arrays[f"mask_{i}"]).sum()  # no text holds the token that pads
    assert arrays["mask"].shape == (4, 16) and arrays["mask"].sum(axis=1).max() == 16


def figures(factor: float) -> dict:
    seconds = {"train": 2 * factor, "encode": factor, "epoch": 0}
    first = {"loss": 1.0, "gradient_norm": 2.0}
    return {"seconds": seconds, "ceiling": 1e10, "first": first, "train": 6e9, "encode": 2e9}


def test_table_and_ratios_of_given_figures():
    args = encoder.parse_arguments([f"--encoder={GOLDEN / 'bert_tiny'}", "--batch=10", "--length=100"])
    found = {"ours": figures(1.0), "torch": figures(4.0)}
    lines = encoder.table(args, found).splitlines()
    assert lines[0] == "|  | ours | torch | ours / torch |"
    assert lines[2:6] == [
        "| train: ms a step | 2000.0 | 8000.0 | 0.250 |",
        "| train: tokens/s | 500 | 125 | 4.000 |",
        "| train: GFLOP/s | 3.0 | 0.8 | 4.000 |",
        "| train: utilisation | 0.300 | 0.075 | 4.000 |",
    ]
    assert encoder.ratio_line(found) == "train_ratio=0.250 encode_ratio=0.250"
    del found["torch"]
    assert encoder.table(args, found).splitlines()[0] == "|  | ours |"
    assert encoder.ratio_line(found) == "train_ratio=nan encode_ratio=nan"
