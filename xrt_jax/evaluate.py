"""Evaluates predictions against the truth: precision, recall and, with --all, the other metrics of the field.

    xrt-jax evaluate --model=runs/demo/model --data=runs/demo/data --all
    xrt-jax evaluate --workdir=runs/wiki10_31k/bert --workdir=runs/wiki10_31k/roberta --output=runs/wiki10_31k/both
    xrt-jax evaluate --truth=Y.tst.npz --pred=P.npz
    xrt-jax evaluate --truth=test.csv --label_column=subjects --pred=ranked.jsonl
    python -m xrt_jax.evaluate --truth=Y.tst.npz --pred=P.npz --all --train_labels=Y.trn.npz --A=0.6 --B=2.6

--model, --data   a model on the test split of a data-set folder; with several --model, each of them and all their
                  rankings joined by --ensemble
--workdir         the same of the runs in work directories, on the test split that they were trained for, joined as
                  their configuration says; the rankings are those that the runs have kept, and computed where one has
                  none or --data or --tst_rows name other texts
--truth, --pred   predictions that were written before; what is printed has the format of PECOS's evaluate. Matrices
                  (.npz), or label names: the truth in a column of a table, the predictions as `xrt-jax predict`
                  writes them (.jsonl, .tsv), ranked as they stand; names beside a matrix need --names

--all adds nDCG, coverage (share of the labels with a right place among the first k somewhere), and with training labels
PSP and PSnDCG (in pyxclib's and AttentionXML's definitions, which differ) and a table of labels by their frequency.
"""

import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags
from scipy.sparse import csr_matrix

from xrt_jax.commands import define_model_flags, load_models, run_command
from xrt_jax.config import flatten, read_fields
from xrt_jax.data.tables import as_labels, cells, read_table
from xrt_jax.data.text_files import read_lines
from xrt_jax.default_config import get_config
from xrt_jax.disk import write_json
from xrt_jax.ensemble import check_method, combine, without_entries
from xrt_jax.metrics import all_metrics, by_frequency, format_frequencies, format_pecos, format_table, precision_recall
from xrt_jax.npz import load_npz, save_npz
from xrt_jax.sparse import canonical
from xrt_jax.stages import TEST_RANKING, percent

PROPENSITY = {"A": 0.55, "B": 1.5}


def define_flags() -> None:
    """The command's flags."""
    define_model_flags(required=False)
    flags.DEFINE_multi_string(
        "workdir", None, "Work directory of a run; given several times, their rankings are joined."
    )
    flags.DEFINE_string("output", None, "Folder for predictions.npz, the ranking or the joined one, and metrics.json.")
    flags.DEFINE_string("data", None, "Data-set folder with X.tst.txt and Y.tst.npz.")
    flags.DEFINE_string("tst_rows", None, "File of row numbers, to evaluate on a part of the test split.")
    flags.DEFINE_string("truth", None, "True labels: .npz [texts, labels], or a table with a column of label names.")
    flags.DEFINE_string("pred", None, "Predictions: .npz [texts, labels], or .jsonl or .tsv of xrt-jax predict.")
    flags.DEFINE_string("label_column", "labels", "Column of the truth's label names.")
    flags.DEFINE_string("separator", "|", "What parts the label names of a text in that column.")
    flags.DEFINE_string("names", None, "Label names, a line a column of the matrices (output-items.txt, labels.txt).")
    flags.DEFINE_integer("k", 10, "Deepest rank.", lower_bound=1)
    flags.DEFINE_alias("topk", "k")
    flags.DEFINE_bool("all", False, "All metrics, and a table by label frequency.")
    flags.DEFINE_string("train_labels", None, "Training labels, .npz, for frequencies and propensities.")
    flags.DEFINE_string("filter", None, "Pairs that do not count, `row label` a line (filter_labels_test.txt).")
    for name, value in PROPENSITY.items():
        flags.DEFINE_float(name, value, "Constant of the propensities: A, B of Wikipedia 0.5, 0.4, of Amazon 0.6, 2.6.")


def main(args) -> None:
    """Prints the metrics of runs, of models or of predictions."""
    chosen = [name for name in ("workdir", "model", "truth") if getattr(args, name)]
    if len(chosen) != 1 or (args.model and not args.data) or bool(args.truth) != bool(args.pred):
        raise ValueError("give --workdir, or --model and --data, or --truth and --pred: see --help")
    if args.truth:
        if args.output:
            raise ValueError("--output goes with --workdir or --model: of --truth and --pred nothing is written")
        _evaluate_files(args)
        return
    folders = getattr(args, chosen[0])
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice:
        raise ValueError(f"--{chosen[0]}={twice} is given twice: a ranking counts once")
    if args.workdir:
        _evaluate_runs(args)
    else:
        _evaluate_models(args)


