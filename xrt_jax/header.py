"""What a run and its model folder say about themselves: the header before it takes time, the model card after it."""

import numba
import numpy as np
from ml_collections import ConfigDict

from xrt_jax.data.folders import Dataset
from xrt_jax.metrics import format_table
from xrt_jax.report import format_bytes
from xrt_jax.sparse import nr_features


def print_header(
    config: ConfigDict, module, nr_parameters: int, dataset: Dataset, levels: list[int], nr_fine_tuned: int
) -> None:
    """Devices, data, tree and the memory that an XR-Transformer run is going to need."""
    print(f"devices       {describe_devices()}")
    print_data(dataset)
    size = f"hidden size {module.hidden_size}, {nr_parameters:,} parameters"
    print(f"encoder       {module.num_layers} layers, {size}, computed in {np.dtype(module.dtype)}")
    print(f"tree levels   {describe_levels(levels)}, the first {nr_fine_tuned} fine-tuned")
    memory = estimate_memory(config, module, nr_parameters, dataset, max(levels[:nr_fine_tuned], default=0))
    print(f"memory        about {format_bytes(memory)}", flush=True)


def print_linear_header(dataset: Dataset, levels: list[int]) -> None:
    """Threads, data and tree of an XR-Linear run."""
    print(f"threads       {numba.get_num_threads()}")
    print_data(dataset)
    print(f"tree levels   {describe_levels(levels)}", flush=True)


def print_data(dataset: Dataset) -> None:
    """Sizes of the splits, labels and features."""
    trn = dataset.trn
    splits = (dataset.trn, dataset.dev, dataset.tst)
    nr_texts = " / ".join(f"{split.Y.shape[0]:,}" if split else "-" for split in splits)
    print(f"data          {nr_texts} documents (trn / dev / tst)")
    print(f"labels        {trn.Y.shape[1]:,}, {trn.Y.nnz / trn.Y.shape[0]:.2f} a document")
    print(f"features      {'TF-IDF of the texts' if trn.X is None else f'{nr_features(trn.X):,} given'}")


def describe_levels(levels: list[int]) -> str:
    """512 -> 4,271"""
    return " -> ".join(f"{size:,}" for size in levels)


def describe_devices() -> str:
    """Number, kind and platform of the devices."""
    import jax  # XR-Linear alone goes without

    kinds, counts = np.unique([device.device_kind for device in jax.devices()], return_counts=True)
    listed = ", ".join(f"{count} x {kind}" for kind, count in zip(kinds, counts, strict=True))
    processes = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{listed} ({jax.default_backend()}{processes})"


def estimate_memory(config: ConfigDict, module, nr_parameters: int, dataset: Dataset, nr_labels: int) -> float:
    """Bytes at the peak of fine-tuning or ranking, whichever is larger; from sizes only, a rough figure.

    Fine-tuning: parameters, gradients and two moments in float32, the activations of a batch, and the scores of a
    level of nr_labels. Ranking: features, embeddings, and some 2,000 weights a label.
    """
    hidden, inner, length = module.hidden_size, module.intermediate_size, config.encoder.truncate_length
    batch = max(config.matcher.batch_size)
    nr_tokens = batch * config.encoder.windows * length
    a_token = module.num_layers * (10 * hidden + 3 * inner + 3 * module.num_heads * length)
    fine_tuning = 4 * (4 * (nr_parameters + nr_labels * hidden) + nr_tokens * a_token + 6 * batch * nr_labels)
    trn = dataset.trn
    characters = 0 if trn.X is not None else sum(map(len, trn.texts))
    nr_values = characters // 4 if trn.X is None else trn.X.size  # a word of four letters, a value of TF-IDF
    ranking = 12 * nr_values + 4 * trn.Y.shape[0] * hidden + 8 * trn.Y.shape[1] * 2000
    return 5e8 + max(fine_tuning, ranking)


def model_card(name: str, dataset: Dataset, metrics: dict) -> str:
    """The README.md of the model folder."""
    n, nr_labels = dataset.trn.Y.shape
    return (
        "---\nlibrary_name: xrt_jax\npipeline_tag: text-classification\ntags:\n- extreme-multi-label\n---\n\n"
        f"# {name}, {nr_labels:,} labels\n\nTrained on {n:,} documents by xrt_jax.\n\n"
        "    python -m xrt_jax.predict --model=THIS_FOLDER --text=texts.txt\n\n"
        f"Test split, {dataset.tst.Y.shape[0]:,} documents, percent:\n\n```\n{format_table(metrics)}\n```\n"
    )
