"""The embedded corpus, on small made-up source trees."""

import gc
import json
import re

import numpy as np
import pytest

from xrt_jax.data.docstrings import (
    _choose,
    _code_words,
    _naming,
    _without_code,
    _without_identifiers,
    _words,
    build_docstring_dataset,
    main,
    near_duplicate_groups,
)
from xrt_jax.data.folders import load_dataset
from xrt_jax.data.python_code import Document


def test_code_is_no_prose():
    text = """join(a, *p) -> str

    First line of prose.

    >>> join(1)
    output

    Second::

        code = 1

        more

    Third.

    ```python
    fenced
    ```
    .. code-block:: python

       blocked

    .. note:: remains
    -------
    Last (really).
    """
    assert _without_code(text) == "First line of prose. Second:: Third. .. note:: remains Last (really)."


def test_identifiers_go_and_words_stay():
    text = (
        "Uses os.path.join, join(), join(a) and `join` or JOIN_ALL to join(s) a join. See np.sum, ValueError, my_join."
    )
    cleaned = _without_identifiers(text, _naming({"os.path.join", "raise ValueError", ".my_join"}))
    assert " ".join(cleaned.split()) == "Uses , ), a) and ` ` or JOIN_ALL to join(s) a join. See np.sum, , ."


def test_code_words_are_rare_or_telling():
    def document(text, *labels):
        return Document("p", text, text, frozenset(labels))

    documents = [document(f"we sort the thing {row}", ".sort" if row < 100 else ".other") for row in range(2500)]
    documents += [document(f"the reshape of {row}", ".reshape" if row < 5 else ".other") for row in range(20)]
    documents += [document("a rare asarray", ".other"), document("nothing", "numpy.asarray")]
    # sort: 100 of 2,500 texts that have it carry the label; reshape: 5 of 20; asarray: 1 text of 2,522.
    assert _code_words(documents) == {"reshape", "asarray"}


def shingles(text):
    words = _words(text)
    return {tuple(words[start : start + 3]) for start in range(len(words) - 2)}


def exact_jaccard(a, b):
    return len(a & b) / len(a | b)


def test_near_duplicates_against_exact_overlap():
    rng = np.random.default_rng(0)
    words = [a + b + c for a in "bdfgk" for b in "aeiou" for c in "lmnr"]
    originals = [" ".join(rng.choice(words, size=60)) for _ in range(60)]
    copies = []
    for text in originals:
        changed = text.split()
        for place in rng.choice(60, size=rng.integers(0, 4), replace=False):
            changed[place] = rng.choice(words)
        copies.append(" ".join(changed))
    groups = near_duplicate_groups(originals + copies)
    for row in range(60):
        similarity = exact_jaccard(shingles(originals[row]), shingles(copies[row]))
        assert similarity < 0.7 or groups[row] == groups[60 + row]
    assert len(set(groups[:60])) == 60


def test_near_duplicates_of_tiny_texts():
    groups = near_duplicate_groups(
        ["", "one", "one two", "one two three", "one two three", "Uses FooBar now", "Uses x_y now"]
    )
    assert groups[3] == groups[4]
    assert groups[5] == groups[6]
    assert len(set(groups)) == 5


def test_choice_drops_copies_and_caps_packages():
    texts = ["alpha beta gamma delta epsilon zeta eta theta " + word for word in ("one", "two", "three", "four")]
    documents = [Document("big", f"big.{text}", text, frozenset("ab")) for text in texts]
    copy = Document("small", "small.copy", texts[0].upper(), frozenset("ab"))
    other = Document("small", "small.other", texts[0] + " other", frozenset("ab"))
    short = Document("small", "small.short", "too short", frozenset("ab"))
    chosen = _choose([*documents, copy, other, short], 10, 2, seed=0)
    assert [document.package for document in chosen].count("big") <= 2
    assert other in chosen
    assert short not in chosen
    words = [" ".join(_words(document.text)) for document in chosen]
    assert len(set(words)) == len(words)
    assert len(_choose(documents, 3, 10, seed=0)) == 3
    assert _choose(documents[::-1], 3, 10, seed=0) == _choose(documents, 3, 10, seed=0)
    assert any(_choose(documents, 3, 10, seed=seed) != _choose(documents, 3, 10, seed=0) for seed in range(1, 9))


