"""Jobs shared out to threads, and the progress of their results."""

from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice

import numba


def thread_map(fn, jobs):
    """Yield fn(job) in the order of `jobs`, computed by numba.get_num_threads() threads (fn should release the GIL)."""
    nr_threads = min(numba.get_num_threads(), len(jobs))
    if nr_threads <= 1:
        yield from map(fn, jobs)
        return
    with ThreadPoolExecutor(nr_threads) as pool:
        yield from pool.map(fn, jobs)


def thread_unordered(fn, jobs):
    """Yield (job, fn(job)) as they get done, from numba.get_num_threads() threads; `jobs` may be an iterator.

    At most two results a thread wait to be taken, so that memory stays bounded, and a job is asked for no sooner.
    """
    nr_threads = numba.get_num_threads()
    if nr_threads <= 1:
        yield from ((job, fn(job)) for job in jobs)
        return
    rest = iter(jobs)
    with ThreadPoolExecutor(nr_threads) as pool:
        running = {pool.submit(fn, job): job for job in islice(rest, 2 * nr_threads)}
        try:
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    running |= {pool.submit(fn, following): following for following in islice(rest, 1)}
                    yield job, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def tracked(results, sizes, progress, desc: str):
    """Yield `results`, telling progress(total, desc) of sizes[i] more units after the i-th; progress None: silently."""
    bar = progress(int(sum(sizes)), desc) if progress else None
    for result, size in zip(results, sizes, strict=True):
        if bar:
            bar.update(int(size))
        yield result
    if bar:
        bar.close()