def _evaluate_files(args) -> None:
    Y, P = load_pair(args.truth, args.pred, args.label_column, args.separator, args.names)
    Y_trn = _train_labels(args.train_labels, Y.shape[1]) if args.train_labels else None
    Y, P = _without_filtered(args.filter, Y, P)
    print("==== evaluation results ====")
    print(format_pecos(_metrics(args, Y, P, Y_trn)))
    _print_frequencies(args, Y, {"": P}, Y_trn)


def _evaluate_models(args) -> None:
    models = load_models(args.model)
    dataset = _load_data(args.data, args.tst_rows)
    for folder, model in zip(args.model, models, strict=True):
        check_fits(model, folder, dataset.label_names, dataset.tst, args.data)
    names = args.model if len(models) > 1 else [models[0].settings["model"]]
    _tell(args, dict(zip(names, _rank(models, [dataset.tst] * len(models)), strict=True)), dataset, args.ensemble)


def _evaluate_runs(args) -> None:
    runs = [read_run(workdir, args.data, args.tst_rows) for workdir in args.workdir]
    rule = args.ensemble if args["ensemble"].present else common_rule(runs)
    places = [(run.data, run.tst_rows) for run in runs]
    opened = {place: _load_data(*place) for place in dict.fromkeys(places)}
    datasets = [opened[place] for place in places]
    check_same_test(runs, datasets)
    members = [_open_member(run, dataset) for run, dataset in zip(runs, datasets, strict=True)]
    rankings = _rank(members, [dataset.tst for dataset in datasets])
    _tell(args, dict(zip(args.workdir, rankings, strict=True)), datasets[0], rule)


def _load_data(folder: str, tst_rows: str | None):
    from xrt_jax.data.folders import load_dataset

    dataset = load_dataset(folder, tst_rows=tst_rows, dev_size=0)
    if dataset.tst is None:
        raise ValueError(f"{folder} has no test split: there is nothing to evaluate on")
    return dataset


def _rank(members: list, splits: list) -> list[csr_matrix]:
    """The rankings of models, each for its split's texts; what is a ranking already stays."""
    from xrt_jax.model import Model, rank_texts
    from xrt_jax.report import progress

    with tempfile.TemporaryDirectory() as tmp:
        return [
            rank_texts(member, split.texts, f"{tmp}/{number}", X=split.X, progress=progress)
            if isinstance(member, Model)
            else member
            for number, (member, split) in enumerate(zip(members, splits, strict=True))
        ]


def _tell(args, named: dict[str, csr_matrix], dataset, rule: str) -> None:
    """Prints the metrics of rankings by name, and of several the joined one's; writes what --output asks for."""
    if len(named) > 1:
        named = named | {rule: combine(rule, list(named.values()))}
    filtered = {name: _without_filtered(args.filter, dataset.tst.Y, P) for name, P in named.items()}
    metrics = {name: _metrics(args, Y, P, dataset.trn.Y) for name, (Y, P) in filtered.items()}
    print(format_table(metrics))
    Y = next(iter(filtered.values()))[0]
    _print_frequencies(args, Y, {name: P for name, (_, P) in filtered.items()}, dataset.trn.Y)
    if args.output:
        *_, P = named.values()
        save_npz(f"{args.output}/predictions.npz", P)
        write_json(f"{args.output}/metrics.json", {name: percent(values) for name, values in metrics.items()})


def _metrics(args, Y, P, Y_trn) -> dict[str, np.ndarray]:
    if not args.all:
        return precision_recall(Y, P, args.k)
    return all_metrics(Y, P, args.k, Y_trn, args.A, args.B)


def _print_frequencies(args, Y, named: dict[str, csr_matrix], Y_trn) -> None:
    if not args.all:
        return
    if Y_trn is None:
        print("PSP, PSnDCG and the table by label frequency need --train_labels")
        return
    k = min(5, args.k)
    for name, P in named.items():
        print(f"\nlabels by training documents, ten groups, percent  {name}".rstrip())
        print(format_frequencies(by_frequency(Y_trn, Y, P, k), k))


