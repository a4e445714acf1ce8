"""Arrays and work that processes share by way of a folder; together they are tried in test_mpi.py's jobs as well."""

import numpy as np
import pytest
import scipy.sparse as sp
from test_mpi import MPIEXEC, ranks
from test_processes import run_two

from xrt_jax.sharing import assign, claim, gather_array, gather_rows, own_rows, share, shared_folder
from xrt_jax.tree.chain import complete_chain
from xrt_jax.xlinear.sub_trees import sub_trees, work_units


def test_a_process_alone_shares_with_nobody(tmp_path):
    assert shared_folder(tmp_path / "s") is None and not (tmp_path / "s").exists()
    A = sp.csr_matrix(np.eye(3, dtype=np.float32))
    assert share(None, "A", lambda: (A, None)) == [A, None]
    assert own_rows(None, 5) == slice(0, 5) and gather_rows(None, "b", A) is A
    assert gather_array(None, "c", A.data) is A.data
    assert list(claim(None, "d", [1, 3, 2])) == [1, 2, 0]
    assert not list(tmp_path.iterdir())


def test_units_go_to_who_has_least():
    assert assign([5, 4, 3, 3], 2) == [[0, 3], [1, 2]]
    assert assign([1] * 6, 3) == [[0, 3], [1, 4], [2, 5]]
    assert [len(units) for units in assign([1.0] * 23, 2, first_share=0.15)] == [3, 20]
    loads = np.random.default_rng(0).pareto(1.5, 300)
    units = assign(loads, 7)
    assert sorted(unit for each in units for unit in each) == list(range(300))
    filled = [loads[each].sum() for each in units]
    assert max(filled) - min(filled) <= loads.max()


CHECKS = """
import sys, time
import numpy as np, scipy.sparse as sp
from xrt_jax import processes
from xrt_jax.sharing import *
{join}
me, n = processes.index(), processes.count()
assert processes.from_first([me, None]) == [0, None] and processes.from_each({{"me": me}}) == [
    {{"me": i}} for i in range(n)]
folder = shared_folder(Path(sys.argv[1]) / "s")
A = sp.random(50, 40, 0.1, format="csc", dtype=np.float32, rng=np.random.default_rng(0))
dense = np.arange(12, dtype=np.float32).reshape(4, 3)
made = []
B, none, C, empty, zero = share(folder, "A", lambda: made.append(1) or [
    A, None, dense, np.zeros((4, 0), np.float32), sp.csr_matrix((0, 7), dtype=np.float32)])
assert len(made) == (me == 0) and none is None and empty.shape == (4, 0) and zero.shape == (0, 7)
assert B.format == "csc" and (B != A).nnz == 0 and B.data.flags.writeable and type(B.data) is np.ndarray
np.testing.assert_array_equal(C, dense)
C[me] = -1
processes.from_each()
assert (C < 0).all(1).sum() == 1  # what others write is not seen
rows = own_rows(folder, 50)
whole = gather_rows(folder, "rows", A.tocsr()[rows])
assert (whole is None) == (me > 0) and (me or (whole != A.tocsr()).nnz == 0)
for array in (np.arange(50), np.arange(100.0).reshape(50, 2), np.zeros((50, 0), np.float32)):
    np.testing.assert_array_equal(gather_array(folder, "g", array[rows]), array)
np.testing.assert_array_equal(gather_array(folder, "h", np.arange(5 if me == n - 1 else 0)), np.arange(5))
mine = []
for unit in claim(folder, "work", [3.0] * 20 + [1.0] * 20):
    mine.append(unit)
    time.sleep(0.05 if me == 0 else 0.005)  # the first is slow
found = processes.from_each(mine)
assert sorted(sum(found, [])) == list(range(40)) and len(found[0]) < 40 / n, found
print("checked", file=sys.stderr)
"""


@pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec")
@pytest.mark.parametrize("n", [2, 3])
def test_ranks_share(tmp_path, n):
    join = "from xrt_jax.xlinear.mpi import join_ranks; join_ranks()"
    result = ranks(n, "-c", CHECKS.format(join=join), str(tmp_path))
    assert result.returncode == 0 and result.stderr.count("checked") == n, result.stderr


def test_processes_of_jax_share(tmp_path):
    for status, _, errors in run_two("-c", CHECKS.format(join="processes.start()"), str(tmp_path)):
        assert status == 0 and "checked" in errors, errors


LARGE = """
import sys
from pathlib import Path
import numpy as np
from xrt_jax import processes
from xrt_jax.sharing import *
from xrt_jax.xlinear.mpi import join_ranks
join_ranks()
folder = shared_folder(Path(sys.argv[1]) / "s")
me, size = processes.index(), 300_000_000
whole = gather_array(folder, "large", np.full(size, me + 1, np.float32))
assert whole.shape == (2 * size,) and whole.nbytes > 2**31
assert (whole[[0, size - 1, size, -1]] == [1, 1, 2, 2]).all() and len(whole[size - 2 : size + 2].tobytes()) == 16
print("checked", file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec")
def test_more_than_two_gib(tmp_path):
    result = ranks(2, "-c", LARGE, str(tmp_path))
    assert result.returncode == 0 and result.stderr.count("checked") == 2, result.stderr
    (tmp_path / "s/large.npy").unlink()


def test_sub_trees_and_units_of_work():
    chain = complete_chain(sp.csc_matrix(np.kron(np.eye(8), np.ones((3, 1)))), nr_splits=2, min_codes=None)
    assert [C.shape for C in chain] == [(2, 1), (4, 2), (8, 4), (24, 8)]
    assert sub_trees(chain, 9) == [None] * 4
    two, four = sub_trees(chain, 2), sub_trees(chain, 3)
    assert two[0] is None and [of.tolist() for of in two[1:]] == [[0, 1], [0, 0, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1]]
    assert four[:2] == [None, None] and [of.tolist() for of in four[2:]] == [[0, 1, 2, 3], [0, 0, 1, 1, 2, 2, 3, 3]]
    jobs = [(0, 0), (1, 0), (1, 1), (2, 3), (3, 7), (3, 0), (3, 6)]
    assert work_units(jobs, four) == [[0], [1], [2], [3, 4, 6], [5]]
    assert work_units(jobs, two) == [[0], [1, 5], [2, 3, 4, 6]]