def write_tree(root, nr_functions=300):
    """Two packages whose functions say in prose what they call; every third text has a near-duplicate."""
    rng = np.random.default_rng(0)
    calls = {
        "writes rows to disk": "os.path.join(a, 'x'); json.dumps(a)",
        "finds patterns in lines": "re.compile(a); a.split()",
        "orders numbers": "sorted(a); math.sqrt(a)",
        "refuses broken values": "raise TypeError(a.strip())",
        "keeps dates": "datetime.date(a); time.sleep(a)",
        "walks folders": "os.walk(a); a.close()",
    }
    calls |= {f"does errand {'abcdefghijklmnopqr'[n]}": f"tool{n}.run{n}(a); tool{n}.stop{n}(a)" for n in range(18)}
    words = [a + b + c + d for a in "bdfgk" for b in "aeiou" for c in "lmnr" for d in "ao"]
    for package in ("one", "two"):
        lines = ["import datetime, json, math, os, re, time", *(f"import tool{n}" for n in range(18))]
        for number in range(nr_functions // 2):
            if number % 3 != 2:
                prose, filler = list(calls)[rng.integers(len(calls))], " ".join(rng.choice(words, size=30))
            else:
                filler = f"{filler} {rng.choice(words)}"
            lines.append(f'def f{number}(a):\n    """It {prose} with os.path.join() and `sorted` {filler}."""')
            lines.append(f"    {calls[prose]}\n    return len(a)")
        (root / package / "tests").mkdir(parents=True)
        (root / package / "code.py").write_text("\n".join(lines), encoding="utf-8")
        (root / package / "tests" / "code.py").write_text("\n".join(lines), encoding="utf-8")
    return root


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_build_from_a_source_tree(tmp_path):
    tree = write_tree(tmp_path / "tree")
    folder = build_docstring_dataset(tmp_path / "out", sources=[tree])
    dataset = load_dataset(folder)
    names = set(dataset.label_names)
    assert {"os.path.join", "json.dumps", ".split", "sorted", "raise TypeError", "import re", "os.walk"} <= names
    assert "len" not in names  # on every document
    splits = (dataset.trn, dataset.dev, dataset.tst)
    texts = [text for split in splits for text in split.texts]
    sides = np.repeat([0, 1, 2], [len(split.texts) for split in splits])
    meta = json.loads((folder / "meta.json").read_text())
    assert list(meta["documents"].values()) == [len(split.texts) for split in splits]
    assert 150 < len(texts) <= 300
    assert 0.6 < (sides == 0).mean() < 0.95

    for split in splits:
        counts = np.diff(split.Y.indptr)
        assert (counts >= 2).all()
        for row, text in enumerate(split.texts):
            assert "writes rows to disk" in text or not {"json.dumps"} & {
                dataset.label_names[label] for label in split.Y[row].indices
            }
    assert not any(re.search(r"os\.path|join|sorted", text) for text in texts)

    sets = [shingles(text) for text in texts]
    near = [[exact_jaccard(a, b) >= 0.7 for a in sets] for b in sets]
    rows, columns = np.nonzero(np.triu(near, k=1))
    assert len(rows) > 20
    assert (sides[rows] == sides[columns]).all()
    assert meta["near_duplicate_groups"]["documents"] >= len(set(rows) | set(columns))


def test_same_build_same_bytes_and_reuse(tmp_path):
    tree = write_tree(tmp_path / "tree")
    first = build_docstring_dataset(tmp_path / "a", sources=[tree])
    second = build_docstring_dataset(tmp_path / "b", sources=[tree])
    texts = (first / "X.trn.txt").read_bytes()
    assert files_of(first) == files_of(second)
    assert gc.isenabled()  # the build goes without the search for cycles

    (first / "X.trn.txt").write_text("touched")
    build_docstring_dataset(first, sources=[tree])
    assert (first / "X.trn.txt").read_text() == "touched"  # reused
    build_docstring_dataset(first, sources=[tree], seed=1)
    assert (first / "X.trn.txt").read_bytes() not in (b"touched", texts)
    (tree / "one" / "new.py").write_text("x = 1\n")
    before = json.loads((first / "meta.json").read_text())["fingerprint"]
    build_docstring_dataset(first, sources=[tree], seed=1)
    assert json.loads((first / "meta.json").read_text())["fingerprint"] != before


def test_build_refuses(tmp_path):
    tree = write_tree(tmp_path / "tree", 4)
    with pytest.raises(ValueError, match="2 Python files give 0 usable documents"):
        build_docstring_dataset(tmp_path / "out", sources=[tree])
    used = tmp_path / "used"
    used.mkdir()
    (used / "X.trn.txt").write_text("mine\n")
    with pytest.raises(ValueError, match="not empty and no docstring data set"):
        build_docstring_dataset(used, sources=[tree])
    assert (used / "X.trn.txt").read_text() == "mine\n"


def test_command(tmp_path, capsys):
    tree = write_tree(tmp_path / "tree")
    main([f"--source={tree}", f"--out={tmp_path / 'out'}", "--nr_documents=120"])
    assert sum(json.loads(capsys.readouterr().out)["documents"].values()) <= 120
    with pytest.raises(SystemExit) as stop:
        main([f"--source={tmp_path / 'nowhere'}", f"--out={tmp_path / 'out'}"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
