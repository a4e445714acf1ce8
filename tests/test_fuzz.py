"""Thousands of damaged files: every load ends in a result or in one line that names the file (tests/fuzz_files.py).

No load may execute what a file holds, crash, hang, or take more than 2 GiB for a small file. A failure names its kind
and seed; XRT_FUZZ_TRACE=1 python tests/fuzz_files.py SAMPLES SCRATCH KIND SEED SEED+1 shows it alone.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fuzz_files import KINDS, build_samples, gzip_bomb, xz_bomb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xrt_jax.calibration import Calibration, load_calibration, probabilities
from xrt_jax.config import flatten, from_json, load_config, read_fields
from xrt_jax.data.tables import as_text, cells, read_table
from xrt_jax.data.tfidf import load_tfidf
from xrt_jax.disk import read_json
from xrt_jax.encoders.huggingface import load_tokenizer
from xrt_jax.model import load_model
from xrt_jax.npz import load_canonical, load_npz
from xrt_jax.pecos import params as pecos_params
from xrt_jax.pecos.params import apply_params, read_params

WORKER = Path(__file__).with_name("fuzz_files.py")
ROOT = WORKER.parent.parent
SECONDS_A_LOAD = 0.3  # many times what it takes, and a minute to start
# A load is a trace, tens of milliseconds.
WITH_JAX = ("safetensors", "torch encoder", "modernbert", "roberta", "xlm-roberta", "distilbert", "xlnet")

# Kind -> seeds that once ended otherwise
FOUND = {
    "mapped": [1, 15, 21, 24, 31, 35, 319],
    "tfidf": [0, 3, 4],
    "jsonl": [13],
    "csv.gz": [30],
    "parquet": [75, 82, 147, 181],
    "config": [7, 14, 34, 39, 41, 47, 1300],
    "params": [1, 8, 13, 29, 42, 221, 1384],
    "calibration": [5, 9, 13, 19, 27, 32],
    "model": [5, 7, 20, 27, 45],
    "import": [0, 2, 4, 5, 7, 16, 1499],
    "chain": [3, 7, 11, 14, 15, 18],
    "ranker": [5, 7, 12, 25],
    "torch": [0, 3, 6, 21, 30, 31, 39, 63],
    "safetensors": [6, 10, 17, 19, 32, 33, 52, 176],
    "tokenizer": [5, 8, 15, 22, 29, 35],
    "torch encoder": [31, 55],
    "modernbert": [10, 194],
    "npz": [17, 51],
    "coo": [13, 14, 26],
}


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """A folder with valid files of every kind."""
    folder = tmp_path_factory.mktemp("fuzz")
    build_samples(folder)
    return folder


def run(samples: Path, scratch: Path, jobs: list[tuple[str, int, int]]) -> list[dict]:
    """How the loads of these (kind, first seed, last seed + 1) ended, from one worker."""
    scratch.mkdir(parents=True)
    seconds = 60 + SECONDS_A_LOAD * sum(last - first for _, first, last in jobs)
    arguments = [str(word) for job in jobs for word in job]
    worker = [sys.executable, str(WORKER), str(samples), str(scratch), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    with open(scratch / "log", "w") as out, open(scratch / "errors", "w") as errors:
        try:
            done = subprocess.run(worker, stdout=out, stderr=errors, env=environment, timeout=seconds)
            status = done.returncode
        except subprocess.TimeoutExpired:
            status = "a hang"
    now = (scratch / "now").read_text() if (scratch / "now").exists() else "before the first seed"
    said = (scratch / "errors").read_text()[-2000:]
    assert status == 0 and now == "done", f"the worker ended with {status} at {now}: {said}"
    return [json.loads(line) for line in (scratch / "log").read_text().splitlines() if line.startswith("{")]


def check(endings: list[dict]) -> Counter:
    failures = [ending for ending in endings if "failure" in ending]
    assert not failures, f"{len(failures)} of {len(endings)}: {json.dumps(failures[:5], indent=1)}"
    return Counter((ending["kind"], ending["end"]) for ending in endings)


def sweep(samples: Path, folder: Path, nr_seeds: dict[str, int], nr_workers: int, first: int = 0) -> Counter:
    """Loads so many changed files of each kind in workers side by side; how many ended in which way."""
    jobs = [(kind, first, first + count) for kind, count in nr_seeds.items()]
    with ThreadPoolExecutor(nr_workers) as pool:
        parts = [jobs[start::nr_workers] for start in range(nr_workers)]
        endings = pool.map(run, [samples] * nr_workers, [folder / str(n) for n in range(nr_workers)], parts)
        endings = [ending for part in endings for ending in part]
    assert len(endings) == sum(nr_seeds.values())
    return check(endings)


def test_a_thousand_damaged_files(samples, tmp_path):
    nr_seeds = {kind: 10 if kind in WITH_JAX else 44 for kind in KINDS}
    ended = sweep(samples, tmp_path, nr_seeds, 2)
    assert ended.total() >= 1000


@pytest.mark.slow
def test_ten_thousand_damaged_files(samples, tmp_path):
    nr_seeds = {kind: 200 if kind in WITH_JAX else 550 for kind in KINDS}
    ended = sweep(samples, tmp_path, nr_seeds, 2, first=1000)
    assert ended.total() >= 10_000
    print(*(f"{kind} {end} {count}" for (kind, end), count in sorted(ended.items())), sep="\n")


def test_seeds_that_once_failed(samples, tmp_path):
    jobs = [(kind, seed, seed + 1) for kind, seeds in FOUND.items() for seed in seeds]
    check(run(samples, tmp_path / "found", jobs))


@pytest.mark.parametrize("name", ["texts.txt.gz", "texts.csv.xz"])
def test_a_text_that_unpacks_to_gigabytes_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip_bomb(3072) if path.suffix == ".gz" else xz_bomb(3072))
    with pytest.raises(ValueError, match=rf"{name}: unpacks to more than"):
        read_table(str(path), ["text"])


def test_a_matrix_of_empty_rows_takes_no_gigabytes(tmp_path):
    one = np.ones(1, np.int32)
    np.savez(tmp_path / "coo.npz", format=b"coo", shape=[2**40, 3], data=[1.0], row=one, col=one)
    with pytest.raises(ValueError, match=r"coo\.npz.*1099511627776 rows or columns for 1 entries"):
        load_npz(tmp_path / "coo.npz")
    np.savez(tmp_path / "csr.npz", format=b"csr", shape=[1, 2**31], data=[1.0], indices=one, indptr=[0, 1])
    assert load_npz(tmp_path / "csr.npz").shape == (1, 2**31)
    with pytest.raises(ValueError, match=r"csr\.npz: 2147483648 rows or columns for 1 entries"):
        load_canonical(tmp_path / "csr.npz", "csc")


def test_a_vectorizer_that_would_open_files_is_refused(samples, tmp_path):
    shutil.copytree(samples / "tfidf" / "tfidf", tmp_path / "tfidf")
    content = read_json(tmp_path / "tfidf" / "tfidf.json")
    content["settings"]["input"] = "filename"
    (tmp_path / "tfidf" / "tfidf.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the settings must be"):
        load_tfidf(tmp_path / "tfidf")


def test_code_beside_a_tokenizer_is_not_run(samples, tmp_path):
    shutil.copytree(samples / "tokenizer", tmp_path, dirs_exist_ok=True)
    marker = tmp_path / "executed"
    path = tmp_path / "tokenizer" / "tokenizer_config.json"
    path.write_text(
        json.dumps(read_json(path) | {"tokenizer_class": "Odd", "auto_map": {"AutoTokenizer": [None, "a.Odd"]}})
    )
    (tmp_path / "tokenizer" / "a.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Odd: pass\n")
    ends_well(tmp_path, lambda: load_tokenizer(tmp_path / "tokenizer"))
    assert not marker.exists()


# ---------------------------------------------------------------------------- any JSON, any text

examples = settings(
    deadline=None,
    max_examples=60,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


def defaults():
    """The configuration of configs/default.py, anew."""
    return load_config(str(ROOT / "configs/default.py"))


def ends_well(path: Path, load) -> None:
    """Asserts that load() returns, or raises an error in one line that names the path."""
    try:
        load()
    except (ValueError, OSError) as error:
        assert len(str(error).splitlines()) == 1
        assert str(path) in str(error)


@examples
@given(value=values)
def test_any_json_as_configuration(tmp_path, value):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(value))
    ends_well(path, lambda: read_json(path))
    ends_well(path, lambda: from_json(defaults(), read_fields(path), path))
    ends_well(path, lambda: read_params(path))
    ends_well(path, lambda: load_model(tmp_path))


FIELDS = sorted(flatten(defaults()))
MATCHER_KEYS = sorted(pecos_params.MATCHER)


@examples
@given(field=st.sampled_from(FIELDS), key=st.sampled_from(MATCHER_KEYS), value=values)
def test_any_value_of_a_field(tmp_path, field, key, value):
    path = tmp_path / "config.json"
    ends_well(path, lambda: from_json(defaults(), {field: value}, path))
    params = {"train_params": {"matcher_params_chain": {key: value}}}
    ends_well(path, lambda: apply_params(defaults(), params, source=path))


@examples
@given(field=st.sampled_from(Calibration._fields), value=values)
def test_any_value_in_a_calibration(tmp_path, field, value):
    path = tmp_path / "calibration.json"
    sound = Calibration("isotonic", [0.1, 0.9], [0.0, 1.0], [], False, [[1.0, 0.0]], 7, [[[0.0, 1.0], [0.2, 0.8]]])
    path.write_text(json.dumps(sound._asdict() | {field: value}))
    ends_well(path, lambda: probabilities(load_calibration(tmp_path, 1), np.array([0.5])))


@examples
@given(
    text=st.text(st.sampled_from("ab,;\"'\n\r\t\0\x85 {}[]:0"), max_size=60),
    name=st.sampled_from(["csv", "tsv", "jsonl"]),
)
def test_any_text_as_table(tmp_path, text, name):
    path = tmp_path / f"texts.{name}"
    head = {"csv": "text,b\n", "tsv": "text\tb\n", "jsonl": '{"text": "a"}\n'}[name]
    path.write_bytes((head + text).encode())
    ends_well(path, lambda: cells(read_table(str(path), ["text"]), "text", as_text))
