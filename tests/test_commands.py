"""From a CSV to predictions, calibration and metrics, by the command xrt-jax; XR-Linear, so that it takes seconds."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from commands import ROOT, environment, run
from scipy.sparse import csr_matrix, load_npz, save_npz
from toy import NR_LABELS, toy_split

from xrt_jax import cli
from xrt_jax.evaluate import load_pair, read_pairs
from xrt_jax.metrics import precision_recall
from xrt_jax.model import load_model


def xrt_jax(*args, **kwargs):
    return run("xrt_jax.cli", *map(str, args), **kwargs)


def told(result, status=0):
    """Standard output, or the one line of an error."""
    assert result.returncode == status, result.stderr
    if not status:
        return result.stdout
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    """A folder: books.csv, the data-set folder data and the model folder run/model that were made of it."""
    folder = tmp_path_factory.mktemp("books")
    split = toy_split(500, 0)
    with open(folder / "books.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["id", "title", "subjects"])
        for row, text in enumerate(split.texts):
            out.writerow([row, text, "|".join(f"label {label}" for label in split.Y[row].indices)])
        out.writerows([["a", "", "label 1"], ["b", "aword1", " "]])
    table = [f"--from={folder / 'books.csv'}", "--text_column=title", "--label_column=subjects"]
    made = xrt_jax("data", *table, f"--out={folder / 'data'}", "--dev_share=0.2", "--test_share=0.2")
    assert "300 / 100 / 100 (training / validation / test)" in told(made)
    assert "books.csv: 1 without a text, left out: line 502" in made.stderr
    assert "books.csv: 1 without a label, left out: line 503" in made.stderr
    refused = xrt_jax("data", *table, f"--out={folder / 'data'}")
    assert "is there already and not empty" in told(refused, 2)
    tree = ["--config.refined_tree.nr_splits=4", "--config.refined_tree.max_leaf_size=6"]
    data = f"--config.data.dir={folder / 'data'}"
    told(xrt_jax("train", "--config=configs/xlinear.py", data, f"--workdir={folder / 'run'}", *tree))
    return folder


def predict(books, *args, status=0):
    return told(xrt_jax("predict", f"--model={books / 'run/model'}", *args), status)


def test_the_three_commands_end_in_labels(books):
    column = [f"--text={books / 'books.csv'}", "--text_column=title"]
    ranked = [json.loads(line)["labels"] for line in predict(books, *column, "--k=2").splitlines()]
    assert len(ranked) == 502 and all(len(pairs) == 2 for pairs in ranked)
    Y = toy_split(500, 0).Y
    assert np.mean([Y[row, int(pairs[0][0].split()[1])] for row, pairs in enumerate(ranked[:500])]) > 0.9
    error = predict(books, f"--text={books / 'books.csv'}", status=2)
    assert "has no column 'text'; its columns are 'id', 'title', 'subjects'" in error


def test_formats_and_evaluation_of_each(books, tmp_path):
    texts, truth = books / "data/X.tst.txt", books / "data/Y.tst.npz"
    names = f"--names={books / 'run/model/labels.txt'}"
    for ending in ("jsonl", "tsv", "npz"):
        assert predict(books, f"--text={texts}", f"--output={tmp_path / f'P.{ending}'}") == ""
    assert predict(books, f"--text={texts}", "--format=tsv") == (tmp_path / "P.tsv").read_text()
    assert (tmp_path / "P.tsv").read_text().splitlines()[0] == "text\tlabel\tscore"
    P, Y = load_npz(tmp_path / "P.npz"), load_npz(truth)
    assert P.shape == Y.shape and P.nnz == 1000
    printed = told(xrt_jax("evaluate", f"--truth={truth}", f"--pred={tmp_path / 'P.npz'}"))
    expected = precision_recall(Y, P)
    lines = [f"{key:7}= {' '.join(f'{100 * v:.2f}' for v in values)}" for key, values in expected.items()]
    assert printed == "\n".join(["==== evaluation results ====", *lines, ""])
    for ending in ("jsonl", "tsv"):
        of_names = load_pair(str(truth), str(tmp_path / f"P.{ending}"), "labels", "|", names.partition("=")[2])
        for key, values in precision_recall(*of_names).items():
            np.testing.assert_array_equal(values, expected[key])
    assert "add --names" not in printed
    mixed = xrt_jax("evaluate", f"--truth={truth}", f"--pred={tmp_path / 'P.tsv'}")
    assert "name the matrix's columns by --names" in told(mixed, 2)
    assert "needs a file" in predict(books, f"--text={texts}", "--format=npz", status=2)


def test_evaluate_prints_what_pecos_prints(tmp_path):
    """The text that PECOS's own tests expect of such matrices."""
    A = csr_matrix(np.eye(4, dtype=np.float32))
    save_npz(tmp_path / "Y.npz", A)
    save_npz(tmp_path / "P.npz", A * 0.5)
    printed = told(xrt_jax("evaluate", f"--truth={tmp_path / 'Y.npz'}", f"--pred={tmp_path / 'P.npz'}"))
    assert printed == (
        "==== evaluation results ====\n"
        "prec   = 100.00 50.00 33.33 25.00 20.00 16.67 14.29 12.50 11.11 10.00\n"
        "recall = 100.00 100.00 100.00 100.00 100.00 100.00 100.00 100.00 100.00 100.00\n"
    )


