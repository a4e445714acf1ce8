"""What a run and its model folder say about themselves: the header before it takes time, the model card after it."""

import json
from pathlib import Path

import numba
import numpy as np
from ml_collections import ConfigDict

from xrt_jax import __version__
from xrt_jax.config import command
from xrt_jax.data.folders import Dataset
from xrt_jax.data.label_texts import documents
from xrt_jax.default_config import get_config
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
    trn = documents(dataset)
    splits = (trn, dataset.dev, dataset.tst)
    nr_texts = " / ".join(f"{split.Y.shape[0]:,}" if split else "-" for split in splits)
    print(f"data          {nr_texts} documents (trn / dev / tst)")
    texts = f"; {dataset.trn.nr_label_texts:,} texts of labels are trained on too" if dataset.trn.nr_label_texts else ""
    print(f"labels        {trn.Y.shape[1]:,}, {trn.Y.nnz / trn.Y.shape[0]:.2f} a document{texts}")
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


# What config.json calls a model -> its name on the card, the class that opens it, what it is for.
KINDS = {
    "xr_transformer": ("XR-Transformer", "XRTransformerClassifier", "predict"),
    "xr_linear": ("XR-Linear", "XRLinearClassifier", "predict"),
    "encoder": ("Encoder of an XR-Transformer", "", "encode"),
}


def config_card(config: ConfigDict, dataset: Dataset, metrics: dict) -> str:
    """The model card of a run: its metrics on the test split, and the command that repeats it."""
    source = Path(config.data.dir).name if config.data.dir else "docstrings of installed Python code"
    kind = "encoder" if config.get("only_encoder", False) else config.method
    made_by = command(config, get_config())
    return model_card(kind, dataset, metrics, source=source, made_by=made_by, split="test")


def model_card(kind: str, dataset: Dataset, metrics: dict, *, source: str, made_by: str, split: str) -> str:
    """The README.md of a model folder, with the hub's metadata in front.

    Args:
        kind: a key of KINDS.
        metrics: results of precision_recall by name, of which the last is the model's own; empty: nothing is told.
        source: what to call the data.
        made_by: the exact command, or Python code, that made the model.
        split: the split that the metrics are of.
    """
    name, estimator, module = KINDS[kind]
    nr_labels = dataset.trn.Y.shape[1]
    output = "ranked.jsonl" if module == "predict" else "embeddings.npy"
    parts = [
        f"---\n{_card_metadata(name, metrics, source, split)}---\n\n# {name}, {nr_labels:,} labels",
        f"Trained by xrt_jax {__version__}, extreme multi-label ranking of texts in JAX.",
        f"    python -m xrt_jax.{module} --model=THIS_FOLDER --text=texts.txt --output={output}",
    ]
    if estimator:
        parts += [
            "or",
            f"    from xrt_jax import {estimator}\n\n"
            f'    model = {estimator}.from_pretrained("THIS_FOLDER")\n    model.predict_topk(inputs, k=5)',
        ]
    if kind != "xr_linear":
        parts.append("`encoder/` loads in `transformers` and, with the same embeddings, in `sentence-transformers`.")
    parts.append(f"## Data\n\n{_describe_data(dataset, source)}")
    if metrics:
        table = format_table(metrics)
        parts.append(f"## Metrics\n\nPercent, on the {split} split:\n\n```\n{table}\n```")
    parts.append(f"## Training\n\n```\n{made_by}\n```")
    return "\n\n".join(parts) + "\n"


def _card_metadata(name: str, metrics: dict, source: str, split: str) -> str:
    """YAML of the hub: what the model is, and P@1, 3, 5 and R@10 of the last of the metrics."""
    lines = ["library_name: xrt_jax", "pipeline_tag: text-classification"]
    lines += ["tags:", "- extreme-multi-label-classification", "- xrt_jax"]
    if metrics:
        own = list(metrics.values())[-1]
        values = {f"P@{k}": own["prec"][k - 1] for k in (1, 3, 5)} | {"R@10": own["recall"][9]}
        lines += ["model-index:", f"- name: {json.dumps(name)}", "  results:"]
        lines += ["  - task:", "      type: text-classification", "    dataset:"]
        lines += [f"      {key}: {json.dumps(value)}" for key, value in (("name", source), ("type", source))]
        lines += [f"      split: {split}", "    metrics:"]
        for metric, value in values.items():
            kind = "precision" if metric.startswith("P") else "recall"
            lines += [f"    - type: {kind}", f"      name: {metric}", f"      value: {100 * float(value):.2f}"]
    return "".join(f"{line}\n" for line in lines)


def _describe_data(dataset: Dataset, source: str) -> str:
    """The data set's sizes, a line each."""
    trn = documents(dataset)
    splits = {"training": trn, "validation": dataset.dev, "test": dataset.tst}
    sizes = [f"{split.Y.shape[0]:,} {name}" for name, split in splits.items() if split]
    lines = [
        f"- {source}: {', '.join(sizes)} documents",
        f"- {trn.Y.shape[1]:,} labels, {trn.Y.nnz / trn.Y.shape[0]:.2f} a training document",
    ]
    if dataset.trn.nr_label_texts:
        lines.append(f"- {dataset.trn.nr_label_texts:,} texts of labels, trained on as documents of these labels")
    if trn.texts is not None:
        words = sum(len(text.split()) for text in trn.texts) / len(trn.texts)
        lines.append(f"- {words:.1f} words a training text")
    return "\n".join(lines)