def check_fits(model, folder: str, label_names: list[str], split, data: str) -> None:
    """ValueError unless a split of a data-set folder has what the model of a folder needs, and its labels."""
    if split.texts is None and (model.encoder or model.tfidf):
        raise ValueError(f"{data} has no texts (X.tst.txt, .gz, .xz): {folder} was trained on texts")
    if label_names != model.labels:
        raise ValueError(f"{data} names other labels than {folder}/labels.txt: evaluate on the model's own labels")


# ---------------------------------------------------------------------------- runs


class Run(NamedTuple):
    """A finished run, and the test texts that it is to be evaluated on."""

    workdir: str
    ranking: Path | None  # of these texts, kept by the run
    rule: str  # how it is joined with others
    data: str
    tst_rows: str | None


def read_run(workdir: str, data: str | None = None, tst_rows: str | None = None) -> Run:
    """The run of a work directory, with its own test texts or those of data and tst_rows.

    FileNotFoundError if it is no finished run, ValueError if it ranks no labels.
    """
    path, model = Path(workdir) / "config.json", Path(workdir) / "model/config.json"
    if not path.is_file() or not model.is_file():
        raise FileNotFoundError(
            f"{workdir} is no work directory of a finished run: it needs config.json and the folder model; a run that "
            "was broken off goes on with its command"
        )
    config = flatten(get_config()) | read_fields(path)
    if config["only_encoder"]:
        raise ValueError(f"{workdir} is a run with only_encoder: it ranks no labels")
    kept = Path(workdir) / config["method"] / TEST_RANKING
    return Run(
        workdir,
        kept if kept.is_file() and not data and not tst_rows else None,
        config["ensemble"],
        data or config["data.dir"] or f"{workdir}/data",  # the last is the embedded corpus
        tst_rows or config["data.tst_rows"] or None,
    )


def common_rule(runs: list[Run]) -> str:
    """How all of these runs say that they are joined; ValueError if they differ or there is no such rule."""
    other = next((run for run in runs if run.rule != runs[0].rule), None)
    if other:
        raise ValueError(
            f"{runs[0].workdir} is joined by {runs[0].rule}, {other.workdir} by {other.rule}: choose by --ensemble"
        )
    check_method(runs[0].rule)
    return runs[0].rule


def check_same_test(runs: list[Run], datasets: list) -> None:
    """ValueError naming two of the runs unless the data sets of all have the same labels and test texts."""
    first, tst = runs[0].workdir, datasets[0].tst
    for run, dataset in zip(runs, datasets, strict=True):
        if dataset.label_names != datasets[0].label_names:
            raise ValueError(f"{run.workdir} has other labels than {first}: only runs on one data set are joined")
        Y, texts = dataset.tst.Y, dataset.tst.texts
        same = np.array_equal(Y.indptr, tst.Y.indptr) and np.array_equal(Y.indices, tst.Y.indices)
        if not same or (texts and tst.texts and texts != tst.texts):
            raise ValueError(
                f"{run.workdir} has other test texts ({Y.shape[0]:,}) than {first} ({tst.Y.shape[0]:,}): only runs on "
                "one data set are joined; --data and --tst_rows name texts for all"
            )


def _open_member(run: Run, dataset):
    """The ranking that a run has kept, csr [n, L], or its model; ValueError where it does not fit the data set."""
    if run.ranking:
        P = load_npz(run.ranking)
        if P.shape != dataset.tst.Y.shape or read_lines(Path(run.workdir) / "model/labels.txt") != dataset.label_names:
            raise ValueError(f"{run.data} has other test texts or labels than when {run.workdir} was run on it")
        return P
    (model,) = load_models([f"{run.workdir}/model"])
    check_fits(model, f"{run.workdir}/model", dataset.label_names, dataset.tst, run.data)
    return model


# ---------------------------------------------------------------------------- files


