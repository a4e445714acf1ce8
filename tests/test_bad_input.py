"""Whatever comes in, either the right result comes out or one line that says what is wrong."""

import math
import re
import zipfile

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xrt_jax.data.svmlight import parse_svmlight
from xrt_jax.npz import load_npz
from xrt_jax.sparse import Features, as_features, canonical, nr_features
from xrt_jax.tree.chain import binary_depth
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.label_embedding import pifa, pifa_product
from xrt_jax.xlinear.predict import predict
from xrt_jax.xlinear.train import train_ranker

examples = settings(
    deadline=None,
    max_examples=50,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
floats = st.floats(-4, 4, width=32)


def one_line(error) -> str:
    message = str(error.value if hasattr(error, "value") else error)
    assert message and "\n" not in message
    return message


# ---------------------------------------------------------------------------- npz files


def assert_valid(A):
    assert A.format in ("csr", "csc") and A.dtype == np.float32 and isinstance(A, sp.spmatrix)
    A.check_format(full_check=True)
    assert np.isfinite(A.data).all()


@examples
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
    keep=st.one_of(st.none(), st.floats(0, 1, exclude_max=True)),
    fmt=st.sampled_from(["csr", "csc", "coo"]),
    compressed=st.booleans(),
)
def test_damaged_npz(tmp_path, flips, keep, fmt, compressed):
    path = tmp_path / "damaged.npz"
    A = sp.random(6, 9, 0.3, format=fmt, dtype=np.float32, random_state=0)
    sp.save_npz(path, A, compressed=compressed)
    data = bytearray(path.read_bytes())
    for place, change in flips:
        data[int(place * len(data))] ^= change
    path.write_bytes(data if keep is None else data[: int(keep * len(data))])
    try:
        found = load_npz(path)
    except ValueError as error:
        assert str(path) in one_line(error)
        assert flips or keep is not None
    else:
        assert_valid(found)
        np.testing.assert_array_equal(found.toarray(), A.toarray())  # what was hit has no meaning


def write_arrays(path, arrays, unread=b""):
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, np.asanyarray(array))
                file.write(unread if name == "data" else b"")


def expected_dense(fmt, shape, data, indices, indptr):
    """The matrix entry by entry, or None where the arrays are none."""
    shape_major = shape if fmt == "csr" else shape[::-1]
    rises = len(indptr) == shape_major[0] + 1 and indptr[0] == 0 and all(np.diff(indptr) >= 0)
    if not rises or indptr[-1] != len(indices) or len(indices) != len(data):
        return None
    if any(not 0 <= index < shape_major[1] for index in indices) or not all(map(math.isfinite, data)):
        return None
    dense = np.zeros(shape_major)
    for major in range(shape_major[0]):
        for k in range(indptr[major], indptr[major + 1]):
            dense[major, indices[k]] += data[k]
    return dense if fmt == "csr" else dense.T


@examples
@given(
    fmt=st.sampled_from(["csr", "csc"]),
    shape=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    steps=st.lists(st.one_of(st.integers(0, 2), st.integers(-1, 3)), max_size=3),
    indices=st.lists(st.one_of(st.integers(0, 2), st.integers(-1, 3)), max_size=6),
    values=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    extra=st.sampled_from([0, 0, 0, 0, 1]),
    fit=st.booleans(),
    dtype=st.sampled_from([np.int32, np.int64, np.uint16, np.uint64]),
)
def test_npz_of_arrays_that_may_not_fit(tmp_path, fmt, shape, steps, indices, values, extra, fit, dtype):
    if fit:  # as many steps as rows, as many indices as they say: else hardly an example would be valid
        major = shape[0] if fmt == "csr" else shape[1]
        steps = (steps + [0, 1, 2])[:major]
        indices = (indices + values)[: max(sum(steps), 0)]
    indptr = np.concatenate([[0], np.cumsum(np.array(steps, int))])
    arrays = {"indices": np.array(indices).astype(dtype), "indptr": indptr.astype(dtype)}
    data = np.array(values[: len(indices)] + [1] * extra, np.float64)
    expected = expected_dense(fmt, shape, data, arrays["indices"].tolist(), arrays["indptr"].tolist())
    write_arrays(tmp_path / "A.npz", {"format": fmt.encode(), "shape": shape, "data": data, **arrays})
    if expected is None:
        with pytest.raises(ValueError, match=r"A\.npz") as error:
            load_npz(tmp_path / "A.npz")
        one_line(error)
        return
    A = load_npz(tmp_path / "A.npz")
    assert_valid(A)
    for fmt_asked in ("csr", "csc"):
        B = canonical(A, fmt_asked)
        assert B.has_canonical_format and B.indices.dtype == np.int32
        np.testing.assert_array_equal(B.toarray(), expected)


