"""Where solved jobs go: to memory, or to disk, so that a model larger than memory can be trained and resumed.

On disk a level is one file of records, appended as jobs get done: int64 job, labels, weights and checksum, then the
arrays of Solved. A record that a kill left half-written is cut off when the file is taken up again.
"""

import os
import zlib
from pathlib import Path

import numpy as np

from xrt_jax.disk import naming_full_disk
from xrt_jax.sparse import write_csc_npz
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
    """Solved jobs of a level in a file; what is in it already is kept."""

    def __init__(self, path: Path, nr_jobs: int):
        self.counts: list[np.ndarray | None] = [None] * nr_jobs
        self.first_byte = np.zeros(nr_jobs, np.int64)  # of a job's features
        self.file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115, close() ends it
        end = self._read_records()
        self.file.seek(end)
        self.file.truncate()

    def _read_records(self) -> int:
        """Note what the file holds; where its last whole record ends."""
        size, end = os.fstat(self.file.fileno()).st_size, 0
        while end + HEADER <= size:
            self.file.seek(end)
            number, nr_labels, nr_weights, checksum = np.frombuffer(self.file.read(HEADER), np.int64).tolist()
            body = self.file.read(8 * nr_labels + 8 * nr_weights) if 0 <= number < len(self.counts) else b""
            if len(body) < 8 * nr_labels + 8 * nr_weights or zlib.crc32(body) != checksum:
                break
            self.counts[number] = np.frombuffer(body, np.int64, nr_labels)
            self.first_byte[number] = end + HEADER + 8 * nr_labels
            end += HEADER + len(body)
        return end

    def missing(self) -> list[int]:
        """Numbers of the jobs that are still to be solved."""
        return [number for number, count in enumerate(self.counts) if count is None]

    def add(self, number: int, part: Solved) -> None:
        """Append a job's weights; they survive a kill of this process from now on."""
        body = b"".join(array.tobytes() for array in part)
        header = np.array([number, len(part.count), len(part.weight), zlib.crc32(body)], np.int64)
        self.first_byte[number] = self.file.tell() + HEADER + 8 * len(part.count)
        self.counts[number] = part.count
        with naming_full_disk(self.file.name):
            self.file.write(header.tobytes() + body)
            self.file.flush()

    def _read(self, number: int) -> Solved:
        count = self.counts[number]
        nr_weights, first = int(count.sum()), int(self.first_byte[number])
        data = np.frombuffer(os.pread(self.file.fileno(), 8 * nr_weights, first), np.int32)
        return Solved(count, data[:nr_weights], data[nr_weights:].view(np.float32))

    def weights(self, problem: Problem, jobs: list[Job]):
        """W, csc float32 [d + 1 or d, L], in memory."""
        return assemble(problem, jobs, [self._read(number) for number in range(len(jobs))])

    def save_weights(self, path: Path, problem: Problem, jobs: list[Job]) -> None:
        """Write W to `path` as save_npz would, a block of labels at a time."""
        nr_labels = problem.Y.shape[1]
        job, first, count = columns_in_order(jobs, self.counts, nr_labels)
        nr_weights = np.array([part.sum() for part in self.counts], np.int64)
        start = self.first_byte[job] + 4 * first

        def blocks(start: np.ndarray):
            for block in range(0, nr_labels, LABELS_AT_A_TIME):
                labels = (label for label in range(block, min(block + LABELS_AT_A_TIME, nr_labels)) if count[label])
                yield b"".join(os.pread(self.file.fileno(), 4 * count[label], start[label]) for label in labels)

        indptr = np.concatenate([[0], np.cumsum(count)])
        shape = (problem.nr_weights, nr_labels)
        write_csc_npz(path, shape, indptr, blocks(start), blocks(start + 4 * nr_weights[job]))

    def close(self) -> None:
        """Close the file."""
        self.file.close()