def load_pair(truth: str, pred: str, label_column: str, separator: str, names: str | None):
    """(truth, predictions), csr [n, L] each, from matrices or from label names; arguments are the flags."""
    for flag, path in (("truth", truth), ("pred", pred), ("names", names)):
        if path and not Path(path).is_file():
            raise FileNotFoundError(f"--{flag}={path}: there is no such file")
    are_matrices = [path.endswith(".npz") for path in (truth, pred)]
    if any(are_matrices) and not all(are_matrices) and not names:
        raise ValueError(f"{truth} and {pred} are a matrix and label names: name the matrix's columns by --names")
    Y = load_npz(truth) if are_matrices[0] else None
    P = load_npz(pred) if are_matrices[1] else None
    true = cells(read_table(truth, [label_column]), label_column, as_labels, separator) if Y is None else None
    nr_rows = len(true) if Y is None else Y.shape[0]
    ranked = read_ranked(pred, nr_rows) if P is None else None
    columns = (
        read_lines(Path(names)) if names else sorted({name for row in [*(true or ()), *(ranked or ())] for name in row})
    )
    Y = named_matrix(truth, true, columns) if Y is None else Y
    P = named_matrix(pred, ranked, columns) if P is None else P
    if Y.shape != P.shape:
        raise ValueError(f"{truth} has the shape {Y.shape}, {pred} {P.shape}: both need the same texts and labels")
    if not Y.shape[0]:
        raise ValueError(f"{truth} has no rows: there is nothing to evaluate")
    return canonical(Y, "csr", truth), canonical(P, "csr", pred)


def named_matrix(path: str, rows: list[list[str]], columns: list[str]) -> csr_matrix:
    """Rows of label names, best first, as csr float32 [rows, columns] whose values rank them so."""
    of_name = {name: column for column, name in enumerate(columns)}
    indices = [of_name.get(name, -1) for row in rows for name in row]
    if -1 in indices:
        unknown = next(name for row in rows for name in row if name not in of_name)
        raise ValueError(f"{path}: the label {unknown!r} is not among the names of --names")
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    values = [len(row) - place for row in rows for place in range(len(row))]
    return csr_matrix((np.array(values, np.float32), indices, indptr), shape=(len(rows), len(columns)))


def read_ranked(path: str, nr_rows: int) -> list[list[str]]:
    """Label names of each of nr_rows texts, best first, from what xrt-jax predict wrote as .jsonl or .tsv."""
    if path.endswith(".tsv"):
        table = read_table(path, ["text", "label"])
        rows: list[list[str]] = [[] for _ in range(nr_rows)]
        for place, row, name in zip(table.places, *table.columns.values(), strict=True):
            if not row.isdecimal() or int(row) >= nr_rows:
                raise ValueError(f"{path}: {place} is about text {row!r}, the truth has texts 0 to {nr_rows - 1}")
            rows[int(row)].append(name)
    else:
        rows = cells(read_table(path, ["labels"], kind="jsonl"), "labels", _names_of_pairs)
    if len(rows) != nr_rows:
        raise ValueError(f"{path} has {len(rows)} texts, the truth {nr_rows}: line n must belong to text n")
    repeated = next((n for n, row in enumerate(rows) if len(set(row)) < len(row)), None)
    if repeated is not None:
        raise ValueError(f"{path}: text {repeated} has a label twice")
    return rows


def _names_of_pairs(cell) -> list[str]:
    if not isinstance(cell, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in cell):
        raise ValueError("is no list of [name, score] pairs")
    return [str(name) for name, _ in cell]


def _train_labels(path: str, nr_labels: int) -> csr_matrix:
    Y = canonical(load_npz(path), "csr", path)
    if Y.shape[1] != nr_labels:
        raise ValueError(f"--train_labels={path} has {Y.shape[1]} labels, the truth {nr_labels}: they must agree")
    return Y


def _without_filtered(path: str | None, Y, P):
    """Truth and predictions without the pairs of a filter file."""
    if not path:
        return Y, P
    pairs = read_pairs(path, Y.shape)
    return without_entries(Y, pairs), without_entries(P, pairs)


def read_pairs(path: str, shape: tuple[int, int]) -> csr_matrix:
    """The pairs of a text file, `row label` a line, numbers from 0, as the pattern of a csr matrix of this shape."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"--filter={path}: there is no such file")
    pairs = []
    for number, line in enumerate(read_lines(Path(path)), 1):
        fields = line.split()
        if not fields:
            continue
        fits = len(fields) == 2 and all(field.isdecimal() for field in fields)
        if not fits or any(int(field) >= most for field, most in zip(fields, shape, strict=True)):
            raise ValueError(
                f"{path}: line {number} is {line!r}, not a row below {shape[0]:,} and a label below {shape[1]:,}"
            )
        pairs.append((int(fields[0]), int(fields[1])))
    row, label = np.array(pairs, np.int64).reshape(-1, 2).T
    return canonical(csr_matrix((np.ones(len(row), np.float32), (row, label)), shape=shape), "csr")


if __name__ == "__main__":
    define_flags()
    sys.exit(run_command(main))
