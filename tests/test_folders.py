"""Data-set folders: what is written is read back, and each kind of broken folder gives its one line."""

import gzip
import logging
import lzma

import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.data.folders import Dataset, Split, load_dataset, save_dataset
from xrt_jax.data.label_texts import add_label_texts, documents, read_label_texts
from xrt_jax.data.text_files import read_lines


def random_csr(rng, shape, density=0.3):
    return sp.random(*shape, density=density, format="csr", dtype=np.float32, rng=rng)


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)

    def split(nr_rows):
        texts = [f"text {row}\twith a tab, ä and \x0c" for row in range(nr_rows)]
        return Split(texts, random_csr(rng, (nr_rows, 5)), random_csr(rng, (nr_rows, 7)))

    return Dataset(split(12), split(4), split(6), [f"label {column}" for column in range(5)])


@pytest.fixture
def folder(tmp_path, dataset):
    save_dataset(tmp_path / "data", dataset)
    return tmp_path / "data"


def assert_same(found: Split, expected: Split, rows=slice(None)):
    assert found.texts == list(np.array(expected.texts, dtype=object)[rows])
    for a, b in ((found.Y, expected.Y[rows]), (found.X, expected.X[rows])):
        assert a.dtype == np.float32
        assert a.has_sorted_indices
        np.testing.assert_array_equal(a.toarray(), b.toarray())


def test_save_then_load_gives_the_same(folder, dataset):
    found = load_dataset(folder)
    assert found.label_names == dataset.label_names
    for name in ("trn", "dev", "tst"):
        assert_same(getattr(found, name), getattr(dataset, name))
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


