"""python -m xrt_jax.evaluate --model=runs/demo/model --data=runs/demo/data

Precision and recall at 1 … 10 of a model folder on the test split of a data-set folder.
"""

import sys
import tempfile

from absl import flags

from xrt_jax.commands import run_command


def define_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string("model", None, "Model folder.", required=True)
    flags.DEFINE_string("data", None, "Data-set folder with X.tst.txt and Y.tst.npz.", required=True)
    flags.DEFINE_string("tst_rows", None, "File of row numbers, to evaluate on a part of the test split.")


def main(args) -> None:
    """Predicts and prints the table."""
    from xrt_jax.data.folders import load_dataset
    from xrt_jax.metrics import format_table, precision_recall
    from xrt_jax.model import load_model, rank_texts
    from xrt_jax.report import progress

    model = load_model(args.model)
    dataset = load_dataset(args.data, tst_rows=args.tst_rows, dev_size=0)
    tst = dataset.tst
    if tst is None:
        raise ValueError(f"{args.data} has no test split: there is nothing to evaluate on")
    if tst.texts is None and (model.encoder or model.tfidf):
        raise ValueError(f"{args.data} has no X.tst.txt (or .gz, .xz): {args.model} was trained on texts")
    if dataset.label_names != model.labels:
        raise ValueError(
            f"{args.data} names other labels than {args.model}/labels.txt: evaluate on the model's own labels"
        )
    with tempfile.TemporaryDirectory() as tmp:
        ranked = rank_texts(model, tst.texts, f"{tmp}/tokens", X=tst.X, progress=progress)
    print(format_table({model.settings["model"]: precision_recall(tst.Y, ranked, 10)}))


if __name__ == "__main__":
    define_flags()
    sys.exit(run_command(main))
