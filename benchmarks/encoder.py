"""An encoder here beside PyTorch's: a training step and an encoding pass, and an epoch over texts of real lengths.

    python benchmarks/encoder.py --encoder FOLDER --peer-python PEERS/bin/python [--batch 32 --length 128 --threads 2]
    python benchmarks/encoder.py --encoder FOLDER --texts FILE --batches 20          (or --lengths FILE)

FOLDER is a Hugging Face folder. PEERS is a virtual environment with torch==2.13.0 and transformers==4.49.0; the
variable XRT_PEERS_PYTHON names its python too; without either only our side runs. Both sides have the same weights,
token ids, padding, precision (bfloat16: by autocast) and dropout. A training step is forward pass, weighted squared
hinge over a level of 512 labels, backward pass, clipping by norm, AdamW on the encoder and Adam on the head. Each side
is one long-lived process that answers a repeat at a time; they take turns while the other sleeps. Both have huge pages,
as a run of xrt_jax.main has them; GLIBC_TUNABLES=glibc.malloc.hugetlb=0 takes them from both.

With --texts (one a line) or --lengths (tokens of a text, one a line), batches of a shuffled epoch are drawn as training
draws them, padded to their bucket here and to --length there, as PECOS pads; both sides train on the same texts.

Prints a line on the machine, a Markdown table of medians, how far the embeddings are apart, and a line of the ratios
ours / torch (nan without it). Ends with status 1 where the embeddings do not agree. Rates count padding, which is
computed like all else.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from measure import available_cores, processor

from xrt_jax.data.tokens import Batch, Tokens, bucket_lengths, pad_batch, plan_epoch, text_lengths, tokenize
from xrt_jax.encoders import ENCODERS
from xrt_jax.encoders.attention import ATTENTIONS
from xrt_jax.encoders.huggingface import load_tokenizer
from xrt_jax.huge_pages import restart_with_huge_pages

HERE = Path(__file__).resolve().parent
NR_LABELS, NR_CLUSTERS = 512, 32
CLUSTERS_A_TEXT, LABELS_A_TEXT = 10, 4
SETTINGS = {
    "loss": "weighted-squared-hinge",
    "learning_rate": 1e-5,
    "adam_epsilon": 1e-8,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "nr_clusters": NR_CLUSTERS,
}
LEAST_SECONDS = 0.2  # of a repeat; shorter steps are timed several at once
# Largest distance of the embeddings over their norm; float32 products on a GPU have TF32's ten bits.
TOLERANCES = {("cpu", "float32"): 1e-4, ("gpu", "float32"): 1e-2, ("cpu", "bfloat16"): 5e-2, ("gpu", "bfloat16"): 5e-2}
STEPS = ("train", "encode")


# ---------------------------------------------------------------------------- inputs


def make_labels(rng: np.random.Generator, b: int) -> dict[str, np.ndarray]:
    """Shortlists and positives of b texts, as our step takes them and as arrays [b, labels]."""
    parent = np.arange(NR_LABELS, dtype=np.int32) * NR_CLUSTERS // NR_LABELS
    draw = lambda most, count: np.stack([rng.choice(most, count, replace=False) for _ in range(b)])  # noqa: E731
    clusters, labels = draw(NR_CLUSTERS, CLUSTERS_A_TEXT).astype(np.int32), draw(NR_LABELS, LABELS_A_TEXT)
    values = rng.integers(1, 4, labels.shape).astype(np.float32)
    y = np.zeros((b, NR_LABELS), np.float32)
    np.put_along_axis(y, labels, values, axis=1)
    listed = (parent[None, :, None] == clusters[:, None, :]).any(axis=2) | (y > 0)
    packed = {"clusters": clusters, "labels": labels.astype(np.int32), "values": values, "parent": parent}
    return packed | {"y": y, "listed": listed.astype(np.float32)}


def random_tokens(rng: np.random.Generator, lengths: np.ndarray, *, vocab_size: int, pad_id: int) -> Tokens:
    """Texts of these lengths, any tokens but the one that pads."""
    ids = rng.integers(0, vocab_size - 1, lengths.sum()).astype(np.int32)
    return Tokens(ids + (ids >= pad_id), np.concatenate([[0], np.cumsum(lengths)]), pad_id)


def read_texts(args, rng, config: dict, folder: Path) -> Tokens:
    """Tokens of the texts in --texts, or of as many random ones as --lengths has lines."""
    if args.texts:
        texts = Path(args.texts).read_text(encoding="utf-8").splitlines()
        return tokenize(texts, load_tokenizer(args.encoder), folder / "tokens", truncate_length=args.length)
    lengths = np.loadtxt(args.lengths, np.int64, ndmin=1).clip(1, args.length)
    return random_tokens(rng, lengths, vocab_size=config["vocab_size"], pad_id=config["pad_token_id"])


def sample_batches(args, tokens: Tokens) -> list[tuple[np.ndarray, np.ndarray]]:
    """(ids, mask) of the first full batches of a shuffled epoch, padded to their buckets."""
    lengths = text_lengths(tokens)
    buckets = bucket_lengths(lengths, truncate_length=args.length, nr_buckets=args.buckets)
    planned = plan_epoch(lengths, buckets, batch_size=args.batch, seed=0, epoch=0)
    full = [batch for batch in planned if len(batch.rows) == args.batch][: args.batches]
    if not full:
        sys.exit(f"{len(lengths)} texts do not fill one batch of {args.batch}: lower --batch")
    return [pad_batch(tokens, batch, batch_size=args.batch) for batch in full]


def prepare(args, folder: Path) -> list[int]:
    """Writes arrays.npz and settings.json for both sides; the padded length of each batch of the epoch."""
    config = json.loads((Path(args.encoder) / "config.json").read_text(encoding="utf-8"))
    pad_id, rng = config.setdefault("pad_token_id", 0), np.random.default_rng(0)
    lengths = rng.integers(args.length // 2, args.length + 1, args.batch)
    lengths[0] = args.length
    tokens = random_tokens(rng, lengths, vocab_size=config["vocab_size"], pad_id=pad_id)
    ids, mask = pad_batch(tokens, Batch(np.arange(args.batch), args.length), batch_size=args.batch)
    labels = make_labels(rng, args.batch)
    hidden = config.get("hidden_size") or config["dim"]  # DistilBERT's
    head = {"W": rng.normal(0, 0.02, (NR_LABELS, hidden)).astype(np.float32), "b": np.zeros(NR_LABELS, np.float32)}
    batches = sample_batches(args, read_texts(args, rng, config, folder)) if args.texts or args.lengths else []
    epoch = {
        f"{name}_{i}": array
        for i, pair in enumerate(batches)
        for name, array in zip(("ids", "mask"), pair, strict=True)
    }
    np.savez(folder / "arrays.npz", ids=ids, mask=mask, **labels, **head, **epoch)
    settings = SETTINGS | {
        "encoder": str(Path(args.encoder).resolve()),
        "dtype": args.dtype,
        "attention": args.attention,
        "dropout": args.dropout,
        "length": args.length,
        "pad_id": pad_id,
        "pooling": ENCODERS[config["model_type"]].POOLINGS[0],
        "width": int(labels["listed"].sum(axis=1).max()),
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    return [ids.shape[1] for ids, _ in batches]


# ---------------------------------------------------------------------------- runs


class Side:
    """A worker process; a call of it waits for the answer."""

    def __init__(self, name: str, python: str, folder: Path, threads: int, *, alone: bool):
        self.name, self.log = name, open(folder / f"{name}.log", "w+", encoding="utf-8")  # noqa: SIM115
        environment = os.environ | {f"{kind}_NUM_THREADS": str(threads) for kind in ("OMP", "OPENBLAS", "MKL")}
        environment["PJRT_NPROC"] = str(threads)
        if not alone:  # two processes share a GPU's memory
            environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log}
        command = [python, str(HERE / f"encoder_{name}.py"), str(folder)]
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)

    def __call__(self, call: str, **arguments) -> dict:
        """What the worker measured; the command ends with the worker's last line where that has died."""
        try:
            self.process.stdin.write(json.dumps({"call": call, **arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
            self.log.seek(0)
            lines = self.log.read().strip().splitlines() or [f"exit code {code}"]
            sys.exit(f"{self.name}, {call}: {lines[-1]}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the worker."""
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


def in_turns(sides: list[Side], number: int) -> list[Side]:
    """Who goes first changes from repeat to repeat."""
    return sides if number % 2 == 0 else sides[::-1]


def measure(args, sides: list[Side], batch_lengths: list[int]) -> dict[str, dict]:
    """Figures of each side; the first call of each kind compiles and is not timed."""
    figures = {side.name: side("about") for side in sides}
    for side in sides:
        side("embeddings")
        figures[side.name]["first"] = side("train", times=1)
    seconds = defaultdict(list)
    for step in STEPS:
        slowest = max(side(step, times=1)["seconds"] for side in sides)
        times = math.ceil(LEAST_SECONDS / slowest)
        for repeat in range(args.repeats):
            for side in in_turns(sides, repeat):
                seconds[side.name, step].append(side(step, times=times)["seconds"])
    first_of_length = sorted({length: i for i, length in reversed(list(enumerate(batch_lengths)))}.values())
    for side in sides:
        for batch in first_of_length:
            side("epoch", batch=batch)
    for batch in range(len(batch_lengths)):
        for side in in_turns(sides, batch):
            seconds[side.name, "epoch"].append(side("epoch", batch=batch)["seconds"])
    for side in sides:
        found = {step: float(np.median(seconds[side.name, step])) for step in STEPS}
        figures[side.name]["seconds"] = found | {"epoch": sum(seconds[side.name, "epoch"])}
    return figures


def distance(folder: Path) -> float:
    """Of the two sides' embeddings, over the norm of torch's."""
    ours, theirs = (np.load(folder / f"{name}.npy") for name in ("ours", "torch"))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


# ---------------------------------------------------------------------------- what is printed


def table(args, figures: dict[str, dict]) -> str:
    """Markdown: a figure a row, a column a side, and ours / torch."""
    ours, names = figures["ours"], list(figures)
    rows = []
    for step in STEPS:
        seconds = {name: figures[name]["seconds"][step] for name in names}
        rate = {name: ours[step] / seconds[name] for name in names}
        rows += [
            (f"{step}: ms a step", {name: 1e3 * seconds[name] for name in names}, ".1f"),
            (f"{step}: tokens/s", {name: args.batch * args.length / seconds[name] for name in names}, ",.0f"),
            (f"{step}: GFLOP/s", {name: rate[name] / 1e9 for name in names}, ",.1f"),
            (f"{step}: utilisation", {name: rate[name] / figures[name]["ceiling"] for name in names}, ".3f"),
        ]
    rows.append(("matmul ceiling, GFLOP/s", {name: figures[name]["ceiling"] / 1e9 for name in names}, ",.1f"))
    for key in ("loss", "gradient_norm"):
        title = f"first update: {key.replace('_', ' ')}"
        rows.append((title, {name: figures[name]["first"][key] for name in names}, ".5f"))
    if ours["seconds"]["epoch"]:
        title = f"{args.batches} batches of an epoch, s"
        rows.append((title, {name: figures[name]["seconds"]["epoch"] for name in names}, ".2f"))
    both = "torch" in figures
    lines = [["", *names, *(["ours / torch"] if both else [])]]
    lines.append(["---"] + ["--:"] * (len(lines[0]) - 1))
    for title, values, how in rows:
        ratio = [f"{values['ours'] / values['torch']:.3f}"] if both else []
        lines.append([title, *(format(values[name], how) for name in names), *ratio])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def ratio_line(figures: dict[str, dict]) -> str:
    """train_ratio=… encode_ratio=…, and epoch_ratio=… where there was one: seconds, ours / torch; nan without torch."""
    ours = figures["ours"]["seconds"]
    theirs = figures["torch"]["seconds"] if "torch" in figures else dict.fromkeys(ours, math.nan)
    return " ".join(f"{step}_ratio={ours[step] / theirs[step]:.3f}" for step in ours if ours[step])


def headline(args, figures: dict[str, dict]) -> str:
    """Machine and sizes in one line."""
    ours = figures["ours"]
    device = processor() if ours["platform"] == "cpu" else ours["device"]
    peer = f", torch {figures['torch']['version']}" if "torch" in figures else ""
    return (
        f"{device}, {args.threads} of {os.cpu_count()} cores{peer}; {Path(args.encoder).name}: {args.batch} texts × "
        f"{args.length} tokens, {args.dtype}, dropout {args.dropout}; medians of {args.repeats}"
    )


# ---------------------------------------------------------------------------- the command


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Flags, checked: a wrong one is one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, metavar="FOLDER", help="Hugging Face folder")
    parser.add_argument("--peer-python", default=os.environ.get("XRT_PEERS_PYTHON"), help="or XRT_PEERS_PYTHON")
    parser.add_argument("--batch", type=int, default=32, help="texts")
    parser.add_argument("--length", type=int, default=128, help="tokens a text, padding included")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the products")
    parser.add_argument("--attention", choices=ATTENTIONS, default="auto", help="ours; torch has sdpa")
    parser.add_argument("--dropout", type=float, default=0.1, help="of attention and all the rest")
    parser.add_argument("--threads", type=int, default=len(available_cores()), help="all cores, if not given")
    parser.add_argument("--repeats", type=int, default=9)
    texts = parser.add_mutually_exclusive_group()
    texts.add_argument("--texts", metavar="FILE", help="texts of an epoch, one a line")
    texts.add_argument("--lengths", metavar="FILE", help="numbers of tokens of an epoch's texts, one a line")
    parser.add_argument("--buckets", type=int, default=4, help="padded lengths of our side, encoder.nr_buckets")
    parser.add_argument("--batches", type=int, default=20, help="most batches of the epoch to run")
    args = parser.parse_args(arguments)
    if min(args.batch, args.repeats, args.batches) < 1 or args.length < 2:
        parser.error("--batch, --repeats and --batches must be at least 1, --length at least 2")
    if not 1 <= args.threads <= len(available_cores()):
        parser.error(f"--threads={args.threads} must be from 1 to {len(available_cores())}, the cores to run on")
    config = Path(args.encoder) / "config.json"
    if not config.is_file():
        parser.error(f"--encoder={args.encoder}: no config.json there")
    model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    known = sorted(set(ENCODERS) - {"xlnet"})  # XLNet's segments and side of padding differ
    if model_type not in known:
        parser.error(f"--encoder={args.encoder}: model_type {model_type!r} is not one of {', '.join(known)}")
    if args.peer_python and not Path(args.peer_python).is_file():
        parser.error(f"--peer-python={args.peer_python}: there is no such file")
    for path in filter(None, (args.texts, args.lengths)):
        if not Path(path).is_file():
            parser.error(f"{path}: there is no such file")
    return args


def main() -> None:
    restart_with_huge_pages()  # for both sides
    args = parse_arguments()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, available_cores()[: args.threads])  # both workers inherit it
    with tempfile.TemporaryDirectory(prefix="encoder-") as name:
        folder = Path(name)
        batch_lengths = prepare(args, folder)
        args.batches = len(batch_lengths)
        pythons = {"ours": sys.executable} | ({"torch": args.peer_python} if args.peer_python else {})
        sides = [Side(*pair, folder, args.threads, alone=len(pythons) == 1) for pair in pythons.items()]
        try:
            figures = measure(args, sides, batch_lengths)
        finally:
            for side in sides:
                side.close()
        print(f"{headline(args, figures)}\n\n{table(args, figures)}\n")
        if "torch" in figures:
            apart, most = distance(folder), TOLERANCES[figures["ours"]["platform"], args.dtype]
            print(f"embeddings: {apart:.2e} apart, at most {most:g} allowed\n")
        print(ratio_line(figures), flush=True)
        if "torch" in figures and not apart <= most:
            sys.exit("the embeddings of the two sides do not agree")


if __name__ == "__main__":
    main()