def test_packed_texts_and_windows_line_ends(folder, dataset):
    data = (folder / "X.trn.txt").read_bytes().replace(b"\n", b"\r\n")
    (folder / "X.trn.txt").unlink()
    (folder / "X.trn.txt.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + data))
    tst = (folder / "X.tst.txt").read_bytes()
    (folder / "X.tst.txt").unlink()
    (folder / "X.tst.txt.xz").write_bytes(lzma.compress(tst[:-1]))  # no line end after the last line
    names = (folder / "output-items.txt").read_bytes()
    (folder / "output-items.txt").unlink()
    (folder / "output-items.txt.xz").write_bytes(lzma.compress(names))
    found = load_dataset(folder)
    assert_same(found.trn, dataset.trn)
    assert_same(found.tst, dataset.tst)
    assert found.label_names == dataset.label_names


def test_dense_features_without_texts(tmp_path, dataset):
    splits = [Split(None, split.Y, split.X.toarray()) for split in (dataset.trn, dataset.tst)]
    save_dataset(tmp_path, Dataset(splits[0], None, splits[1], dataset.label_names))
    found = load_dataset(tmp_path)
    assert found.trn.texts is None
    assert found.dev is None
    np.testing.assert_array_equal(found.tst.X, splits[1].X)


def test_explicit_zeros_and_duplicates_in_labels(folder):
    Y = sp.coo_matrix(([0.0, 1.0, 0.5], ([0, 1, 1], [2, 3, 3])), shape=(12, 5))
    sp.save_npz(folder / "Y.trn.npz", Y)
    found = load_dataset(folder).trn.Y
    assert found.nnz == 1
    assert found[1, 3] == 1.5


def test_rows_of_a_subset(folder, dataset, tmp_path):
    (folder / "some.idx").write_text("3\n0\n11\n")
    (tmp_path / "few.idx").write_text("5\n")
    found = load_dataset(folder, trn_rows="some.idx", tst_rows=tmp_path / "few.idx")
    assert_same(found.trn, dataset.trn, [3, 0, 11])
    assert_same(found.tst, dataset.tst, [5])


@pytest.mark.parametrize(
    ("content", "message"),
    [("3\n12\n", "line 2 is '12'"), ("x\n", "line 1 is 'x'"), ("1\n1\n", "each one once"), ("", "at least one")],
)
def test_bad_row_numbers(folder, content, message):
    (folder / "bad.idx").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_dataset(folder, trn_rows="bad.idx")


def test_dev_size(folder, dataset):
    assert load_dataset(folder, dev_size=0).dev is None
    assert_same(load_dataset(folder, dev_size=3).dev, dataset.dev, slice(3))
    assert load_dataset(folder, dev_size=99).dev.Y.shape[0] == 4
    assert load_dataset(folder, dev_size=99).trn.Y.shape[0] == 12
    with pytest.raises(ValueError, match="negative"):
        load_dataset(folder, dev_size=-1)


def test_held_out_rows(folder, dataset):
    for path in folder.glob("*.dev.*"):
        path.unlink()
    first, again, other = (load_dataset(folder, dev_size=4, seed=seed) for seed in (1, 1, 2))
    assert len(first.dev.texts) == 4
    assert sorted(first.trn.texts + first.dev.texts) == sorted(dataset.trn.texts)
    assert first.dev.texts == again.dev.texts
    assert first.dev.texts != other.dev.texts
    rows = [dataset.trn.texts.index(text) for text in first.dev.texts]
    assert_same(first.dev, dataset.trn, rows)
    assert load_dataset(folder).dev is None
    with pytest.raises(ValueError, match="leaves nothing of the 12"):
        load_dataset(folder, dev_size=12)


@pytest.fixture
def texts_alone(folder):
    for path in folder.glob("X.*.npz"):
        path.unlink()
    return folder


def load_taught(folder, source, copies=1, **how):
    dataset = load_dataset(folder, **how)
    return add_label_texts(dataset, read_label_texts(folder, source, dataset), copies=copies)


def test_names_of_labels_are_training_texts_of_their_labels(texts_alone, dataset):
    sp.save_npz(texts_alone / "R.npz", 3 * dataset.trn.Y)
    sp.save_npz(texts_alone / "M.npz", sp.csr_matrix(np.ones((12, 2))))
    found = load_taught(texts_alone, "names", relevance="R.npz", matches="M.npz")
    assert found.trn.texts == [*dataset.trn.texts, *dataset.label_names] and found.trn.nr_label_texts == 5
    for part, of_documents, of_labels in (
        (found.trn.Y, dataset.trn.Y.toarray(), np.eye(5)),
        (found.trn.relevance, 3 * dataset.trn.Y.toarray(), np.eye(5)),
        (found.trn.matches, np.ones((12, 2)), np.zeros((5, 2))),
    ):
        assert part.dtype == np.float32 and part.has_canonical_format
        np.testing.assert_array_equal(part.toarray(), np.vstack([of_documents, of_labels]))
    plain = load_dataset(texts_alone, relevance="R.npz", matches="M.npz")
    for name in ("dev", "tst"):
        assert getattr(found, name).texts == getattr(plain, name).texts
    assert documents(found).texts == documents(plain).texts == plain.trn.texts
    for own, other in zip(documents(found)[1:5], plain.trn[1:5], strict=True):
        assert (own is None and other is None) or (own != other).nnz == 0


def test_texts_of_labels_from_a_file_stand_behind_the_rows_that_are_taken(texts_alone, dataset):
    (texts_alone / "about.txt").write_text("the first\n\nthe third\n \nthe last\n")
    (texts_alone / "some.idx").write_text("3\n0\n11\n5\n")
    for path in texts_alone.glob("*.dev.*"):
        path.unlink()
    found = load_taught(texts_alone, "about.txt", copies=2, trn_rows="some.idx", dev_size=1)
    assert found.trn.texts[3:] == 2 * ["the first", "the third", "the last"] and found.trn.nr_label_texts == 6
    np.testing.assert_array_equal(found.trn.Y.toarray()[3:], np.eye(5)[2 * [0, 2, 4]])
    assert not {"the first", "the third", "the last"} & {*found.dev.texts, *documents(found).texts}


@pytest.mark.parametrize(
    ("label_texts", "message"),
    [
        ("names", "has features, and labels have their texts alone"),
        ("about.txt", r"there is no file .*about\.txt"),
        ("empty.txt", "the text of each label is empty"),
        ("short.txt", r"short\.txt: 2 lines for 5 labels"),
    ],
)
def test_bad_texts_of_labels(folder, label_texts, message):
    if label_texts != "names":
        for path in folder.glob("X.*.npz"):
            path.unlink()
    (folder / "short.txt").write_text("a\nb\n")
    (folder / "empty.txt").write_text(5 * " \n")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load_taught(folder, label_texts)
    assert "\n" not in str(error.value)


def test_labels_of_features_or_without_names_have_no_texts(tmp_path, dataset):
    alone = dataset.trn._replace(texts=None)
    save_dataset(tmp_path / "features", Dataset(alone, None, None, dataset.label_names))
    with pytest.raises(ValueError, match=r"label_texts=names: .*features has no texts"):
        load_taught(tmp_path / "features", "names")
    (tmp_path / "trn_X_Y.txt").write_text("3 3\n0:1\n1:1\n2:1\n")
    (tmp_path / "X.trn.txt").write_text("a\nb\nc\n")
    assert load_dataset(tmp_path).label_names == ["0", "1", "2"]
    with pytest.raises(ValueError, match=r"label_texts=names: labels of .* have no names but numbers"):
        load_taught(tmp_path, "names")
    (tmp_path / "output-items.txt").write_text("10\n11\n12\n")
    with pytest.raises(ValueError, match="have no names but numbers: write names to output-items"):
        load_taught(tmp_path, "names")


def test_empty_texts_are_one_warning(folder, caplog):
    lines = read_lines(folder / "X.trn.txt")
    lines[2] = lines[5] = " "
    (folder / "X.trn.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        found = load_dataset(folder)
    assert found.trn.texts[2] == " "
    assert sum("texts are empty" in record.message for record in caplog.records) == 1
    assert "2 of 12 texts are empty, the first in row 2" in caplog.text


def test_missing_label_names_are_refused_with_a_remedy_that_works(folder):
    path = folder / "output-items.txt"
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no label names, looked for output-items") as error:
        load_dataset(folder)
    assert str(error.value).endswith(f"seq 0 4 > {path}")
    path.write_text("0\n1\n2\n3\n4\n")  # what that command writes
    assert load_dataset(folder).label_names == ["0", "1", "2", "3", "4"]


def write_npz(file, matrix):
    return lambda folder: sp.save_npz(folder / file, sp.csr_matrix(matrix))


def with_value(value):
    return np.where(np.arange(60).reshape(12, 5) == 37, value, 1.0)


def write_corrupt_indices(folder):
    np.savez(folder / "Y.trn.npz", format=b"csr", shape=(1, 2), data=np.ones(1), indices=[7], indptr=[0, 1])


def write_pickle(folder):
    np.savez(folder / "Y.trn.npz", format=np.array([{"a": 1}], dtype=object))


def write_empty_split(folder):
    write_npz("Y.tst.npz", np.ones((0, 5)))(folder)
    write_npz("X.tst.npz", np.ones((0, 7)))(folder)
    (folder / "X.tst.txt").write_text("")


BROKEN = {
    "no labels": (lambda folder: (folder / "Y.tst.npz").unlink(), "looked for Y.tst.npz"),
    "no documents": (lambda folder: [path.unlink() for path in folder.glob("X.trn.*")], "X.trn.txt, .*X.trn.npy"),
    "short text": (lambda folder: (folder / "X.trn.txt").write_text("a\nb\n"), "X.trn.txt: 2 documents, .* 12 rows"),
    "short features": (write_npz("X.dev.npz", np.ones((3, 7))), "X.dev.npz: 3 documents, .* 4 rows"),
    "label names": (lambda folder: (folder / "output-items.txt").write_text("a\nb\n"), "2 label names, .* 5 columns"),
    "label width": (write_npz("Y.tst.npz", np.ones((6, 4))), "4 labels, .* 5"),
    "feature width": (write_npz("X.tst.npz", np.ones((6, 8))), "8 columns.* 7"),
    "kinds": (lambda folder: (folder / "X.tst.txt").unlink(), "only one of the splits trn and tst has texts"),
    "nan": (write_npz("Y.trn.npz", with_value(np.nan)), "row 7 holds NaN"),
    "overflow": (write_npz("Y.trn.npz", with_value(1e300)), "row 7 holds NaN or infinity"),
    "negative": (write_npz("Y.trn.npz", with_value(-1)), "row 7 holds a negative"),
    "feature inf": (write_npz("X.trn.npz", with_value(np.inf)), "X.trn.npz: row 7 holds"),
    "dense npz": (lambda folder: np.savez(folder / "Y.trn.npz", np.ones(3)), "not a sparse matrix"),
    "no zip": (lambda folder: (folder / "Y.trn.npz").write_bytes(b"hello"), "not a sparse matrix"),
    "pickle": (write_pickle, "not a sparse matrix"),
    "corrupt indices": (write_corrupt_indices, "not a sparse matrix"),
    "utf-8": (lambda folder: (folder / "X.trn.txt").write_bytes(b"a\nb\nc\xff\n"), "line 3 is not UTF-8"),
    "no label columns": (write_npz("Y.trn.npz", np.ones((12, 0))), r"Y\.trn\.npz: no label columns"),
    "no positives": (write_npz("Y.trn.npz", np.zeros((12, 5))), r"Y\.trn\.npz: no training document has a label"),
    "no rows": (write_empty_split, r"Y.tst.npz: no rows"),
}


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("what", BROKEN)
def test_broken_folders(folder, what):
    damage, message = BROKEN[what]
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load_dataset(folder)
    assert "\n" not in str(error.value)


def test_broken_dense_features(folder):
    (folder / "X.trn.npz").unlink()
    np.save(folder / "X.trn.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"X\.trn\.npy: must have two axes .* \(3,\)"):
        load_dataset(folder)
    for broken in (b"", (folder / "X.trn.npy").read_bytes() + b"more", b"\x93NUMPY\x01\x00\x02\x00{("):
        (folder / "X.trn.npy").write_bytes(broken)
        with pytest.raises(ValueError, match=r"X\.trn\.npy: not a 2-D array"):
            load_dataset(folder)
    np.save(folder / "X.trn.npy", np.array([[1j]]))
    with pytest.raises(ValueError, match=r"X\.trn\.npy: values of the type complex128"):
        load_dataset(folder)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such data folder"):
        load_dataset(tmp_path / "nowhere")


def test_save_refuses_what_would_not_come_back(tmp_path, dataset):
    broken = dataset.trn._replace(texts=["fine"] * 11 + ["two\nlines"])
    with pytest.raises(ValueError, match="entry 11 contains a line break"):
        save_dataset(tmp_path / "a", dataset._replace(trn=broken))
    save_dataset(tmp_path / "b", dataset)
    with pytest.raises(ValueError, match="another data set"):
        save_dataset(tmp_path / "b", dataset._replace(dev=None))


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize(("longest", "warnings"), [(1.4, []), (1.6, ["X.trn"])])
def test_rows_of_unequal_length_are_one_warning(tmp_path, caplog, kind, longest, warnings):
    X = np.eye(12, 7, dtype=np.float32)  # five empty rows, which have no length
    X[0, 0] = X[1, 1] = longest
    split = Split(None, sp.csr_matrix(np.ones((12, 2))), kind(X))
    save_dataset(tmp_path, Dataset(split, split, split, ["a", "b"]))
    with caplog.at_level(logging.WARNING):
        load_dataset(tmp_path)
    assert [record.message.split(".np")[0][-5:] for record in caplog.records] == warnings
    if warnings:
        assert f"L2 norms from 1 to {longest}" in caplog.text
        assert "--config.data.normalize=True" in caplog.text


# ---------------------------------------------------------------------------- the repository's text format

TRN = b"3 4 2\n1,0 0:1 3:0.5\n 1:2\n0\n"
TST = b"1 4 2\n1 2:1\n"
Y_TRN, X_TRN = [[1, 1], [0, 0], [1, 0]], [[1, 0, 0, 0.5], [0, 2, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("packed", [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)])
@pytest.mark.parametrize("names", [("trn", "tst", "dev"), ("train", "test", "dev"), ("a_train", "a_test", "a_dev")])
def test_text_splits(tmp_path, names, packed):
    ending, pack = packed
    for name, content in zip(names, (TRN, TST, TST), strict=True):
        (tmp_path / f"{name}.txt{ending}").write_bytes(pack(content))
    (tmp_path / ".b_train.txt").write_bytes(TRN)
    (tmp_path / "raw_train.txt").write_bytes(b"a text\nanother\n")
    found = load_dataset(tmp_path)
    np.testing.assert_array_equal(found.trn.Y.toarray(), Y_TRN)
    np.testing.assert_array_equal(found.trn.X.toarray(), X_TRN)
    assert found.trn.texts is None
    for split in (found.dev, found.tst):
        np.testing.assert_array_equal(split.Y.toarray(), [[0, 1]])
        np.testing.assert_array_equal(split.X.toarray(), [[0, 0, 1, 0]])
    assert found.label_names == ["0", "1"]
    (tmp_path / "output-items.txt").write_text("no\nyes\n")
    assert load_dataset(tmp_path, dev_size=0).label_names == ["no", "yes"]


def test_text_splits_stand_behind_the_other_files(folder, dataset):
    for name in ("train", "test", "a_test"):
        (folder / f"{name}.txt").write_bytes(TRN)
    for path in folder.glob("*.dev.*"):
        path.unlink()
    (folder / "a_dev.txt").write_text("notes on development\n")
    found = load_dataset(folder)
    assert_same(found.trn, dataset.trn)
    assert_same(found.tst, dataset.tst)
    assert found.dev is None
    (folder / "Y.trn.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"no labels for the split trn: looked for Y\.trn\.npz"):
        load_dataset(folder)


BROKEN_TEXT = {
    "two": ({"train.txt": TRN, "a_train.txt.gz": gzip.compress(TRN)}, r"a_train\.txt\.gz, train\.txt could all be"),
    "header": ({"train.txt": b"3 4\n"}, r"train\.txt: line 1 is '3 4', not the three numbers"),
    "header of tst": ({"train.txt": TRN, "test.txt": b"x"}, r"test\.txt: line 1 is 'x', not the three numbers"),
    "packed": ({"train.txt.xz": b"no xz"}, r"train\.txt\.xz: cannot be unpacked"),
    "cut": ({"train.txt.gz": gzip.compress(TRN)[:-9]}, r"train\.txt\.gz: cannot be unpacked"),
    "labels": ({"train.txt": TRN, "test.txt": b"1 4 3\n0 1:1"}, "the split tst has 3 labels, trn 2"),
    "features": ({"train.txt": TRN, "test.txt": b"1 5 2\n0 1:1"}, "X of tst is a csr_matrix of 5 columns, of trn"),
    "names": ({"train.txt": TRN, "output-items.txt": b"a\n"}, r"1 label names, but train\.txt has 2 columns"),
    "no rows": ({"train.txt": b"0 4 2\n"}, r"train\.txt: no rows"),
    "no labels": ({"train.txt": b"1 4 0\n 1:1\n"}, r"train\.txt: no label columns"),
    "no positives": ({"train.txt": b"1 4 2\n 1:1\n"}, r"train\.txt: no training document has a label"),
    "nothing": ({"test.txt": TST}, r"Y\.trn\.npz, .*, or a file trn\.txt or train\.txt or \*_train\.txt"),
}


@pytest.mark.parametrize("what", BROKEN_TEXT)
def test_broken_text_splits(tmp_path, what):
    files, message = BROKEN_TEXT[what]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load_dataset(tmp_path)
    assert "\n" not in str(error.value)
