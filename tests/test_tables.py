"""Texts and labels from files as people have them, and the data-set folders made of them."""

import builtins
import gzip
import io
import json
import sys

import numpy as np
import pytest

from xrt_jax.data.tables import as_labels, as_text, cells, kind_of, read_table, read_texts
from xrt_jax.make_data import Documents, make_dataset, split, summary

TEXTS = ['a "quoted" one', "two, with a comma", "three\x0c", "ä"]
LABELS = [["x", "y z"], ["x"], [], ["ö"]]
FILES = {
    "t.csv": 'id,text,labels\r\n0,"a ""quoted"" one",x|y z\r\n1,"two, with a comma",x\r\n\r\n2,three\x0c,\r\n3,ä,|ö|ö',
    "t.tsv": 'text\tlabels\na "quoted" one\tx| y z\ntwo, with a comma\tx\nthree\x0c\t\nä\tö\n',
    "t.jsonl": "\n".join(json.dumps({"labels": a, "text": b}) for a, b in zip(LABELS, TEXTS, strict=True)),
}


def columns(path, **settings):
    table = read_table(str(path), ["text", "labels"], **settings)
    return cells(table, "text", as_text), cells(table, "labels", as_labels, "|")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("packed", [False, True])
def test_each_format_gives_the_same(tmp_path, name, packed):
    path = tmp_path / (name + ".gz" * packed)
    data = b"\xef\xbb\xbf" + FILES[name].encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    assert columns(path) == (TEXTS, LABELS)
    assert read_texts(str(path), "text") == TEXTS


def test_lines_and_standard_input(tmp_path, monkeypatch):
    (tmp_path / "t.txt").write_text("one\n\ntwo, three\n")
    assert read_texts(str(tmp_path / "t.txt"), "any") == ["one", "", "two, three"]
    for kind, data in ((None, "a\nb\n"), ("csv", "text\na\nb\n")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.encode())))
        assert read_texts("-", "text", kind=kind) == ["a", "b"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(ValueError, match="standard input holds no texts"):
        read_texts("-", "text")


def test_formats_by_name():
    names = ["a.csv", "b.TSV.gz", "c.ndjson", "d.v1.jsonl.xz", "e.parquet", "f.txt.gz", "g"]
    assert [kind_of(name) for name in names] == ["csv", "tsv", "jsonl", "jsonl", "parquet", "lines", "lines"]


def test_texts_of_several_lines_become_one():
    assert as_text("a\r\nb\n\nc") == "a b c"
    assert [as_text(cell) for cell in (None, 3, 0.5)] == ["", "3", "0.5"]
    assert as_labels(["a|b", 3, " "], "|") == ["a|b", "3"]


def test_rows_of_quoted_fields_are_known_by_their_first_line(tmp_path):
    (tmp_path / "t.csv").write_text('text,labels\n"a\nb",x\nc,y\n')
    assert read_table(str(tmp_path / "t.csv"), ["text"]).places == ["line 2", "line 4"]
    assert read_texts(str(tmp_path / "t.csv"), "text") == ["a b", "c"]
    (tmp_path / "t.csv").write_text(f"text\n{'a' * 200_000}\n")
    assert len(read_texts(str(tmp_path / "t.csv"), "text")[0]) == 200_000


BAD = {
    "no column.csv": ("title\na\n", "has no column 'text'; its columns are 'title'"),
    "empty.csv": ("", "has no column 'text'"),
    "wide.csv": ("text,labels\na,x\nb,x,y\nc\n", "line 3 has 3 fields; line 4 has 1 fields: .* names 2 columns"),
    "many.tsv": ("text\tlabels\n" + "a\n" * 9, "line 2 .* line 4 has 1 fields; and 6 more such rows"),
    "quotes.csv": ('text,labels\na,x\n"b" c,x\n', "line 3: .*mend the quotes"),
    "open.csv": ('text,labels\na,x\n"b,x\n', "mend the quotes"),
    "no json.jsonl": ('{"text": "a", "labels": []}\n{"text": \n', "line 2 is no JSON object: .*text, labels"),
    "no object.jsonl": ('["a"]\n', "line 1 is no JSON object"),
    "no key.jsonl": ('{"text": "a", "labels": []}\n{"text": "a"}\n', "line 2 has no 'labels'"),
    "list.jsonl": ('{"text": ["a"], "labels": []}\n', "line 1 holds a list, not a text: .*'text'"),
    "half.jsonl": ('{"text": "\\ud800", "labels": []}\n', "line 1 .*surrogates"),
    "true.jsonl": ('{"text": "a", "labels": [true]}\n', "line 1 holds a bool, not a text: .*'labels'"),
    "bytes.csv": (b"text,labels\n\xff,x\n", "line 2 is not UTF-8"),
    "bad.gz": (b"no", "cannot be unpacked"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_told_in_one_line(tmp_path, name):
    data, message = BAD[name]
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(ValueError, match=rf"{name}.*{message}") as error:
        columns(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_missing_file():
    with pytest.raises(FileNotFoundError, match=r"none\.csv: there is no such file"):
        read_table("none.csv", ["text"])


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"text": [*TEXTS[:3], None], "labels": [*LABELS[:3], None]}), path)
    assert columns(path) == ([*TEXTS[:3], ""], [*LABELS[:3], []])
    with pytest.raises(ValueError, match="has no column 'title'; its columns are 'text', 'labels'"):
        read_texts(str(path), "title")
    path.write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"t\.parquet: cannot be read as Parquet"):
        read_texts(str(path), "text")


