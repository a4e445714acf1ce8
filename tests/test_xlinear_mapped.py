import json
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from test_xlinear_predict import D, queries, random_ranker

from xrt_jax.sparse import Features
from xrt_jax.xlinear.mapped import load_mapped, save_mapped
from xrt_jax.xlinear.predict import predict, predict_selected, prepare

PROGRAM = """
import sys, scipy.sparse as sp
from xrt_jax.xlinear.mapped import load_mapped
from xrt_jax.xlinear.predict import predict
sp.save_npz(sys.argv[3], predict(load_mapped(sys.argv[1]), sp.load_npz(sys.argv[2])))
"""


@pytest.fixture
def folder(tmp_path):
    save_mapped(tmp_path / "mapped", random_ranker())
    return tmp_path / "mapped"


def test_a_mapped_ranker_predicts_what_the_ranker_predicts(folder):
    X = queries()
    mapped = load_mapped(folder)
    assert isinstance(mapped[-1].chunks.entry.base, np.memmap) and not mapped[-1].chunks.entry.flags.writeable
    for ask in (predict, lambda ranker, X: predict_selected(ranker, X, np.ones((25, 40)))):
        P, expected = ask(mapped, X), ask(random_ranker(), X)
        np.testing.assert_array_equal(P.indices, expected.indices)
        np.testing.assert_array_equal(P.data, expected.data)


@pytest.mark.parametrize("nr_dense", [0, 12])
def test_prepared_rankers_and_dense_features(tmp_path, nr_dense):
    ranker, X = random_ranker(), queries().toarray()
    save_mapped(tmp_path / "a", ranker, nr_dense)
    save_mapped(tmp_path / "b", prepare(ranker, nr_dense))
    X = Features(sp.csr_matrix(X[:, : D - 12]), X[:, D - 12 :])
    expected = predict(prepare(ranker, nr_dense), X)
    for name in "ab":
        np.testing.assert_array_equal(predict(load_mapped(tmp_path / name), X).toarray(), expected.toarray())


def test_two_processes_share_a_read_only_folder(folder, tmp_path):
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    sp.save_npz(tmp_path / "X.npz", queries())
    names = [tmp_path / "P0.npz", tmp_path / "P1.npz"]
    command = [sys.executable, "-c", PROGRAM, folder, tmp_path / "X.npz"]
    running = [subprocess.Popen([*command, name], env=os.environ) for name in names]
    assert [process.wait() for process in running] == [0, 0]
    expected = predict(random_ranker(), queries())
    for name in names:
        assert (sp.load_npz(name) != expected).nnz == 0
    folder.chmod(0o755)


def test_a_ranker_without_weights(tmp_path):
    ranker = [level._replace(W=0 * level.W) for level in random_ranker(bias=0.0)]
    for level in ranker:
        level.W.eliminate_zeros()
    save_mapped(tmp_path / "mapped", ranker)
    P = predict(load_mapped(tmp_path / "mapped"), queries())
    assert (predict(ranker, queries()) != P).nnz == 0 and P.nnz


@pytest.mark.parametrize("name", ["slot", "start", "entry", "intercept"])
def test_a_flipped_bit_is_found_on_demand(folder, name):
    load_mapped(folder, verify=True)
    path = folder / f"1.{name}.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 16
    path.write_bytes(content)
    load_mapped(folder)
    with pytest.raises(ValueError, match=rf"1\.{name}\.npy: is not what was saved"):
        load_mapped(folder, verify=True)


def test_what_is_missing_cut_short_or_foreign_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ranker\.json"):
        load_mapped(tmp_path)
    entries = folder / "2.entry.npy"
    whole = entries.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:20], b"", b"no array at all"):
        entries.write_bytes(broken)
        with pytest.raises(ValueError, match=r"2\.entry\.npy: cut short or no \.npy file"):
            load_mapped(folder)
    np.save(entries, np.ones(3))
    with pytest.raises(ValueError, match=r"2\.entry\.npy: holds <f8 \[3\]"):
        load_mapped(folder)
    entries.unlink()
    with pytest.raises(FileNotFoundError, match=r"2\.entry\.npy"):
        load_mapped(folder)
    entries.write_bytes(whole)
    spans = np.load(folder / "2.ptr.npy")
    for at, value in (((1, 3), 10**9), ((-1, 1), 3), ((2, 2), -1)):
        wrong = spans.copy()
        wrong[at] = value
        np.save(folder / "2.ptr.npy", wrong)
        with pytest.raises(ValueError, match=r"2\.ptr\.npy: its spans do not fit"):
            load_mapped(folder)
    np.save(folder / "2.ptr.npy", spans)
    content = json.loads((folder / "ranker.json").read_text())
    for wrong in (
        {**content, "version": 99},
        {},
        [],
        {**content, "levels": [{"nr_labels": 3}]},
        {**content, "levels": 3},
    ):
        (folder / "ranker.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"ranker\.json: .*save the mapped ranker again"):
            load_mapped(folder)