FINE = {"format": b"csr", "shape": [2, 2], "data": [1.0, 2], "indices": [1, 0], "indptr": [0, 1, 2]}
COO = {"format": b"coo", "shape": [2, 2], "data": [1.0, 2], "row": [0, 1], "col": [1, 0]}
REFUSED = {
    "nan": (FINE | {"data": [1, np.nan]}, "row 1 holds NaN or infinity"),
    "beyond float32": (FINE | {"data": [1, -1e300]}, "row 1 holds NaN or infinity"),
    "nan in csc": (FINE | {"format": b"csc", "data": [1, np.nan]}, "row 0 holds NaN or infinity"),
    "complex": (FINE | {"data": [1, 1j]}, "complex128"),
    "text": (FINE | {"data": ["1", "2"]}, "type <U1"),
    "dates": (FINE | {"data": np.array([1, 2], "M8[s]")}, "datetime64"),
    "pickle": (FINE | {"data": np.array([1, {}], object)}, "not a sparse matrix"),
    "pickled format": (FINE | {"format": np.array("csr", object)}, "not a sparse matrix"),
    "float indices": (FINE | {"indices": [1.0, 0.5]}, "integers"),
    "float rows": (COO | {"row": [0.0, 1.5]}, "integers"),
    "row out of range": (COO | {"row": [0, 2]}, "not a sparse matrix"),
    "negative column": (COO | {"col": [0, -1]}, "not a sparse matrix"),
    "two-dimensional data": (FINE | {"data": [[1.0], [2.0]]}, "2 values"),
    "two-dimensional indptr": (FINE | {"indptr": [[0, 1, 2]]}, "1-D"),
    "three axes": (FINE | {"shape": [2, 2, 2]}, "its shape"),
    "negative shape": (FINE | {"shape": [2, -2]}, "its shape"),
    "float shape": (FINE | {"shape": [2.0, 2.0]}, "its shape"),
    "falling indptr without entries": (FINE | {"indptr": [0, 2, 0], "data": [], "indices": np.zeros(0, int)}, "rise"),
    "indptr that ends early": (FINE | {"indptr": [0, 1, 1]}, "2 values and 2 indices, but indptr ends at 1"),
    "indptr that ends late": (FINE | {"indptr": [0, 1, 3]}, "indptr ends at 3, behind the stored entries"),
    "another format": (FINE | {"format": b"dok"}, "'dok', not csr, csc or coo"),
    "no format": ({"data": [1.0]}, "format"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_npz(tmp_path, what):
    arrays, message = REFUSED[what]
    write_arrays(tmp_path / "A.npz", arrays)
    with pytest.raises(ValueError, match=rf"A\.npz.*{message}") as error:
        load_npz(tmp_path / "A.npz")
    one_line(error)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint64, np.float16, np.float64, np.longdouble, ">f4"])
def test_npz_of_other_number_types(tmp_path, dtype):
    for arrays in (FINE, COO, FINE | {"format": np.array("csr"), "_is_array": True}):
        write_arrays(tmp_path / "A.npz", arrays | {"data": np.ones(2, dtype)})
        assert_valid(load_npz(tmp_path / "A.npz"))
        np.testing.assert_array_equal(load_npz(tmp_path / "A.npz").toarray(), [[0, 1], [1, 0]])


def test_npz_with_bytes_behind_an_array(tmp_path):
    write_arrays(tmp_path / "A.npz", FINE, unread=b"\0")
    with pytest.raises(ValueError, match="more than its header says"):
        load_npz(tmp_path / "A.npz")