def test_parquet_of_other_writers(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path, texts = tmp_path / "t.parquet", pyarrow.array(["b", "a", None, "a"])
    for column in (
        texts.dictionary_encode(),
        texts.cast(pyarrow.large_string()),
        texts.cast(pyarrow.string_view()),
        texts.cast(pyarrow.large_string()).dictionary_encode(),
    ):
        parquet.write_table(pyarrow.table({"text": column}), path)
        assert read_texts(str(path), "text") == ["b", "a", "", "a"]
    parquet.write_table(pyarrow.table({"text": pyarrow.array([3, None, 2]).dictionary_encode()}), path)
    assert read_texts(str(path), "text") == ["3", "", "2"]


def test_parquet_that_holds_no_texts(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path, long = tmp_path / "t.parquet", pyarrow.array(["x" * 2**20])
    indices = pyarrow.array([0] * 4096)
    for columns, message in [
        ([pyarrow.array([True])], "the column 'text' holds bool: it needs texts, numbers or lists of them"),
        ([pyarrow.array([[["x"]]])], "the column 'text' holds list<.*list<.*: it needs texts"),
        ([pyarrow.array(["a"]), pyarrow.array(["b"])], "has the column 'text' twice: rename one of them"),
        ([pyarrow.array([b"\xff"]).view(pyarrow.string())], "cannot be read as Parquet .*'utf-8' codec can't decode"),
        ([pyarrow.DictionaryArray.from_arrays(indices, long)], "unpacks to more than .* bytes"),
    ]:
        parquet.write_table(pyarrow.Table.from_arrays(columns, ["text"] * len(columns)), path)
        with pytest.raises(ValueError, match=rf"t\.parquet.*{message}") as error:
            read_texts(str(path), "text")
        assert "\n" not in str(error.value)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    plain = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"t\.parquet: Parquet needs pyarrow.*pip install pyarrow"):
        read_texts(str(tmp_path / "t.parquet"), "text")


# ---------------------------------------------------------------------------- data sets


def documents(n):
    return Documents([f"text {row % (n - 5)}" for row in range(n)], [[f"label {row % 7}"] for row in range(n)])


def test_the_split_is_whole_and_keeps_equal_texts_together():
    whole = documents(105)
    parts = split(whole, {"dev": 0.1, "tst": 0.25}, seed=0)
    assert list(parts) == ["trn", "dev", "tst"]
    assert sorted(text for part in parts.values() for text in part.texts) == sorted(whole.texts)
    distinct = [set(part.texts) for part in parts.values()]
    assert [len(texts) for texts in distinct] == [65, 10, 25] and len(set.union(*distinct)) == 100
    assert parts == split(whole, {"dev": 0.1, "tst": 0.25}, seed=0) != split(whole, {"dev": 0.1, "tst": 0.25}, seed=1)
    assert list(split(whole, {"dev": 0.0, "tst": 0.1}, seed=0)) == ["trn", "tst"]
    with pytest.raises(ValueError, match="leave none for training"):
        split(documents(7), {"dev": 0.5, "tst": 0.5}, seed=0)


def test_rare_labels_are_dropped_and_told():
    parts = {"trn": Documents(["a", "b", "c"], [["y", "x"], ["y"], ["z"]]), "tst": Documents(["d"], [["x", "w"]])}
    dataset = make_dataset(parts, 1)
    assert dataset.label_names == ["w", "x", "y", "z"] and dataset.dev is None
    np.testing.assert_array_equal(dataset.trn.Y.toarray(), [[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(dataset.tst.Y.toarray(), [[1, 1, 0, 0]])
    told = summary(dataset)
    assert "3 / – / 1 (training / validation / test)" in told and "1 in no training text" in told
    assert "3 with fewer than 5 training texts, 2 of them with one" in told
    dataset = make_dataset(parts, 2)
    assert dataset.label_names == ["x", "y"] and dataset.trn.texts == ["a", "b"]
    with pytest.raises(ValueError, match="no text of the split tst has a label that 3 texts have"):
        make_dataset(parts | {"trn": Documents(["a"] * 3, [["y"]] * 3)}, 3)
