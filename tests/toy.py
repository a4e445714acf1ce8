"""A data set for end-to-end tests in seconds: a label is told by two of its own words among common ones."""

from pathlib import Path

import numpy as np
from commands import run
from scipy.sparse import csr_matrix

from xrt_jax.data.folders import Dataset, Split, save_dataset

NR_LABELS = 24


def toy_split(n: int, seed: int) -> Split:
    """n texts with one to three of the NR_LABELS labels."""
    rng = np.random.default_rng(seed)
    texts, Y = [], np.zeros((n, NR_LABELS), np.float32)
    for i in range(n):
        labels = rng.choice(NR_LABELS, rng.integers(1, 4), replace=False)
        words = [f"{'ab'[rng.integers(2)]}word{label}" for label in labels for _ in range(2)]
        words += [f"common{k}" for k in rng.integers(0, 30, rng.integers(2, 12))]
        texts.append(" ".join(rng.permutation(words)))
        Y[i, labels] = 1
    return Split(texts, csr_matrix(Y), None)


def toy_dataset(folder: str | Path) -> Path:
    """Writes the data set and returns its folder."""
    dataset = Dataset(toy_split(300, 0), toy_split(40, 1), toy_split(80, 2), [f"label {i}" for i in range(NR_LABELS)])
    save_dataset(folder, dataset)
    return Path(folder)


# Three levels, the encoder as small as BERT can be.
SMALL = {
    "encoder.name": "",
    "encoder.truncate_length": 24,
    "encoder.nr_buckets": 1,
    "scratch.vocab_size": 200,
    "scratch.hidden_size": 16,
    "scratch.num_layers": 1,
    "scratch.num_heads": 2,
    "scratch.intermediate_size": 32,
    "scratch.mlm_steps": 10,
    "preliminary_tree.nr_splits": 2,
    "preliminary_tree.min_codes": 4,
    "preliminary_tree.max_leaf_size": 4,
    "refined_tree.nr_splits": 4,
    "refined_tree.max_leaf_size": 6,
    "matcher.batch_size": 16,
    "matcher.max_steps": 30,
    "matcher.negative_sampling": "tfn+man",
    "matcher.learning_rate": 3e-3,
    "matcher.log_steps": 10,
    "matcher.eval_steps": 20,
    "data.dev_size": 40,
}


def arguments(data: Path, workdir: Path, **changes) -> list[str]:
    """Arguments of xrt_jax.main for a run on the toy data; keys of `changes` may have __ for a dot."""
    fields = SMALL | {"data.dir": data} | {key.replace("__", "."): value for key, value in changes.items()}
    flags = [f"--config.{key}={value}" for key, value in fields.items()]
    return ["--config=configs/demo.py", f"--workdir={workdir}", *flags]


def linear_runs(folder: Path) -> list[Path]:
    """Work directories of three XR-Linear runs on few texts, which differ in seed, costs and number of labels.

    Their last level keeps margins, and they are joined by softmax_average, as in published settings.
    """
    names = [f"label {i}" for i in range(NR_LABELS)]
    save_dataset(folder / "data", Dataset(toy_split(60, 0), None, toy_split(80, 2), names))
    fields = {"data.dir": folder / "data", "ensemble": "softmax_average", "refined_tree.nr_splits": 4}
    fields |= {"refined_tree.max_leaf_size": 6, "ranker.post_processor": "l3-hinge,noop"}
    workdirs = [folder / name for name in ("a", "b", "c")]
    for number, workdir in enumerate(workdirs):
        own = {"seed": number, "ranker.Cp": 0.1 + number, "ranker.only_topk": f"3,{6 + number}"}
        flags = [f"--config.{key}={value}" for key, value in (fields | own).items()]
        result = run("xrt_jax.main", "--config=configs/xlinear.py", f"--workdir={workdir}", *flags)
        assert result.returncode == 0, result.stderr
    return workdirs
