"""Folders of published data sets, in each of their layouts, load as the same data set; damaged ones give one line."""

import gzip
import json
import lzma
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.data.folders import load_dataset
from xrt_jax.data.svmlight import parse_matrix
from xrt_jax.data.text_files import CHUNK, iter_lines, read_lines

TITLES = ["A title", "Ünother", "third one", "test"]
CONTENTS = ["with a\r\ncontent", "", "of\ttwo", "four"]
TEXTS = ["A title with a content", "Ünother", "third one of\ttwo", "test four"]  # the last one is of the test split
LABELS = [[2, 0], [], [1], [2]]
Y = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]])
X = np.array([[0.5, 0, 0, -2], [0, 0, 0, 0], [0, 3, 0, 0], [1, 0, 0, 0]])
NAMES = ["zero", "one", "two"]
ROWS = {"trn": slice(3), "tst": slice(3, 4)}


def json_lines(rows, **changes) -> str:
    documents = [
        {"uid": str(row), "title": TITLES[row], "content": CONTENTS[row], "target_ind": LABELS[row]}
        | {"target_rel": [1.0] * len(LABELS[row])}
        | changes
        for row in range(4)[rows]
    ]
    return "".join(f"{json.dumps(document)}\n" for document in documents)


def matrix_lines(A) -> str:
    rows = [" ".join(f"{column}:{row[column]}" for column in np.flatnonzero(row)) for row in A]
    return f"{len(A)} {A.shape[1]}\n" + "".join(f"{row}\n" for row in rows)


def write(folder, files: dict) -> None:
    for name, content in files.items():
        content = content.encode() if isinstance(content, str) else content
        pack = {"gz": gzip.compress, "xz": lzma.compress}.get(name.rpartition(".")[2], bytes)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(pack(content))


def repository_json(folder, packed):
    names = "".join(f"{json.dumps({'uid': f'u{n}', 'title': name})}\n" for n, name in enumerate(NAMES))
    files = {f"{split}.json{packed}": json_lines(rows) for split, rows in ROWS.items()}
    write(folder, files | {f"lbl.json{packed}": names})


def repository_matrices(folder, packed):
    """As in its zip files with label features: the JSON, its labels again, and features."""
    repository_json(folder, packed)
    for split, rows in ROWS.items():
        files = {f"{split}_X_Xf.txt{packed}": matrix_lines(X[rows]), f"{split}_X_Y.txt{packed}": matrix_lines(Y[rows])}
        write(folder, files | {f"lbl_X_Xf.txt{packed}": "3 2\n0:1\n0:1\n\n"})


def pecos_archive(folder, packed):
    for split, rows in ROWS.items():
        write(folder, {f"X.{split}.txt{packed}": "".join(f"{text}\n" for text in TEXTS[rows])})
        (folder / "tfidf-attnxml").mkdir(exist_ok=True)
        sp.save_npz(folder / f"Y.{split}.npz", sp.csr_matrix(Y[rows], dtype=np.float32))
        sp.save_npz(folder / "tfidf-attnxml" / f"X.{split}.npz", sp.csr_matrix(X[rows], dtype=np.float32))
    write(folder, {f"output-items.txt{packed}": "zero\none\ntwo\n"})


def x_transformer(folder, packed):
    pecos_archive(folder, packed)
    for split, name in (("trn", "train"), ("tst", "test")):
        (folder / f"X.{split}.txt{packed}").rename(folder / f"{name}_raw_texts.txt{packed}")
        (folder / "tfidf-attnxml" / f"X.{split}.npz").rename(folder / f"X.{split}.npz")
    (folder / f"output-items.txt{packed}").rename(folder / f"label_map.txt{packed}")


def attention_xml(folder, packed):
    names = [" ".join(NAMES[label] for label in labels) for labels in LABELS]
    for name, rows in (("train", ROWS["trn"]), ("test", ROWS["tst"])):
        raw = "".join(f"{text}\n" for text in TEXTS[rows])
        labels = "".join(f"{line}\n" for line in names[rows])
        write(
            folder,
            {f"{name}_labels.txt{packed}": labels, f"{name}_texts.txt{packed}": raw.replace("A title", "a /SEP/")},
        )
        write(folder, {f"{name}_raw_texts.txt{packed}": raw, f"{name}.txt": "0,2 1:0.5\n"})  # without a header


LAYOUTS = [
    (repository_json, NAMES, False),
    (repository_matrices, NAMES, True),
    (pecos_archive, NAMES, True),
    (x_transformer, NAMES, True),
    (attention_xml, sorted(NAMES), False),
]