# ---------------------------------------------------------------------------- matrices in memory


def tampered(**arrays):
    A = sp.csr_matrix(np.array([[0, 1], [2, 0]], np.float32))
    for name, array in arrays.items():
        setattr(A, name, np.array(array))
    return A


REFUSED_MATRICES = {
    "index": tampered(indices=[1, 2]),
    "negative index": tampered(indices=[1, -1]),
    "indptr falls": tampered(indptr=[0, 2, 1]),
    "indptr goes on": tampered(indptr=[0, 1, 3]),
    "indptr starts late": tampered(indptr=[1, 1, 2]),
    "indptr too short": tampered(indptr=[0, 2]),
    "too few values": tampered(data=[1.0]),
    "complex": sp.csr_matrix(np.array([[1j]])),
    "object": np.array([[1, 2]], object),
    "text": np.array([["1", "2"]]),
    "one axis": np.ones(3),
    "one sparse axis": sp.coo_array(np.ones(3)),
    "three axes": np.ones((2, 2, 2)),
    "a number": np.float32(3),
}


@pytest.mark.parametrize("what", REFUSED_MATRICES)
def test_refused_matrices(what):
    A = REFUSED_MATRICES[what]
    for use in (as_features, lambda A: canonical(A, "csr"), lambda A: canonical(A, "csc")):
        with pytest.raises(ValueError) as error:
            use(A)
        one_line(error)
    for X in (Features(A, None), Features(None, A)):
        with pytest.raises(ValueError):
            as_features(X)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint64, np.float16, np.float64, ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_dense_features_of_other_number_types(dtype, order):
    E = np.array([[0, 1, 1], [1, 0, 1]], dtype=dtype, order=order)
    for values in (E, np.repeat(E, 2, axis=1)[:, ::2]):
        dense = as_features(values).dense
        assert dense.dtype == np.float32 and dense.dtype.isnative and dense.flags.c_contiguous
        np.testing.assert_array_equal(dense, E.astype(float))


# ---------------------------------------------------------------------------- tiny problems


@st.composite
def matrices(draw, nr_rows, nr_columns, values):
    entries = draw(st.lists(values, min_size=nr_rows * nr_columns, max_size=nr_rows * nr_columns))
    keep = draw(st.lists(st.booleans(), min_size=len(entries), max_size=len(entries)))
    A = np.where(keep, entries, 0).reshape(nr_rows, nr_columns).astype(np.float32)
    return A * draw(st.sampled_from([0, 1, 1, 1, 1, 1]))


@st.composite
def problems(draw):
    """(X, Y): X sparse, dense or both parts; Y csr."""
    nr_rows, nr_labels = draw(st.integers(1, 12)), draw(st.integers(1, 9))
    dense = draw(matrices(nr_rows, draw(st.integers(1, 8)), floats))
    Y = sp.csr_matrix(draw(matrices(nr_rows, nr_labels, st.just(1.0))))
    cut = draw(st.integers(0, dense.shape[1]))
    parts = Features(sp.csr_matrix(dense[:, :cut]), dense[:, cut:])
    return draw(st.sampled_from([dense, sp.csr_matrix(dense), sp.csc_matrix(dense), parts])), Y


@st.composite
def trees(draw):
    """Settings of hierarchical_kmeans."""
    return {
        "max_leaf_size": draw(st.integers(1, 9)),
        "nr_splits": draw(st.integers(2, 4)),
        "min_codes": draw(st.sampled_from([None, 1, 2, 3])),
        "spherical": draw(st.booleans()),
        "kmeans_max_iter": draw(st.integers(1, 3)),
    }


def grow(X, Y, tree):
    """The tree, with the smallest larger max_leaf_size that leaves no leaf empty."""
    Z = pifa_product(Y, X)
    for max_leaf_size in range(tree["max_leaf_size"], 10):
        try:
            return hierarchical_kmeans(Z, **tree | {"max_leaf_size": max_leaf_size})
        except ValueError as error:
            assert "raise it" in one_line(error)
            with pytest.raises(ValueError):
                binary_depth(Y.shape[1], max_leaf_size)
    raise AssertionError("9 labels always fit into one leaf of 9")


