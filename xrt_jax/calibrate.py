"""Fits what a model's scores mean on a validation split, so that predict can tell probabilities.

    xrt-jax calibrate --model=runs/books/model --data=data/books
    xrt-jax calibrate --model=runs/books/model --data=data/books --method=platt --per_level=platt
    python -m xrt_jax.calibrate --model=runs/books/model --truth=Y.dev.npz --pred=P.npz

Fitted on the dev split of the data-set folder (X.dev.txt, Y.dev.npz), or on predictions of the model and their truth.
Where validation texts were held out of the training split instead (config.data.dev_size), give their number by
--dev_size. calibration.json in the model folder holds the result, beside it calibration.html shows it; the expected
calibration error of the k best labels, ECE@k, is told before and after, on the test split if there is one.

--per_level also makes a probability of each level's margin, by a sigmoid (platt) or an isotonic map. Labels are then
ranked by the product along their path, which may change the order of the labels; without it, calibration leaves the
order as it is. With isotonic maps per level a search takes more than ten times as long; on titles of YSO Finna they
told probabilities as well as sigmoids did, but ranked a little worse: try platt first.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from absl import flags

from xrt_jax.calibration import (
    METHODS,
    Calibration,
    fit,
    fit_levels,
    predict_by_levels,
    probabilities,
    save_calibration,
)
from xrt_jax.commands import run_command
from xrt_jax.evaluate import check_fits, load_pair
from xrt_jax.metrics import align, ece, precision_recall, reliability
from xrt_jax.report_html import line_chart, table, write_page

DEPTHS = (1, 3, 5, 10)


def define_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string("model", None, "Model folder.", required=True)
    flags.DEFINE_string("data", None, "Data-set folder whose dev split it is fitted on and whose tst split tests it.")
    flags.DEFINE_integer(
        "dev_size", None, "Held-out training texts, where the run had such and the folder no dev split.", lower_bound=1
    )
    flags.DEFINE_string("truth", None, "In place of --data: true labels, .npz.")
    flags.DEFINE_string("pred", None, "With --truth: the model's predictions, .npz of xrt-jax predict.")
    flags.DEFINE_enum("method", "isotonic", METHODS, "Map from score to probability: isotonic needs more texts.")
    flags.DEFINE_enum("per_level", None, METHODS, "Map each level's margins to probabilities first, by this method.")
    flags.DEFINE_string("plot", None, "The page with the reliability plot; default: calibration.html of the model.")


def main(args) -> None:
    """Fits, stores, tells."""
    if bool(args.data) == bool(args.truth and args.pred):
        raise ValueError("give --data, or --truth and --pred: see --help")
    if args.truth and not (args.truth.endswith(".npz") and args.pred.endswith(".npz")):
        raise ValueError("--truth and --pred must be matrices, .npz")
    if args.truth and args.per_level:
        raise ValueError("--per_level needs the texts: give --data in place of --truth and --pred")
    from xrt_jax.model import load_model

    model = load_model(args.model)
    if model.ranker is None:
        raise ValueError(f"{args.model} is an encoder alone: it ranks no labels, there is nothing to calibrate")
    calibration, where, shown = _from_files(args, model) if args.truth else _from_data(args, model)
    save_calibration(args.model, calibration)
    print(f"{calibration.method}, fitted on {calibration.documents:,} texts; on the {where}, percent:")
    print(align(_figures(shown)))
    page = args.plot or Path(args.model) / "calibration.html"
    _write_plot(page, calibration, where, shown)
    print(f"model folder: {args.model}\nplot:         {page}")


def _from_files(args, model) -> tuple[Calibration, str, dict]:
    """(calibration, name of the split that is shown, what is shown: name -> (Y, P, what makes probabilities of P))"""
    Y, P = load_pair(args.truth, args.pred, "", "", None)
    if Y.shape[1] != len(model.labels):
        raise ValueError(f"{args.truth} has {Y.shape[1]} labels, the model {len(model.labels)}: they must agree")
    calibration = fit(args.method, P, Y, post_processor=model.ranker[-1].post_processor)
    return calibration, "same texts", _shown(calibration, Y, P)


def _from_data(args, model) -> tuple[Calibration, str, dict]:
    from xrt_jax.data.folders import load_dataset
    from xrt_jax.model import ranker_features
    from xrt_jax.report import progress
    from xrt_jax.xlinear.predict import predict

    dataset = load_dataset(args.data, dev_size=args.dev_size)
    if dataset.dev is None:
        raise ValueError(
            f"{args.data} has no dev split (X.dev.txt, Y.dev.npz): add one, or give --dev_size as the run's"
        )
    check_fits(model, args.model, dataset.label_names, dataset.dev, args.data)

    def features(split):
        with tempfile.TemporaryDirectory() as tmp:
            return ranker_features(model, split.texts, f"{tmp}/tokens", X=split.X, progress=progress)

    X = features(dataset.dev)
    levels, points = fit_levels(args.per_level, model.ranker, X, dataset.dev.Y) if args.per_level else ([], [])
    rank = partial(predict_by_levels, model.ranker, levels=levels, level_points=points, progress=progress)
    kind = "sigmoid" if levels else model.ranker[-1].post_processor
    calibration = fit(args.method, rank(X), dataset.dev.Y, post_processor=kind, levels=levels, level_points=points)
    where, Y = "dev split", dataset.dev.Y
    if dataset.tst:
        where, Y, X = "test split", dataset.tst.Y, features(dataset.tst)
    own = predict(model.ranker, X, progress=progress) if levels else None
    return calibration, where, _shown(calibration, Y, rank(X), own)


def _shown(calibration: Calibration, Y, P, own=None) -> dict:
    """Scores P and what the final map makes of them; with levels, the model's own scores before."""
    shown = {"scores": (Y, P, np.asarray)}
    if own is not None:
        shown = {"scores": (Y, own, np.asarray), "per level": (Y, P, np.asarray)}
    return shown | {"probabilities": (Y, P, partial(probabilities, calibration))}


