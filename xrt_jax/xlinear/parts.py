"""Where solved jobs go: to memory, or to disk, so that a model larger than memory can be trained and resumed.

On disk a level is a file of records for each process that works on it, appended as jobs get done: int64 job, labels,
weights and checksum, then the arrays of Solved. A record that a kill left half-written is cut off when the file is
taken up again.
"""

import contextlib
import os
import zlib
from pathlib import Path

import numpy as np

from xrt_jax.disk import naming_full_disk
from xrt_jax.npz import write_csc_npz
from xrt_jax.processes import index
from xrt_jax.xlinear.level import Job, Problem, Solved, assemble, columns_in_order

HEADER = 4 * 8  # bytes
LABELS_AT_A_TIME = 1024


class InMemory:
    """Solved jobs of a level."""

    def __init__(self, nr_jobs: int):
        self.solved: list[Solved | None] = [None] * nr_jobs

    def missing(self) -> list[int]:
        """Numbers of the jobs that are still to be solved."""
        return [number for number, part in enumerate(self.solved) if part is None]

    def add(self, number: int, part: Solved) -> None:
        """Take a job's weights."""
        self.solved[number] = part

    def weights(self, problem: Problem, jobs: list[Job]):
        """W, csc float32 [d + 1 or d, L]."""
        return assemble(problem, jobs, self.solved)


class OnDisk:
    """Solved jobs of a level in the files path.0, path.1, …, of which this process appends to the one with its number.

    What is in them already is kept, whatever the number of processes was.
    """

    def __init__(self, path: Path, nr_jobs: int):
        self.path = path
        self.counts: list[np.ndarray | None] = [None] * nr_jobs
        self.file_of, self.first_byte = np.zeros(nr_jobs, np.int64), np.zeros(nr_jobs, np.int64)  # of a job's features
        self.ends: dict[int, int] = {}  # where the whole records of each file end
        self.refresh()
        own = self._path(index())
        self.file = open(own, "r+b" if own.exists() else "w+b")  # noqa: SIM115, close() ends it
        self.file.seek(self.ends.setdefault(index(), 0))
        self.file.truncate()

    def _path(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def refresh(self) -> None:
        """Note what the processes have written since this was last called."""
        for path in self.path.parent.glob(f"{self.path.name}.*"):
            number = int(path.suffix[1:])
            with open(path, "rb") as file:
                self.ends[number] = self._read_records(file, number, self.ends.get(number, 0))

    def _read_records(self, file, of_file: int, end: int) -> int:
        """Note what the file holds from byte `end` on; where its last whole record ends."""
        size = os.fstat(file.fileno()).st_size
        while end + HEADER <= size:
            file.seek(end)
            number, nr_labels, nr_weights, checksum = np.frombuffer(file.read(HEADER), np.int64).tolist()
            body = file.read(8 * nr_labels + 8 * nr_weights) if 0 <= number < len(self.counts) else b""
            if len(body) < 8 * nr_labels + 8 * nr_weights or zlib.crc32(body) != checksum:
                break
            self._note(number, np.frombuffer(body, np.int64, nr_labels).copy(), of_file, end)
            end += HEADER + len(body)
        return end

    def _note(self, number: int, count: np.ndarray, of_file: int, start: int) -> None:
        """Where a job is: its record starts at byte `start` of the file."""
        self.counts[number] = count
        self.file_of[number], self.first_byte[number] = of_file, start + HEADER + 8 * len(count)

    def missing(self) -> list[int]:
        """Numbers of the jobs that are still to be solved."""
        return [number for number, count in enumerate(self.counts) if count is None]

    def add(self, number: int, part: Solved) -> None:
        """Append a job's weights; they survive a kill of this process from now on."""
        body = b"".join(array.tobytes() for array in part)
        header = np.array([number, len(part.count), len(part.weight), zlib.crc32(body)], np.int64)
        self._note(number, part.count, index(), self.file.tell())
        with naming_full_disk(self.file.name):
            self.file.write(header.tobytes() + body)
            self.file.flush()
        self.ends[index()] = self.file.tell()

    @contextlib.contextmanager
    def _open_files(self):
        """Numbers of all files by their own numbers, for os.pread."""
        with contextlib.ExitStack() as stack:
            yield {number: stack.enter_context(open(self._path(number), "rb")).fileno() for number in self.ends}

    def weights(self, problem: Problem, jobs: list[Job]):
        """W, csc float32 [d + 1 or d, L], in memory."""
        with self._open_files() as files:
            return assemble(problem, jobs, [self._read(files, number) for number in range(len(jobs))])

    def _read(self, files: dict[int, int], number: int) -> Solved:
        count = self.counts[number]
        nr_weights = int(count.sum())
        data = os.pread(files[self.file_of[number]], 8 * nr_weights, int(self.first_byte[number]))
        data = np.frombuffer(data, np.int32)
        return Solved(count, data[:nr_weights], data[nr_weights:].view(np.float32))

    def save_weights(self, path: Path, problem: Problem, jobs: list[Job]) -> None:
        """Write W to `path` as save_npz would, a block of labels at a time."""
        nr_labels = problem.Y.shape[1]
        job, first, count = columns_in_order(jobs, self.counts, nr_labels)
        nr_weights = np.array([part.sum() for part in self.counts], np.int64)
        start, file_of = self.first_byte[job] + 4 * first, self.file_of[job]

        def blocks(start: np.ndarray):
            for block in range(0, nr_labels, LABELS_AT_A_TIME):
                labels = (label for label in range(block, min(block + LABELS_AT_A_TIME, nr_labels)) if count[label])
                yield b"".join(
                    os.pread(files[file_of[label]], 4 * int(count[label]), int(start[label])) for label in labels
                )

        indptr = np.concatenate([[0], np.cumsum(count)])
        shape = (problem.nr_weights, nr_labels)
        with self._open_files() as files:
            write_csc_npz(path, shape, indptr, blocks(start), blocks(start + 4 * nr_weights[job]))

    def close(self) -> None:
        """Close the file."""
        self.file.close()
