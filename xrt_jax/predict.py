"""python -m xrt_jax.predict --model=runs/demo/model --input=texts.txt [--output=ranked.jsonl]

Ranks labels for new texts, one a line; writes one JSON object a line: {"labels": [[name, score], …]}, best first.
With several --model the rankings of all are joined by --ensemble.
"""

import json
import sys
import tempfile

from absl import flags
from scipy.sparse import csr_matrix

from xrt_jax.commands import define_model_flags, given_features, load_models, open_output, read_input, run_command
from xrt_jax.ensemble import combine, first_entries


def define_flags() -> None:
    """The command's flags."""
    define_model_flags()
    flags.DEFINE_string(
        "input", "-", "Texts, one a line, plain or .gz or .xz; - for standard input. Features alone need none."
    )
    flags.DEFINE_string("features", "", "Features of the texts (.npz, .npy), for models trained on given features.")
    flags.DEFINE_string("output", "-", "Where to write; - for standard output.")
    flags.DEFINE_integer("topk", 10, "Labels a text.", lower_bound=1)
    flags.DEFINE_integer("beam", None, "Beam size; default: the model's own.", lower_bound=1)


def main(args) -> None:
    """Ranks and writes."""
    from xrt_jax.model import rank_texts
    from xrt_jax.report import progress

    models = load_models(args.model)
    texts = read_input(args.input) if any(model.encoder or model.tfidf for model in models) else None
    with tempfile.TemporaryDirectory() as tmp:
        rankings = [
            rank_texts(
                model,
                texts,
                f"{tmp}/{number}",
                X=given_features(args.features),
                beam_size=args.beam,
                only_topk=args.topk if len(models) == 1 else None,  # joined, lower places count too
                progress=progress,
            )
            for number, model in enumerate(models)
        ]
    ranked = rankings[0] if len(models) == 1 else first_entries(combine(args.ensemble, rankings), args.topk)
    with open_output(args.output) as out:
        for pairs in named_rows(ranked, models[0].labels):
            out.write(json.dumps({"labels": pairs}, ensure_ascii=False) + "\n")


def named_rows(P: csr_matrix, labels: list[str]):
    """Yields [[label name, score], …] of each row, in stored order."""
    for start, end in zip(P.indptr[:-1], P.indptr[1:], strict=True):
        yield [[labels[j], round(float(s), 6)] for j, s in zip(P.indices[start:end], P.data[start:end], strict=True)]


if __name__ == "__main__":
    define_flags()
    sys.exit(run_command(main))