def all_scores(ranker, X) -> np.ndarray:
    """The score of every label, path by path: the product of its ancestors' scores and its own."""
    parts = [part for part in as_features(X) if part is not None]
    dense = np.hstack([part.toarray() if sp.issparse(part) else part for part in parts]).astype(float)
    scores = np.ones((len(dense), 1))
    for level in ranker:
        with_bias = np.hstack([dense, np.full((len(dense), 1), level.bias)]) if level.bias > 0 else dense
        raw = with_bias @ level.W.toarray().astype(float)
        scores = np.exp(-(np.maximum(0, 1 - raw) ** 3)) * (scores @ level.C.toarray().T)
    return scores


@examples
@given(
    problem=problems(),
    tree=trees(),
    mining=st.sampled_from(["tfn", "man", "tfn+man"]),
    bias=st.sampled_from([1.0, 0.0]),
    solver=st.sampled_from([{}, {"threshold": (0.0,)}, {"max_nonzeros_per_label": (1,)}, {"Cp": (4.0,), "Cn": (0.5,)}]),
)
def test_tiny_problems_from_end_to_end(problem, tree, mining, bias, solver):
    X, Y = problem
    nr_rows, nr_labels = Y.shape
    chain = grow(X, Y, tree)
    assert sum(np.asarray(chain[-1].sum(axis=1)).ravel() == 1) == nr_labels
    ranker = train_ranker(X, Y, chain, negative_sampling=(mining,), bias=bias, **solver)
    assert ranker[-1].W.shape == (nr_features(X) + (bias > 0), nr_labels)
    scores = predict(ranker, X, beam_size=9, only_topk=9)
    assert scores.shape == (nr_rows, nr_labels)
    expected = all_scores(ranker, X)
    for row in range(nr_rows):
        labels = scores.indices[scores.indptr[row] : scores.indptr[row + 1]]
        values = scores.data[scores.indptr[row] : scores.indptr[row + 1]]
        assert sorted(labels) == list(range(nr_labels))
        assert np.isfinite(values).all() and (np.diff(values) <= 0).all()
        np.testing.assert_allclose(values, expected[row, labels], rtol=2e-4, atol=1e-6)
    few = predict(ranker, X, beam_size=1, only_topk=2)
    assert np.diff(few.indptr).max() <= 2
    assert ((few.indices >= 0) & (few.indices < nr_labels)).all() and np.isfinite(few.data).all()


@examples
@given(
    problem=problems(),
    bad=st.sampled_from([np.nan, np.inf, -np.inf]),
    place=st.integers(0, 10**6),
    where=st.sampled_from(["X", "Y", "Z"]),
)
def test_nan_and_infinity_are_refused(problem, bad, place, where):
    X, Y = problem
    chain = [sp.csc_matrix(np.ones((Y.shape[1], 1), np.float32))]

    def spoiled(A):
        if isinstance(A, Features):
            return Features(spoiled(A.sparse), A.dense) if A.sparse.shape[1] else Features(A.sparse, spoiled(A.dense))
        dense = (A.toarray() if sp.issparse(A) else A).copy()
        dense.flat[place % dense.size] = bad
        return type(A)(dense) if sp.issparse(A) else dense

    if where == "Z":
        calls = [lambda: hierarchical_kmeans(spoiled(X))]
    elif where == "Y":
        calls = [lambda: pifa(spoiled(Y), X), lambda: train_ranker(X, spoiled(Y), chain)]
    else:
        ranker = train_ranker(X, Y, chain)
        calls = [lambda: pifa(Y, spoiled(X)), lambda: train_ranker(spoiled(X), Y, chain)]
        calls += [lambda: predict(ranker, spoiled(X))]
    for call in calls:
        with pytest.raises(ValueError, match="NaN or infinity") as error:
            call()
        one_line(error)


