import numpy as np

from xrt_jax.selection import lowest


def test_lowest_breaks_ties_by_position():
    assert lowest(np.array([2, 1, 1, 0, 1], np.float32), 3).tolist() == [0, 1, 1, 1, 0]
    rng = np.random.default_rng(0)
    for n in (1, 2, 17, 400):
        values = rng.integers(0, 9, n).astype(np.float32)
        for k in {1, (n + 1) // 2, n}:
            expected = np.zeros(n, int)
            expected[np.argsort(values, kind="stable")[:k]] = 1
            assert lowest(values, k).tolist() == expected.tolist()
