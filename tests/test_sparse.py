import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax import sparse
from xrt_jax.sparse import Features


def random_csr(n, d, density=0.3, seed=0):
    return sp.random(n, d, density, format="csr", dtype=np.float32, random_state=seed)


def test_as_features_casts_sorts_and_leaves_its_input_alone():
    A = sp.csr_matrix((np.array([1, 2, 3]), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 3))
    X = sparse.as_features(A)
    assert X.sparse.dtype == np.float32 and X.dense is None
    assert X.sparse.indices.tolist() == [0, 2] and X.sparse.data.tolist() == [2, 4]
    assert A.indices.tolist() == [2, 0, 2]
    E = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    assert sparse.as_features(E).dense.dtype == np.float32 and sparse.as_features(E).dense.flags.c_contiguous


@pytest.mark.parametrize("fmt", ["csr", "csc"])
@pytest.mark.parametrize("make", [np.asarray, sp.csr_matrix, sp.csc_array, sp.coo_matrix, sp.lil_matrix, sp.dia_matrix])
def test_canonical_of_every_kind(fmt, make):
    dense = np.array([[0, 2, 0], [1, 0, 3]])
    B = sparse.canonical(make(dense), fmt)
    assert (B.format, B.dtype, B.indices.dtype, B.indptr.dtype) == (fmt, np.float32, np.int32, np.int32)
    assert isinstance(B, sp.spmatrix) and B.has_canonical_format
    np.testing.assert_array_equal(B.toarray(), dense)


def test_canonical_takes_arrays_longer_than_the_matrix():
    A = sp.csr_matrix(np.array([[1.0, 0], [2, 3]], np.float32))
    A.indptr = np.array([0, 1, 2])
    B = sparse.canonical(A, "csr")
    np.testing.assert_array_equal(B.toarray(), [[1, 0], [2, 0]])
    assert len(B.data) == 2 == len(B.indices)
    assert len(A.data) == 3 == len(A.indices)


@pytest.mark.parametrize(
    ("shape", "nnz", "dtype"),
    [
        ((10, 10), 2**31 - 1, np.int32),
        ((10, 10), 2**31, np.int64),
        ((2**31, 1), 5, np.int64),
        ((1, 2**31), 5, np.int64),
        ((2**31 - 1, 2**31 - 1), 0, np.int32),
    ],
)
def test_index_dtype(shape, nnz, dtype):
    assert sparse.index_dtype(shape, nnz) is dtype


def test_canonical_keeps_indices_that_need_64_bits():
    A = sp.csr_matrix((np.ones(2), np.array([2**40, 3]), np.array([0, 2])), shape=(1, 2**41))
    B = sparse.canonical(A, "csr")
    assert B.indices.dtype == np.int64 and B.indices.tolist() == [3, 2**40]
    with pytest.raises(ValueError, match="2199023255552 features"):  # compiled code would read other columns
        sparse.as_features(A)


def test_as_features_leaves_room_for_the_bias_in_32_bits():
    widest = sp.csr_matrix((1, 2**31 - 2), dtype=np.float32)
    assert sparse.nr_features(sparse.as_features(widest)) == 2**31 - 2
    with pytest.raises(ValueError, match="2147483647 features"):
        sparse.as_features(Features(widest, np.ones((1, 1))))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_as_features_refuses_what_is_not_finite(bad):
    E = np.zeros((2, 2))
    E[1, 1] = bad
    for X in (E, sp.csr_matrix(E), Features(sp.csr_matrix((2, 1)), E)):
        with pytest.raises(ValueError, match="NaN or infinity"):
            sparse.as_features(X)


def test_as_features_refuses_parts_of_unequal_length():
    with pytest.raises(ValueError, match=r"3 rows .* 2"):
        sparse.as_features(Features(sp.csr_matrix((3, 1)), np.zeros((2, 1))))


def test_features_count_both_parts():
    X = Features(random_csr(5, 4), np.arange(10, dtype=np.float32).reshape(5, 2))
    assert sparse.nr_rows(X) == 5 and sparse.nr_features(X) == 6


def test_normalize_rows_keeps_zero_rows():
    expected = [[0.6, 0.8], [0, 0]]
    np.testing.assert_allclose(sparse.normalize_rows(np.array([[3.0, 4], [0, 0]])), expected, rtol=1e-6)
    unit = sparse.normalize_rows(sp.csr_matrix([[3.0, 4], [0, 0]]))
    np.testing.assert_allclose(unit.toarray(), expected, rtol=1e-6)
    assert unit.dtype == np.float32


def test_find_entries_against_a_dictionary():
    rng = np.random.default_rng(0)
    A = random_csr(20, 30, 0.1)
    stored = {pair: i for i, pair in enumerate(zip(sparse.row_ids(A), A.indices, strict=True))}
    rows, cols = rng.integers(0, 20, 200), rng.integers(0, 30, 200)
    expected = [stored.get(pair, -1) for pair in zip(rows, cols, strict=True)]
    assert sparse.find_entries(A, rows, cols).tolist() == expected
    assert max(expected) >= 0 > min(expected)
