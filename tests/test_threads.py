import numba

from xrt_jax.threads import thread_map, tracked


def test_thread_map_keeps_the_order():
    threads = numba.get_num_threads()
    try:
        for n in (1, threads):
            numba.set_num_threads(n)
            assert list(thread_map(lambda i: i * i, range(50))) == [i * i for i in range(50)]
    finally:
        numba.set_num_threads(threads)


def test_tracked_tells_the_progress():
    told = []

    class Bar:
        def __init__(self, total, desc):
            told.append((total, desc))

        def update(self, n):
            told.append(n)

        def close(self):
            told.append("closed")

    assert list(tracked("ab", [2, 3], Bar, "work")) == ["a", "b"]
    assert told == [(5, "work"), 2, 3, "closed"]