@pytest.mark.parametrize("packed", ["", ".gz", ".xz"])
@pytest.mark.parametrize(("layout", "names", "has_features"), LAYOUTS, ids=lambda part: getattr(part, "__name__", ""))
def test_each_layout_loads_as_the_same_data_set(tmp_path, layout, names, has_features, packed):
    layout(tmp_path, packed)
    found = load_dataset(tmp_path)
    assert found.label_names == names
    assert found.dev is None
    order = [NAMES.index(name) for name in names]
    for split, rows in ((found.trn, ROWS["trn"]), (found.tst, ROWS["tst"])):
        assert split.texts == TEXTS[rows]
        assert split.Y.dtype == np.float32 and split.Y.has_sorted_indices
        np.testing.assert_array_equal(split.Y.toarray(), Y[rows][:, order])
        if has_features:
            np.testing.assert_array_equal(split.X.toarray(), X[rows])
        else:
            assert split.X is None


def test_tokenised_texts_where_there_are_no_raw_ones(tmp_path):
    attention_xml(tmp_path, "")
    for name in ("train", "test"):
        (tmp_path / f"{name}_raw_texts.txt").unlink()
    assert load_dataset(tmp_path).trn.texts[0] == "a /SEP/ with a content"


def test_labels_of_all_splits_are_columns_whether_or_not_dev_is_used(tmp_path):
    attention_xml(tmp_path, "")
    write(tmp_path, {"dev_texts.txt": "dev\n", "dev_labels.txt": "only-here\n"})
    names = ["one", "only-here", "two", "zero"]
    for dev_size in (None, 0):
        found = load_dataset(tmp_path, dev_size=dev_size)
        assert found.label_names == names
        assert found.trn.Y.shape == (3, 4)


def test_relevances_uids_and_missing_texts_of_the_repository(tmp_path):
    documents = [
        {"uid": "a", "title": " x ", "content": None, "target_ind": [1, 0], "target_rel": [0.5, 0]},
        {"target_ind": [0]},
    ]
    text = "\n".join(map(json.dumps, documents))
    write(tmp_path, {"trn.json": text + "\n\n", "lbl.json": '{"uid": "B00", "title": ""}\n{"uid": 7, "title": "t"}'})
    found = load_dataset(tmp_path)
    np.testing.assert_array_equal(found.trn.Y.toarray(), [[0, 0.5], [1, 0]])
    assert found.trn.Y.nnz == 2
    assert found.trn.texts == ["x", ""]
    assert found.label_names == ["B00", "t"]


def test_a_matrix_of_text_without_names_has_numbers(tmp_path):
    write(tmp_path, {"trn_X_Xf.txt": "2 3\n0:1\n2:1e-1 0:2\n", "trn_X_Y.txt": "2 2\r\n0:1\r\n\r\n"})
    found = load_dataset(tmp_path)
    assert found.label_names == ["0", "1"]
    np.testing.assert_array_equal(found.trn.Y.toarray(), [[1, 0], [0, 0]])
    np.testing.assert_array_equal(found.trn.X.toarray(), np.float32([[1, 0, 0], [2, 0, 0.1]]))