def test_all_metrics(books, tmp_path):
    model, data = f"--model={books / 'run/model'}", f"--data={books / 'data'}"
    printed = told(xrt_jax("evaluate", model, data, "--all", "--k=3"))
    assert [line.split("  ")[0] for line in printed.splitlines()[1:8]] == [
        "P",
        "R",
        "nDCG",
        "coverage",
        "PSP",
        "PSnDCG (pyxclib)",
        "PSnDCG (AttentionXML)",
    ]
    assert "training documents" in printed and len(printed.splitlines()) == 8 + 3 + 10
    # a label that is told right in row 0 counts no more
    predict(books, f"--text={books / 'data/X.tst.txt'}", f"--output={tmp_path / 'P.npz'}")
    Y, P = load_npz(books / "data/Y.tst.npz"), load_npz(tmp_path / "P.npz")
    right = next(label for label in P[0].indices if Y[0, label])
    (tmp_path / "filter.txt").write_text(f"0 {right}\n")
    files = [
        f"--truth={books / 'data/Y.tst.npz'}",
        f"--pred={tmp_path / 'P.npz'}",
        f"--filter={tmp_path / 'filter.txt'}",
    ]
    printed = told(xrt_jax("evaluate", *files, "--k=1", "--all"))
    for A in (Y, P):
        A[0, right] = 0
        A.eliminate_zeros()
    assert f"prec   = {100 * precision_recall(Y, P, 1)['prec'][0]:.2f}\n" in printed
    assert "need --train_labels" in printed


def test_labels_as_names(tmp_path):
    (tmp_path / "truth.csv").write_text("title,subjects\na,x|y\nb,z\nc,\n")
    (tmp_path / "P.jsonl").write_text('{"labels": [["y", 0.5], ["z", 0.5]]}\n{"labels": []}\n{"labels": [["w", 1]]}\n')
    files = [str(tmp_path / "truth.csv"), str(tmp_path / "P.jsonl")]
    Y, P = load_pair(*files, "subjects", "|", None)
    assert Y.shape == (3, 4)
    assert precision_recall(Y, P, 2)["prec"].tolist() == [1 / 3, 1 / 6]  # y stands before z
    (tmp_path / "names.txt").write_text("x\ny\nz\n")
    with pytest.raises(ValueError, match=r"P\.jsonl: the label 'w' is not among the names"):
        load_pair(*files, "subjects", "|", str(tmp_path / "names.txt"))
    for text, message in (
        ('{"labels": []}\n', "has 1 texts, the truth 3"),
        ('{"labels": ["x"]}\n' * 3, r"line 1 is no list of \[name, score\] pairs"),
        ('{"labels": [["x", 1], ["x", 1]]}\n' * 3, "text 0 has a label twice"),
    ):
        (tmp_path / "P.jsonl").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_pair(*files, "subjects", "|", None)
    (tmp_path / "P.tsv").write_text("text\tlabel\tscore\n3\tx\t1\n")
    with pytest.raises(ValueError, match="line 2 is about text '3', the truth has texts 0 to 2"):
        load_pair(files[0], str(tmp_path / "P.tsv"), "subjects", "|", None)


