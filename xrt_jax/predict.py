"""Ranks labels for new texts with a trained model, XR-Linear or XR-Transformer.

    xrt-jax predict --model=runs/demo/model --text=texts.txt --k=5
    python -m xrt_jax.predict --model=runs/demo/model --text=books.csv --text_column=title --output=ranked.tsv

--format=jsonl   a line a text, {"labels": [[name, score], …]}, best first
--format=tsv     a line a label: number of the text from 0, label, score; below a line of column names
--format=npz     a scipy sparse matrix [texts, labels] of the scores, for which --output must be a file

Scores are ranking scores: products, over the levels of the tree, of what the post-processor makes of a classifier's
margin. They order the labels of a text; "l3-hinge" and "sigmoid" lie between 0 and 1 and still are no probabilities.
After `xrt-jax calibrate` the model folder knows what they mean: --probabilities tells those, and --threshold keeps the
labels that are at least so probable; order and --k are the ranking's. Without a calibration --threshold looks at the
ranking score.
"""

import json
import sys
import tempfile
from pathlib import Path

from absl import flags
from scipy.sparse import csr_matrix

from xrt_jax.commands import (
    check_input,
    check_search_flags,
    define_model_flags,
    define_search_flags,
    define_text_flags,
    given_features,
    load_models,
    open_output,
    read_input,
    run_command,
)
from xrt_jax.ensemble import combine, entries_from, first_entries
from xrt_jax.npz import save_npz
from xrt_jax.report import logger, progress

FORMATS = ("jsonl", "npz", "tsv")


def define_flags() -> None:
    """The command's flags."""
    define_model_flags()
    define_text_flags(" Features alone need none.")
    flags.DEFINE_string("features", "", "Features of the texts (.npz, .npy), for models trained on given features.")
    flags.DEFINE_integer("k", 10, "Labels a text, at most.", lower_bound=1)
    flags.DEFINE_alias("topk", "k")
    define_search_flags()
    flags.DEFINE_float("threshold", None, "Keep labels whose probability (see above) is at least this.")
    flags.DEFINE_bool(
        "probabilities", None, "Tell calibrated probabilities; default: with --threshold, if the model has them."
    )
    flags.DEFINE_enum("format", None, FORMATS, "What is written; default: as the output's name ends, else jsonl.")
    flags.DEFINE_string("output", "-", "Where to write; - for standard output.")


def main(args) -> None:
    """Ranks and writes."""
    kind = _output_format(args)
    check_search_flags(args)
    check_input(args)
    from xrt_jax.model import rank_texts

    models = load_models(args.model)
    probabilities = _tells_probabilities(args, models)
    texts = read_input(args) if any(model.encoder or model.tfidf for model in models) else None
    with tempfile.TemporaryDirectory() as tmp:
        rankings = [
            rank_texts(
                model,
                texts,
                f"{tmp}/{number}",
                X=given_features(args.features),
                beam_size=args.beam,
                only_topk=args.k if len(models) == 1 else None,  # joined, lower places count too
                post_processor=args.post_processor,
                probabilities=probabilities,
                progress=progress,
            )
            for number, model in enumerate(models)
        ]
    ranked = rankings[0] if len(models) == 1 else first_entries(combine(args.ensemble, rankings), args.k)
    if args.threshold is not None:
        ranked = entries_from(ranked, args.threshold)
    if kind == "npz":
        save_npz(args.output, ranked)
        return
    with open_output(args.output) as out:
        for line in WRITERS[kind](ranked, models[0].labels):
            out.write(line + "\n")


def _output_format(args) -> str:
    ending = Path(args.output).suffix[1:]
    kind = args.format or (ending if ending in FORMATS else "jsonl")
    if kind == "npz" and ending != "npz":
        raise ValueError(f"--format=npz needs a file: give --output a name that ends in .npz, not {args.output!r}")
    return kind


def _tells_probabilities(args, models) -> bool:
    """Whether scores are to be probabilities; ValueError where they are asked for and cannot be told."""
    uncalibrated = [folder for folder, model in zip(args.model, models, strict=True) if model.calibration is None]
    if args.probabilities is None:
        wanted = args.threshold is not None and not uncalibrated and args.post_processor is None
        wanted = wanted and (len(models) == 1 or args.ensemble == "average")
        if args.threshold is not None and not wanted:
            logger.warning("--threshold is compared with ranking scores: no calibrated probabilities are at hand")
        return wanted
    if args.probabilities and uncalibrated:
        raise ValueError(f"--probabilities: {uncalibrated[0]} has none; run xrt-jax calibrate on it first")
    if args.probabilities and len(models) > 1 and args.ensemble != "average":
        raise ValueError("--probabilities of several models can only be averaged: add --ensemble=average")
    if args.probabilities and args.post_processor is not None:
        raise ValueError("--probabilities are told of the model's own scores: leave out --post_processor")
    return args.probabilities


def named_rows(P: csr_matrix, labels: list[str]):
    """Yields [[label name, score], …] of each row, in stored order."""
    for start, end in zip(P.indptr[:-1], P.indptr[1:], strict=True):
        yield [[labels[j], round(float(s), 6)] for j, s in zip(P.indices[start:end], P.data[start:end], strict=True)]


def _json_lines(P: csr_matrix, labels: list[str]):
    for pairs in named_rows(P, labels):
        yield json.dumps({"labels": pairs}, ensure_ascii=False)


def _tsv_lines(P: csr_matrix, labels: list[str]):
    yield "text\tlabel\tscore"
    for row, pairs in enumerate(named_rows(P, labels)):
        for name, score in pairs:
            name = name.replace("\t", " ")
            yield f"{row}\t{name}\t{score}"


WRITERS = {"jsonl": _json_lines, "tsv": _tsv_lines}


if __name__ == "__main__":
    define_flags()
    sys.exit(run_command(main))
