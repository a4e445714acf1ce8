"""XR-Linear alone, from data to model folder, resumable after each stage; jax is never imported.

Yu et al., "PECOS: Prediction for Enormous and Correlated Output Spaces" (2022).
"""

from pathlib import Path

from ml_collections import ConfigDict

from xrt_jax.disk import write_json
from xrt_jax.header import model_card, print_linear_header
from xrt_jax.metrics import format_table, precision_recall
from xrt_jax.model import save_model
from xrt_jax.processes import require_one
from xrt_jax.report import Report, progress
from xrt_jax.stages import (
    load_clusters,
    load_data,
    make_features,
    open_workdir,
    percent,
    rank,
    ranker_levels,
    save_report,
)
from xrt_jax.xlinear.predict import predict


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> dict:
    """Trains XR-Linear, prints the test table and returns what metrics.json holds."""
    require_one()
    workdir = open_workdir(config, Path(workdir))
    report = Report(workdir)

    # ------------------------------------------------------------------ data
    with report.stage("data"):
        dataset = load_data(config, workdir)
    print_linear_header(dataset, ranker_levels(config, dataset.trn))

    # ---------------------------------------------------------------- TF-IDF
    with report.stage("tfidf"):
        tfidf, X_trn, X_tst = make_features(config, dataset, workdir)

    # -------------------------------- label features, tree, linear rankers
    with report.stage("xr_linear"):
        chain = load_clusters(config, "refined_tree", dataset.trn.Y.shape[1])
        ranker = rank(config, workdir / "xr_linear", X_trn, dataset.trn, chain)

    # ------------------------------------------------ metrics and model
    with report.stage("predict"):
        predictions = {"xr_linear": predict(ranker, X_tst, progress=progress)}
    metrics = {"xr_linear": precision_recall(dataset.tst.Y, predictions["xr_linear"], 10)}
    save_model(
        workdir / "model",
        settings={"model": "xr_linear", "normalize": config.data.normalize},
        ranker=ranker,
        tfidf=tfidf,
        labels=dataset.label_names,
        card=model_card("XR-Linear", dataset, metrics),
    )
    result = {"xr_linear": percent(metrics["xr_linear"]), "seconds": report.seconds()}
    write_json(workdir / "metrics.json", result)
    save_report("XR-Linear", workdir, report, dataset, metrics, predictions, [level.C.shape[0] for level in ranker])
    print(
        "\n" + format_table(metrics) + f"\n\nmodel folder: {workdir / 'model'}\nreport:       {workdir / 'report.html'}"
    )
    return result
