"""python -m xrt_jax.evaluate --model=runs/demo/model --data=runs/demo/data

Precision and recall at 1 … 10 of a model folder on the test split of a data-set folder; with several --model, of each
and of all their rankings joined by --ensemble.
"""

import sys
import tempfile

from absl import flags

from xrt_jax.commands import define_model_flags, load_models, run_command
from xrt_jax.ensemble import combine


def define_flags() -> None:
    """The command's flags."""
    define_model_flags()
    flags.DEFINE_string("data", None, "Data-set folder with X.tst.txt and Y.tst.npz.", required=True)
    flags.DEFINE_string("tst_rows", None, "File of row numbers, to evaluate on a part of the test split.")


def main(args) -> None:
    """Predicts and prints the table."""
    from xrt_jax.data.folders import load_dataset
    from xrt_jax.metrics import format_table, precision_recall
    from xrt_jax.model import rank_texts
    from xrt_jax.report import progress

    models = load_models(args.model)
    dataset = load_dataset(args.data, tst_rows=args.tst_rows, dev_size=0)
    tst = dataset.tst
    if tst is None:
        raise ValueError(f"{args.data} has no test split: there is nothing to evaluate on")
    for folder, model in zip(args.model, models, strict=True):
        if tst.texts is None and (model.encoder or model.tfidf):
            raise ValueError(f"{args.data} has no X.tst.txt (or .gz, .xz): {folder} was trained on texts")
    if dataset.label_names != models[0].labels:
        raise ValueError(
            f"{args.data} names other labels than {args.model[0]}/labels.txt: evaluate on the model's own labels"
        )
    with tempfile.TemporaryDirectory() as tmp:
        rankings = [
            rank_texts(model, tst.texts, f"{tmp}/{number}", X=tst.X, progress=progress)
            for number, model in enumerate(models)
        ]
    if len(models) == 1:
        named = {models[0].settings["model"]: rankings[0]}
    else:
        named = dict(zip(args.model, rankings, strict=True)) | {args.ensemble: combine(args.ensemble, rankings)}
    print(format_table({name: precision_recall(tst.Y, ranked, 10) for name, ranked in named.items()}))


if __name__ == "__main__":
    define_flags()
    sys.exit(run_command(main))
