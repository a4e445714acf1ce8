"""How processes train one ranker together: the problem of a level in all of them, its jobs shared out by sub-trees."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xrt_jax.sharing import claim, share
from xrt_jax.sparse import FeatureArrays
from xrt_jax.xlinear.level import Job, Problem, Solver


class Sharing(NamedTuple):
    """How several processes train together: by way of `folder` (sharing.shared_folder).

    Attributes:
        min_n_sub_tree: the labels are shared out in at least so many sub-trees, if the tree has so many nodes.
        main_workload_factor: what the first process gets at first, as a share of what each of the others gets.
    """

    folder: Path
    min_n_sub_tree: int
    main_workload_factor: float


def share_problem(
    folder: Path | None, name: str, X: FeatureArrays, settings: Solver, make: Callable[[], Problem]
) -> Problem:
    """The first process's problem in all of them, with their own X; make is called there only."""
    if folder is None:
        return make()

    def matrices():
        problem = make()
        return problem.Y, problem.C, problem.M, problem.cost

    return Problem(X, *share(folder, name, matrices), settings)


def claimed_units(where: list[tuple[int, Job]], chain, shared: Sharing, name: str) -> Iterator[list[int]]:
    """Units of work that this process has claimed, one at a time: lists of numbers of jobs (level, job) in `where`."""
    units = work_units([(level, job.parent) for level, job in where], sub_trees(chain, shared.min_n_sub_tree))
    loads = [sum(where[number][1].size for number in unit) for unit in units]
    for unit in claim(shared.folder, name, loads, first_share=shared.main_workload_factor):
        yield units[unit]


def sub_trees(chain, min_n_sub_tree: int) -> list[np.ndarray | None]:
    """For every level, the sub-tree that each node of the level above is in; None above the roots of the sub-trees.

    Their roots are the nodes of the highest level that has min_n_sub_tree of them; without one there are no sub-trees.
    """
    wide = [t for t, C in enumerate(chain) if C.shape[1] >= min_n_sub_tree]
    if not wide:
        return [None] * len(chain)
    top = wide[0]
    of_level: list[np.ndarray | None] = [None] * top + [np.arange(chain[top].shape[1])]
    for C in chain[top:-1]:
        below = np.zeros(C.shape[0], np.int64)
        below[C.indices] = np.repeat(of_level[-1], np.diff(C.indptr))
        of_level.append(below)
    return of_level


def work_units(jobs: list[tuple[int, int]], of_level: list[np.ndarray | None]) -> list[list[int]]:
    """Units of work, lists of numbers of jobs (level, parent): those of a sub-tree, and each of the levels above."""
    units: dict[tuple, list[int]] = {}
    for number, (level, parent) in enumerate(jobs):
        key = ("job", number) if of_level[level] is None else ("sub-tree", int(of_level[level][parent]))
        units.setdefault(key, []).append(number)
    return list(units.values())