def _figures(shown: dict) -> list[list[str]]:
    """ECE@k of each of the rankings, and P@k, which tells whether the order has changed."""
    lines = [["", *(f"ECE@{k}" for k in DEPTHS), *(f"P@{k}" for k in DEPTHS)]]
    for name, (Y, P, told) in shown.items():
        precision = precision_recall(Y, P, max(DEPTHS))["prec"]
        figures = [*(ece(Y, P, k, told) for k in DEPTHS), *(precision[k - 1] for k in DEPTHS)]
        lines.append([name, *(f"{100 * figure:.2f}" for figure in figures)])
    return lines


def _write_plot(path: str | Path, calibration: Calibration, where: str, shown: dict) -> None:
    charts = []
    for k in (1, 5):
        bins = {name: reliability(Y, P, k, told) for name, (Y, P, told) in shown.items()}
        lines = {name: [(b["told"], b["right"]) for b in of_name] for name, of_name in bins.items()}
        charts.append(line_chart(f"share that is right, {k} best", {"ideal": [(0, 0), (1, 1)]} | lines, "score told"))
    rows = [[f"{b['told']:.3f}", f"{b['right']:.3f}", f"{b['count']:,}"] for b in bins["probabilities"]]
    note = (
        f"{calibration.method.capitalize()}, fitted on {calibration.documents:,} texts, shown on the {where}. Labels "
        "are put in bins of equal width by what is told of them; a point is the mean told and the share that is right."
    )
    head, *figures = _figures(shown)
    body = f'<p class="note">{note}</p><div class="row">{"".join(charts)}</div><h2>Percent</h2>{table(head, figures)}'
    body += f"<h2>Probabilities of the 5 best</h2>{table(['told', 'right', 'labels'], rows)}"
    write_page(path, "Calibration", body)


if __name__ == "__main__":
    define_flags()
    sys.exit(run_command(main))
