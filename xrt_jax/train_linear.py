"""XR-Linear alone, from data to model folder, resumable after each stage; jax is never imported.

Started by mpiexec, its ranks make the tree and the rankers together; all else the first one does.

Yu et al., "PECOS: Prediction for Enormous and Correlated Output Spaces" (2022).
"""

from pathlib import Path

from ml_collections import ConfigDict

from xrt_jax.disk import read_json, write_json
from xrt_jax.header import config_card, print_linear_header
from xrt_jax.metrics import format_table, precision_recall
from xrt_jax.model import save_model
from xrt_jax.processes import from_first, is_first
from xrt_jax.report import Report
from xrt_jax.stages import (
    load_clusters,
    load_data,
    make_features,
    open_together,
    percent,
    rank,
    rank_test,
    ranker_levels,
    save_report,
)
from xrt_jax.xlinear.mpi import join_ranks


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> dict:
    """Trains XR-Linear, prints the test table and returns what metrics.json holds.

    Without a test split (config.data.has_test) there is no table.
    """
    join_ranks()
    workdir = open_together(config, Path(workdir))
    report = Report(workdir)

    # ------------------------------------------------------------------ data
    dataset = trn = tfidf = X_tst = None  # of the first process; the others get their part from it (sharing.py)
    X_trn = []  # the only hold of the training features: when several processes share them, none keeps its own
    with report.stage("data"):
        if is_first():
            dataset = load_data(config, workdir)
            print_linear_header(dataset, ranker_levels(config, dataset.trn))
        nr_labels = from_first(dataset and dataset.trn.Y.shape[1])

    # ---------------------------------------------------------------- TF-IDF
    with report.stage("tfidf"):
        if is_first():
            tfidf, *X_trn, X_tst = make_features(config, dataset, workdir)
            trn = dataset.trn._replace(X=None)
            dataset = dataset._replace(trn=trn)

    # -------------------------------- label features, tree, linear rankers
    with report.stage("xr_linear"):
        chain = load_clusters(config, "refined_tree", nr_labels)
        ranker = rank(config, workdir / "xr_linear", X_trn.pop, trn, chain)
    if not is_first():
        from_first()
        return read_json(workdir / "metrics.json")

    # ------------------------------------------------ metrics and model
    predictions = {}
    if dataset.tst:
        with report.stage("predict"):
            predictions["xr_linear"] = rank_test(workdir / "xr_linear", ranker, X_tst)
    metrics = {name: precision_recall(dataset.tst.Y, P, 10) for name, P in predictions.items()}
    save_model(
        workdir / "model",
        settings={"model": "xr_linear", "normalize": config.data.normalize},
        ranker=ranker,
        tfidf=tfidf,
        labels=dataset.label_names,
        card=config_card(config, dataset, metrics),
    )
    result = {**{name: percent(values) for name, values in metrics.items()}, "seconds": report.seconds()}
    write_json(workdir / "metrics.json", result)
    if predictions:
        levels = [level.C.shape[0] for level in ranker]
        save_report("XR-Linear", workdir, report, dataset, metrics, predictions, levels)
        print(f"\n{format_table(metrics)}\n\nreport:       {workdir / 'report.html'}", end="")
    print(f"\nmodel folder: {workdir / 'model'}")
    from_first()
    return result