def test_bad_filter_files(tmp_path):
    (tmp_path / "f.txt").write_text("0 1\n\n2 0\n")
    assert read_pairs(str(tmp_path / "f.txt"), (3, 2)).toarray().tolist() == [[0, 1], [0, 0], [1, 0]]
    for text in ("0 1\n0 2\n", "0 1\n0\n", "0 1\n-1 0\n"):
        (tmp_path / "f.txt").write_text(text)
        with pytest.raises(ValueError, match=r"f\.txt: line 2 is .* not a row below 3 and a label below 2"):
            read_pairs(str(tmp_path / "f.txt"), (3, 2))


def test_post_processor_and_beam(books, tmp_path):
    texts = [f"--text={books / 'data/X.tst.txt'}", "--k=4"]
    scores = {}
    for name in ("noop", "l3-hinge", "l1-hinge"):
        predict(books, *texts, "--beam=4", f"--post_processor={name}", f"--output={tmp_path / f'{name}.npz'}")
        scores[name] = load_npz(tmp_path / f"{name}.npz").data
    assert scores["noop"].min() < 0 <= scores["l3-hinge"].min() and (scores["l3-hinge"] != scores["l1-hinge"]).any()
    predict(books, *texts, f"--output={tmp_path / 'own.npz'}", "--beam=4")
    np.testing.assert_array_equal(load_npz(tmp_path / "own.npz").data, scores["l3-hinge"])
    assert "must be one of noop" in predict(books, *texts, "--post_processor=square", status=2)


def test_calibrated_probabilities_and_thresholds(books, tmp_path):
    texts, model = f"--text={books / 'data/X.tst.txt'}", f"--model={books / 'run/model'}"
    plain = xrt_jax("predict", model, texts, "--threshold=0.5")
    assert "no calibrated probabilities are at hand" in plain.stderr
    kept = [score for line in told(plain).splitlines() for _, score in json.loads(line)["labels"]]
    assert len(plain.stdout.splitlines()) == 100 and min(kept) >= 0.5 and 50 < len(kept) < 1000
    assert "run xrt-jax calibrate on it first" in predict(books, texts, "--probabilities", status=2)

    printed = told(xrt_jax("calibrate", model, f"--data={books / 'data'}"))
    before, after = ([float(x) for x in line.split()[1:]] for line in printed.splitlines()[2:4])
    assert after[2] < before[2] and before[4:] == after[4:]  # ECE@5 is lower, P@k the same
    page = (books / "run/model/calibration.html").read_text()
    assert page.count("<polyline") == 6 and "probabilities" in page and "ideal" in page
    assert load_model(books / "run/model").calibration.method == "isotonic"
    predict(books, texts, "--probabilities", f"--output={tmp_path / 'P.npz'}")
    predict(books, texts, "--threshold=0.5", f"--output={tmp_path / 'T.npz'}")
    P, T = load_npz(tmp_path / "P.npz"), load_npz(tmp_path / "T.npz")
    assert T.nnz == (P.data >= 0.5).sum() and T.data.min() >= 0.5
    Y = load_npz(books / "data/Y.tst.npz")
    assert abs(np.mean([Y[row, label] > 0 for row, label in zip(*T.nonzero(), strict=True)]) - T.data.mean()) < 0.1
    assert "leave out --post_processor" in predict(books, texts, "--probabilities", "--post_processor=noop", status=2)
    twice = xrt_jax("predict", model, model, texts, "--probabilities")
    assert "add --ensemble=average" in told(twice, 2)
    joined = xrt_jax("predict", model, model, texts, "--probabilities", "--ensemble=average")
    pairs = [
        [[pair for pair in sorted(json.loads(line)["labels"]) if pair[1] > 0] for line in lines.splitlines()]
        for lines in (told(joined), predict(books, texts, "--probabilities"))
    ]
    assert pairs[0] == pairs[1]  # equal probabilities change places

    of_levels = xrt_jax("calibrate", model, f"--data={books / 'data'}", "--per_level=isotonic")
    assert "per level" in told(of_levels) and len(load_model(books / "run/model").calibration.level_points) == 2
    predict(books, texts, "--probabilities", "--k=3", "--beam=5", f"--output={tmp_path / 'I.npz'}")
    assert 0 < load_npz(tmp_path / "I.npz").data.max() <= 1

    of_levels = xrt_jax("calibrate", model, f"--data={books / 'data'}", "--per_level=platt", "--method=platt")
    assert [line.split("  ")[0] for line in told(of_levels).splitlines()[2:5]] == [
        "scores",
        "per level",
        "probabilities",
    ]
    assert len(load_model(books / "run/model").calibration.levels) == 2
    predict(books, texts, "--probabilities", f"--output={tmp_path / 'L.npz'}")
    assert 0 < load_npz(tmp_path / "L.npz").data.max() <= 1
    truth = ["--truth", books / "data/Y.tst.npz", "--pred", tmp_path / "P.npz"]
    assert "on the same texts" in told(xrt_jax("calibrate", model, *truth, f"--plot={tmp_path / 'p.html'}"))
    assert (tmp_path / "p.html").is_file()
    assert "needs the texts" in told(xrt_jax("calibrate", model, *truth, "--per_level=platt"), 2)