@examples
@given(problem=problems(), more=st.integers(1, 3))
def test_shapes_that_do_not_match_are_refused(problem, more):
    X, Y = problem
    chain = [sp.csc_matrix(np.ones((Y.shape[1], 1), np.float32))]
    ranker = train_ranker(X, Y, chain)
    taller, wider = sp.csr_matrix((Y.shape[0] + more, Y.shape[1])), sp.csr_matrix((Y.shape[0], Y.shape[1] + more))
    wider_X = sp.csr_matrix((Y.shape[0], nr_features(X) + more))
    calls = [
        lambda: pifa(taller, X),
        lambda: train_ranker(X, taller, chain),
        lambda: train_ranker(X, wider, chain),
        lambda: train_ranker(X, Y, chain, rel_mode="induce", R=wider),
        lambda: train_ranker(X, Y, [chain[0], sp.csc_matrix((Y.shape[1], Y.shape[1] + more))]),
        lambda: train_ranker(X, Y, [sp.csc_matrix(np.ones((Y.shape[1], 2)))]),
        lambda: predict(ranker, wider_X),
        lambda: as_features(Features(taller, np.ones((Y.shape[0], 1)))),
    ]
    for call in calls:
        with pytest.raises(ValueError) as error:
            call()
        one_line(error)


# ---------------------------------------------------------------------------- the repository's text format


def exact(value: str) -> np.float32:
    with np.errstate(over="ignore"):
        return np.float32(float(value))


def assert_within_one_last_bit(value, expected):
    largest = np.finfo(np.float32).max
    neighbours = [np.nextafter(expected, side) for side in (-largest, largest)]
    assert neighbours[0] <= value <= neighbours[1], (value, expected)


NUMBERS = ["1e-3", "-2.5", "+3", ".5", "5.", "-0", "1E5", "1e+2", "007", "0.1", "1e-45", "3.4028235e38", "-1e-400"]
NUMBERS += ["16777217", "0.333333333333333333333333", "123456789012345678901234567890", "1" + "0" * 30 + "e-30"]
NUMBERS += ["0." + "0" * 60 + "7e60", "1.17549435e-38", "9007199254740993e-10", "0e999999999999"]


def numbers():
    """Decimal numbers, written in any way."""
    digits = st.text("0123456789", max_size=25)
    parts = st.tuples(st.sampled_from(["", "-", "+"]), digits, st.sampled_from(["", "."]), digits)
    powers = [st.just(""), st.integers(-60, 60).map("e{}".format), st.integers(0, 9).map("E+{}".format)]
    whole = st.tuples(parts.map("".join), st.one_of(powers)).map("".join)
    return whole.filter(lambda s: any(c.isdigit() for c in s.lower().split("e")[0]) and np.isfinite(exact(s)))


def parse_one(number: str) -> np.float32:
    X, _ = parse_svmlight(f"1 1 1\n 0:{number}\n".encode(), "f.txt")
    return X.toarray()[0, 0]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_in_text(number):
    assert_within_one_last_bit(parse_one(number), exact(number))


@examples
@given(numbers())
def test_any_number_in_text(number):
    assert_within_one_last_bit(parse_one(number), exact(number))


@examples
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_float32_in_text_is_read_back_to_the_bit(value):
    assert parse_one(repr(value)) == np.float32(value)
    assert parse_one(f"{value:.9g}") == np.float32(value)