LBL = '{"title": "a"}\n{"title": "b"}\n'
BROKEN = {
    "no object": ({"trn.json": '["a"]\n', "lbl.json": LBL}, r"trn\.json: line 1 is no JSON object"),
    "cut": ({"trn.json": '{"target_ind": [0]}\n{"targ', "lbl.json": LBL}, r"trn\.json: line 2 is no JSON object"),
    "deep": ({"trn.json": "[" * 10**5, "lbl.json": LBL}, r"trn\.json: line 1 is no JSON object"),
    "no labels": ({"trn.json": '{"title": "a"}\n', "lbl.json": LBL}, r"line 1: target_ind must be a list .* 0 to 1"),
    "too large": ({"trn.json": '{"target_ind": [2]}\n', "lbl.json": LBL}, r"line 1: target_ind must be .* 0 to 1"),
    "negative": ({"trn.json": '{"target_ind": [-1]}\n', "lbl.json": LBL}, "line 1: target_ind must be"),
    "boolean": ({"trn.json": '{"target_ind": [true]}\n', "lbl.json": LBL}, "line 1: target_ind must be"),
    "fewer": ({"trn.json": '{"target_ind": [0], "target_rel": []}', "lbl.json": LBL}, "line 1: target_rel must be"),
    "nan": ({"trn.json": '{"target_ind": [0], "target_rel": [NaN]}', "lbl.json": LBL}, "line 1: target_rel must be"),
    "huge": ({"trn.json": '{"target_ind": [0], "target_rel": [1e39]}', "lbl.json": LBL}, "line 1: target_rel must be"),
    "minus": ({"trn.json": '{"target_ind": [0], "target_rel": [-1]}', "lbl.json": LBL}, "row 0 holds a negative value"),
    "title": ({"trn.json": '{"target_ind": [0], "title": ["a"]}', "lbl.json": LBL}, "line 1: title holds a list"),
    "no names": ({"trn.json": '{"target_ind": [0]}'}, r"trn\.json: no label names beside it, .*lbl\.json"),
    "bad names": ({"trn.json": '{"target_ind": [0]}', "lbl.json": "a\nb\n"}, r"lbl\.json: line 1 is no JSON object"),
    "empty": ({"trn.json.gz": "", "lbl.json": LBL}, r"trn\.json\.gz: no rows"),
    "header": ({"trn_X_Y.txt": "1 2 3\n", "trn_X_Xf.txt": "1 1\n0:1\n"}, r"Y\.txt: line 1 is '1 2 3', not the two"),
    "column": ({"trn_X_Y.txt": "1 2\n2:1\n", "trn_X_Xf.txt": "1 1\n0:1\n"}, "line 2: '2:1' is a column of 2 or more"),
    "list": ({"trn_X_Y.txt": "1 2\n0,1\n", "trn_X_Xf.txt": "1 1\n0:1\n"}, "line 2: '0,1' is no column:value pair"),
    "short": ({"trn_X_Y.txt": "2 2\n0:1\n", "trn_X_Xf.txt": "1 1\n0:1\n"}, "ends after line 2, .* promises 2"),
    "long": ({"trn_X_Y.txt": "1 2\n0:1\n1:1\n", "trn_X_Xf.txt": "1 1\n0:1\n"}, "goes on in line 3, .* promises 1"),
    "apart": ({"trn_X_Y.txt": "1 2\n0:1\n", "trn_X_Xf.txt": "2 1\n0:1\n\n"}, r"Xf\.txt: 2 documents, .*Y\.txt has 1"),
    "wide": (
        {"trn_X_Y.txt": "1 99999999\n0:1\n", "trn_X_Xf.txt": "1 1\n0:1\n"},
        r"Y\.txt: 99999999 labels, of which 1",
    ),
    "lines": ({"train_labels.txt": "a\nb\n", "train_texts.txt": "one\n"}, r"train_texts\.txt: 1 documents, .* has 2"),
    "none": ({"train_labels.txt": "\n", "train_texts.txt": "one\n"}, r"train_labels\.txt: no label columns"),
    "utf-8": ({"train_labels.txt": b"a\n\xff\n", "train_texts.txt": "one\n"}, r"labels\.txt: line 2 is not UTF-8"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_folders(tmp_path, what):
    files, message = BROKEN[what]
    write(tmp_path, files)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load_dataset(tmp_path)
    assert "\n" not in str(error.value)


def test_lines_that_cross_the_pieces_that_are_read(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["é" * int(n) for n in rng.integers(0, 3 * CHUNK // 2, 12)] + ["", "x\x0cy", ""]
    for ending, last in (("\n", "\n"), ("\r\n", ""), ("\n", "end")):
        path = tmp_path / "t.txt.gz"
        path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + (ending.join(lines) + last).encode(), 1))
        expected = lines[:-1] if last == "" else [*lines[:-1], lines[-1] + last.strip("\n")]
        assert read_lines(path) == expected


def test_large_texts_are_in_memory_once(tmp_path):
    size = 30 * CHUNK
    (tmp_path / "t.txt").write_text("".join("x" * 999 + "\n" for _ in range(size // 1000)))
    tracemalloc.start()
    lines = read_lines(tmp_path / "t.txt")
    most = tracemalloc.get_traced_memory()[1]
    assert len(lines) == size // 1000
    assert most < 1.3 * size
    tracemalloc.reset_peak()
    del lines
    tracemalloc.reset_peak()
    assert sum(map(len, iter_lines(tmp_path / "t.txt"))) == size // 1000 * 999
    assert tracemalloc.get_traced_memory()[1] < 0.2 * size
    tracemalloc.stop()


def test_matrices_of_text_against_scipy():
    rng = np.random.default_rng(1)
    A = sp.random(60, 40, 0.2, "csr", np.float32, rng=rng)
    found = parse_matrix(matrix_lines(A.toarray().astype(float)).encode(), "f.txt")
    assert found.has_sorted_indices
    np.testing.assert_array_equal(found.toarray(), A.toarray())