def test_data_from_files_of_their_own(tmp_path):
    for name, n in (("trn", 40), ("tst", 10)):
        split = toy_split(n, n)
        rows = [{"text": t, "labels": [f"l{j}" for j in split.Y[i].indices]} for i, t in enumerate(split.texts)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [f"--from={tmp_path / 'trn.jsonl'}", f"--test_from={tmp_path / 'tst.jsonl'}", f"--out={tmp_path / 'out'}"]
    assert "40 / – / 10 (training" in told(xrt_jax("data", *files, "--dev_share=0"))
    assert (tmp_path / "out/X.tst.txt").read_text().splitlines() == toy_split(10, 10).texts
    assert set((tmp_path / "out/output-items.txt").read_text().split()) <= {f"l{j}" for j in range(NR_LABELS)}
    bad = xrt_jax("data", files[0], "--label_column=none", f"--out={tmp_path / 'bad'}")
    assert "has no 'none'" in told(bad, 2) and not (tmp_path / "bad").exists()


# ---------------------------------------------------------------------------- the command


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_shows_an_example_and_the_flags(name):
    printed = xrt_jax(name, "--help").stdout
    assert f"xrt-jax {name} " in printed
    flags = {"data": "--from", "train": "--config", "import-pecos": "--labels", "export-pecos": "--out"}
    flags |= {"fetch": "--dir", "describe": "--plot"}
    assert flags.get(name, "--model") in printed


def test_the_list_of_commands():
    for args in ((), ("--help",), ("help",)):
        printed = told(xrt_jax(*args))
        assert all(f"  {name} " in printed for name in cli.COMMANDS)
    assert "there is no command 'predcit': choose one of fetch, describe, data, train" in told(xrt_jax("predcit"), 2)
    assert "--text=none: there is no such file" in told(xrt_jax("predict", "--model=m", "--text=none"), 2)
    assert "unexpected argument 'x'" in told(xrt_jax("predict", "--model=m", "x"), 2)


def test_no_jax_where_it_is_not_needed(books):
    code = (
        "import sys; from xrt_jax import cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: status = end.code\n"
        "sys.exit(status or any(name in sys.modules for name in ('jax', 'flax', 'transformers')))"
    )
    for args in (
        ["predict", f"--model={books / 'run/model'}", f"--text={books / 'data/X.tst.txt'}"],
        ["evaluate", f"--model={books / 'run/model'}", f"--data={books / 'data'}"],
    ):
        subprocess.run(
            [sys.executable, "-c", code, *args], cwd=ROOT, env=environment(), check=True, capture_output=True
        )