@st.composite
def documents(draw):
    """(text, X, Y): a file in any spelling and what it says."""
    nr_rows, nr_columns, nr_labels = draw(st.integers(0, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    blank, newline = draw(st.sampled_from([" ", "\t", "  "])), draw(st.sampled_from(["\n", "\r\n"]))
    X, Y = np.zeros((nr_rows, nr_columns)), np.zeros((nr_rows, nr_labels))
    lines = [f"{nr_rows} {nr_columns} {nr_labels}"]
    for row in range(nr_rows):
        labels = draw(st.lists(st.integers(0, nr_labels - 1), max_size=4))
        pairs = draw(st.lists(st.tuples(st.integers(0, nr_columns - 1), st.integers(-99, 99)), max_size=5))
        Y[row, labels] = 1
        for feature, value in pairs:
            X[row, feature] += value / 8
        words = [",".join(map(str, labels)), *(f"{feature}:{value / 8}" for feature, value in pairs)]
        lines.append(blank.join(words) + draw(st.sampled_from(["", blank])))
    end = newline * draw(st.integers(0 if nr_rows and lines[-1] else 1, 3))
    return newline.join(lines) + end, X, Y


@examples
@given(documents(), st.booleans())
def test_documents_in_text(document, marked):
    text, X, Y = document
    found = parse_svmlight((b"\xef\xbb\xbf" if marked else b"") + text.encode(), "f.txt")
    for part, expected in zip(found, (X, Y), strict=True):
        assert_valid(part)
        assert part.has_canonical_format
        np.testing.assert_array_equal(part.toarray(), expected)


BAD_TEXTS = {
    "": r"line 1 is ''",
    "1 2\n": "line 1 is '1 2', not the three numbers",
    "1 2 3 4\n": "line 1 is '1 2 3 4'",
    "1 -2 3\n": "line 1 is '1 -2 3'",
    "0 1:1\n": "line 1 is '0 1:1'",
    "1 9999999999 3\n 1:1": "line 1 holds a number above 2147483646",
    "2 2 2\n0 1:1\n": r"ends after line 2, but line 1 promises 2",
    "1 2 2": r"ends after line 1, but line 1 promises 1",
    "1 2 2\n0 1:1\n1 1:1\n": r"goes on in line 3, but line 1 promises 1",
    "2 2 2\n0 1:1\n0 2:1\n": r"line 3: '2:1' is a feature of 2 or more",
    "2 2 2\n0 1:1\n2 1:1\n": r"line 3: '2' holds a label of 2 or more",
    "1 2 2\n1,0,99999999999999999999 1:1\n": r"line 2: '1,0,99999999999999999999' holds a label",
    "1 2 2\n 99999999999999999999:1\n": r"line 2: '99999999999999999999:1' is a feature of 2",
    "1 2 2\n1, 1:1\n": r"line 2: '1,' is no list of label numbers",
    "1 2 2\n,1 1:1\n": r"line 2: ',1' is no list",
    "1 2 2\n1:1\n": r"line 2: '1:1' is no list of label numbers .* starts with a blank",
    "1 2 2\n-1 1:1\n": r"line 2: '-1' is no list",
    "1 2 2\n1.0 1:1\n": r"line 2: '1.0' is no list",
    "1 2 2\n1 0 1:1\n": r"line 2: '0' is no feature:value pair",
    "1 2 2\n1 a:1\n": r"line 2: 'a:1' is no feature:value pair",
    "1 2 2\n1 -1:1\n": r"line 2: '-1:1' is no feature:value pair",
    "1 2 2\n1 :1\n": r"line 2: ':1' is no feature:value pair",
    "1 2 2\n1 1 :1\n": r"line 2: '1' is no feature:value pair",
    "1 2 2\n1 1:1 # no\n": r"line 2: '#' is no feature:value pair",
    **{
        f"1 2 2\n1 0:1 1:{word}\n": rf"line 2: '1:{re.escape(word)}' has no finite number"
        for word in ["", "nan", "inf", "1e", "1e+", "e5", "-", "+-1", "1..2", "1.2.3", "1,5", "0x1", "1e39", "1:2"]
    },
    "1 2 2\n1 1: 5\n": r"line 2: '1:' has no finite number",
    "1 2 2\n1 0:3e38 0:3e38\n": r"row 0 holds NaN or infinity",
    "1 2 2\n1 1:1\rx\n": r"line 2: '1:1' has no finite number",
}


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_bad_texts(text):
    with pytest.raises(ValueError, match=rf"^f\.txt: {BAD_TEXTS[text]}") as error:
        parse_svmlight(text.encode(), "f.txt")
    one_line(error)


@examples
@given(documents(), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=3))
def test_damaged_text(document, changes):
    data = bytearray(document[0].encode())
    for place, byte in changes:
        data[int(place * len(data))] = byte
    try:
        X, Y = parse_svmlight(bytes(data), "f.txt")
    except ValueError as error:
        assert one_line(error).startswith("f.txt: ")
    else:
        assert_valid(X)
        assert_valid(Y)
