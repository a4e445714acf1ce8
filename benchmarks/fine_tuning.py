"""What the ranker gains from an encoder that is fine-tuned, half fine-tuned, or not, on texts that neither has seen.

    python benchmarks/fine_tuning.py RUN [--texts=8000] [--shares=0,0.25,0.5,0.75,1] [--seeds=0,1]

RUN is a finished work directory of xrt_jax.main that fine-tuned a given encoder on a part of the training texts,
those of config.data.trn_rows. The texts to measure on are drawn from the others, so that choices do not touch the test
split. RUN/fine_tuning keeps what is embedded: the command goes on after a break. Each seed makes other trees. Prints
P@1/3/5 in percent, mean of the seeds, as a Markdown table of these rows: shares of the fine-tuned weights, as in
encoder.fine_tuned_share (0, 0.5 and 1 always); start and fine-tuned embeddings side by side; the rankings of both
joined; the matcher's own ranking, alone and joined with the ranker's at a share of a half.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
from ablation import rank_others
from xtransformer import read_config

from xrt_jax.checkpoint import load_state
from xrt_jax.data.folders import load_dataset
from xrt_jax.data.tfidf import load_tfidf
from xrt_jax.data.tokens import text_lengths
from xrt_jax.encoder_start import interpolate, load_start, tokenize_once
from xrt_jax.encoders.huggingface import load_tokenizer
from xrt_jax.ensemble import combine
from xrt_jax.levels import plan_levels
from xrt_jax.matcher.finetune import Padding, embed, make_scorer
from xrt_jax.matcher.mesh import make_mesh
from xrt_jax.metrics import precision_recall
from xrt_jax.report import progress
from xrt_jax.sharing import write_array
from xrt_jax.sparse import Features, normalize_rows
from xrt_jax.stages import features_of, load_data, make_features
from xrt_jax.tree.chain import load_chain
from xrt_jax.xlinear.predict import root_beam


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--texts", type=int, default=8000)
    parser.add_argument("--shares", default="0,0.25,0.5,0.75,1")
    parser.add_argument("--seeds", default="0,1")
    given = parser.parse_args()
    config = read_config(given.run)
    if not (config.do_fine_tune and config.encoder.name and config.data.trn_rows):
        sys.exit(f"{given.run} is no run that fine-tuned a given encoder on data.trn_rows: name one")
    if not (given.run / "tfidf").is_dir():
        sys.exit(f"{given.run} has no TF-IDF for other texts: name a run on texts alone")
    shares = sorted({0.0, 0.5, 1.0} | {float(share) for share in given.shares.split(",")})
    dataset, unseen = load_data(config, given.run), unseen_texts(config, given.texts)
    trn, features = dataset.trn, make_features(config, dataset._replace(tst=None), given.run)[1]
    X = {"trn": features, "unseen": features_of(unseen, load_tfidf(given.run / "tfidf"))}
    E, matched = embeddings(config, given.run, {"trn": trn, "unseen": unseen}, shares)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    found = [rankings(config, X, E, trn.Y, matched, seed) for seed in seeds]
    print("| | P@1 | P@3 | P@5 |\n|---|--:|--:|--:|")
    for name in found[0]:
        prec = np.mean([precision_recall(unseen.Y, P[name], 5)["prec"] for P in found], axis=0)
        print(f"| {name} | " + " | ".join(f"{100 * prec[k - 1]:.2f}" for k in (1, 3, 5)) + " |")


def unseen_texts(config, count: int):
    """So many training texts of the whole data set that the run has not trained on, drawn with seed 0."""
    folder = Path(config.data.dir)
    every = load_dataset(folder, dev_size=0).trn
    rows = np.setdiff1d(np.arange(every.Y.shape[0]), np.loadtxt(folder / config.data.trn_rows, dtype=int))
    rows = np.sort(np.random.default_rng(0).choice(rows, min(count, len(rows)), replace=False))
    return every._replace(texts=[every.texts[row] for row in rows], Y=every.Y[rows])


def embeddings(config, run: Path, splits: dict, shares: list[float]):
    """({share: {split: unit embeddings [n, hidden]}}, the matcher's ranking of the unseen texts)."""
    mesh, padding = make_mesh(), Padding(*(config.encoder[name] for name in Padding._fields))
    module, start = load_start(config, config.encoder.name)
    tokenizer, folder = load_tokenizer(config.encoder.name), run / "fine_tuning"
    folder.mkdir(exist_ok=True)
    tokens = {n: tokenize_once(folder / f"tokens.{n}", split.texts, tokenizer, padding) for n, split in splits.items()}

    # the matcher, level by level as it was trained
    chain = load_chain(run / "preliminary_tree")
    beam = root_beam(len(text_lengths(tokens["unseen"])))
    for t, (C, level) in enumerate(zip(chain, plan_levels(config, chain[-1].shape[0], mesh)[1], strict=False)):
        encoder, head = load_state(run / f"level_{t}", start, C.shape[0], module.hidden_size)
        how = {"only_topk": level["only_topk"], "post_processor": level["post_processor"]}
        beam, _ = make_scorer(module, C, mesh=mesh, padding=padding, progress=progress, **how)(
            encoder, head, tokens["unseen"], beam
        )

    def embed_once(share: float, name: str) -> np.ndarray:
        path = folder / f"embeddings.{share:g}.{name}.npy"
        if not path.is_file():
            mixed = interpolate(start, encoder, share)
            write_array(path, embed(module, mixed, tokens[name], mesh=mesh, padding=padding, progress=progress))
        return normalize_rows(np.load(path))

    return {share: {name: embed_once(share, name) for name in splits} for share in shares}, beam


def rankings(config, X: dict, E: dict, Y, matched, seed: int) -> dict:
    """Rankings of the unseen texts by name of row."""

    def rank(embedding: dict):
        return rank_others(config, *(Features(X[name], embedding[name]) for name in ("trn", "unseen")), Y, seed, {})

    join = partial(combine, config.ensemble)
    P = {share: rank(embedding) for share, embedding in E.items()}
    half = np.sqrt(np.float32(0.5))  # rows of length 1
    side_by_side = {name: half * np.concatenate([E[0.0][name], E[1.0][name]], axis=1) for name in X}
    return {
        **{f"share {share:g}": ranked for share, ranked in P.items()},
        "start and fine-tuned side by side": rank(side_by_side),
        "rankings of start and fine-tuned joined": join([P[0.0], P[1.0]]),
        "matcher alone": matched,
        "share 0.5 joined with the matcher": join([P[0.5], matched]),
    }


if __name__ == "__main__":
    main()
