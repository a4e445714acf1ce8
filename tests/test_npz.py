import numpy as np
import pytest
import scipy.sparse as sp

from xrt_jax.npz import load_npz, save_npz


def test_npz_round_trip_is_uncompressed_and_leaves_nothing_else(tmp_path):
    A = sp.random(4, 5, 0.3, format="csr", dtype=np.float32, random_state=0)
    save_npz(tmp_path / "sub" / "A.npz", A)
    assert (load_npz(tmp_path / "sub" / "A.npz") != A).nnz == 0
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["A.npz"]
    assert A.data.tobytes() in (tmp_path / "sub" / "A.npz").read_bytes()


def test_load_npz_names_a_bad_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        load_npz(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"bad\.npz"):
        load_npz(tmp_path / "bad.npz")
