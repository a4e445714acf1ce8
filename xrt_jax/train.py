"""XR-Transformer from data to model folder: the whole algorithm, in order, resumable after each stage.

Zhang et al., "Fast Multi-Resolution Transformer Fine-tuning for Extreme Multi-label Text Classification" (2021).
Every stage writes its result to the work directory, whole or not at all, and is skipped where the result is there.
Where a run has several processes, all of them work on the devices and on the linear rankers; the first one does the
rest, and writes; see `processes`.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from scipy.sparse import csc_matrix, csr_matrix

from xrt_jax import checkpoint
from xrt_jax.compilations import compilations
from xrt_jax.data.tokens import Tokens, text_lengths
from xrt_jax.disk import read_json, replace_file, write_json
from xrt_jax.encoder_start import (
    check_length,
    compute_dtype,
    interpolate,
    load_start,
    new_encoder,
    pretrain_encoder,
    tokenize_once,
)
from xrt_jax.encoders.flops import matmul_ceiling
from xrt_jax.encoders.huggingface import count_parameters, load_tokenizer
from xrt_jax.header import config_card, print_header
from xrt_jax.levels import FINE_TUNING, needs_beam, needs_embeddings, plan_levels, uses_concat
from xrt_jax.matcher.concat import join_beams, train_concat
from xrt_jax.matcher.finetune import Padding, embed, fine_tune, make_scorer, number_of_steps
from xrt_jax.matcher.head import start_head
from xrt_jax.matcher.mesh import make_mesh
from xrt_jax.matcher.shortlist import match_clusters
from xrt_jax.metrics import format_table, precision_recall
from xrt_jax.model import join_features, save_model
from xrt_jax.npz import load_npz, save_npz
from xrt_jax.processes import are_several, first_then_others, from_first, is_first, start
from xrt_jax.report import Report, progress
from xrt_jax.sharing import write_array
from xrt_jax.stages import (
    build_tree,
    features_of,
    load_clusters,
    load_data,
    make_features,
    open_together,
    percent,
    rank,
    rank_test,
    ranker_levels,
    require_texts,
    save_report,
)
from xrt_jax.tree.chain import aggregate_labels
from xrt_jax.xlinear.predict import root_beam


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> dict:
    """Trains XR-Transformer (and XR-Linear beside it), prints the test table and returns what metrics.json holds.

    Without a test split (config.data.has_test) there is neither table nor XR-Linear beside it.
    """
    start()
    workdir = open_together(config, Path(workdir))
    report = Report(workdir, counters=compilations)
    checkpoint.quiet_orbax()
    mesh = make_mesh(config.mesh.label)

    # ------------------------------------------------------------------ data
    with report.stage("data"):
        dataset = first_then_others(lambda: load_data(config, workdir))
        require_texts(dataset, config.data.dir)
    trn, dev, tst = dataset.trn, dataset.dev, dataset.tst
    levels, level_settings = plan_levels(config, dataset.trn.Y.shape[1], mesh)
    ranker_levels(config, trn)
    padding = Padding(*(config.encoder[name] for name in Padding._fields))
    # An encoder that cannot be loaded is found out now, not after the linear stages.
    module, encoder = load_start(config, config.encoder.name) if config.encoder.name else new_encoder(config)
    check_length(config, module)
    print_header(config, module, count_parameters(encoder), dataset, levels, len(level_settings))

    # ---------------------------------------------------------------- TF-IDF
    with report.stage("tfidf"):
        # Features are for trees and linear rankers, which the first process makes.
        tfidf, X_trn, X_tst = make_features(config, dataset, workdir) if is_first() else (None, None, None)

    # ------------------------- step 1: label features and preliminary tree
    with report.stage("preliminary_tree"):
        chain = load_clusters(config, "preliminary_tree", trn.Y.shape[1])
        chain = chain or first_then_others(
            lambda: build_tree(config, "preliminary_tree", workdir / "preliminary_tree", X_trn, trn.Y)
        )
    ranker_chain = chain if config.fix_clustering else None  # else a refined one is built

    # ------------------------------------------------- XR-Linear, to compare
    predictions = {}
    if config.xr_linear and tst:
        with report.stage("xr_linear"):
            linear = rank(config, workdir / "xr_linear", lambda: X_trn, trn, ranker_chain)
            if is_first():
                predictions["xr_linear"] = rank_test(workdir / "xr_linear", linear, X_tst)

    Y_trn = aggregate_labels(trn.Y, chain)
    Y_dev = aggregate_labels(dev.Y, chain) if dev else [None] * len(chain)
    if is_first() and any(uses_concat(level_settings, level) for level in range(len(level_settings))):
        X = {"trn": X_trn, "tst": X_tst, "dev": dev and features_of(dev, tfidf)}

    # ------------------------------- step 2: fine-tuning, from easy to hard
    with report.stage("encoder"):
        start_folder = config.encoder.name or workdir / "encoder_start"
        if not config.encoder.name:
            if is_first():
                pretrain_encoder(config, workdir, trn.texts, padding, report)
            from_first()
            module, encoder = load_start(config, start_folder)
        tokenizer = load_tokenizer(start_folder)
        tokens = {
            name: first_then_others(partial(tokenize_once, workdir / "tokens" / name, split.texts, tokenizer, padding))
            for name, split in (("trn", trn), ("dev", dev), ("tst", tst))
            if split
        }
        unfinished = [t for t in range(len(level_settings)) if not checkpoint.has_state(workdir / f"level_{t}")]
        ceiling = matmul_ceiling(compute_dtype(config)) if unfinished else None
    passes = {"mesh": mesh, "padding": padding, "progress": progress}
    embed_texts = partial(embed_once, module=module, **passes)
    head = emb_trn = None
    share = config.encoder.fine_tuned_share
    is_final = bool(level_settings) and share == 1  # the ranker takes the last level's encoder as it is
    scored = [name for name in tokens if name != "tst" or config.only_encoder or config.matcher.score_test]
    beams = {name: root_beam(len(text_lengths(tokens[name]))) for name in scored}
    for t, settings in enumerate(level_settings):
        with report.stage(f"level_{t}"):
            level = M = None  # lets go of the shortlists of the level above
            M = match_clusters(Y_trn[t - 1], beams["trn"], settings["negative_sampling"]) if t else beams["trn"]
            level = Level(t, settings, workdir / f"level_{t}", Y_trn[t], chain[t], M, seed=config.seed + t)
            search = {name: settings[name] for name in ("only_topk", "post_processor")}
            score = make_scorer(module, level.C, **search, **passes)
            steps = checkpoint.Steps(level.folder)
            if not checkpoint.has_state(level.folder):
                if steps.latest() is not None:  # interrupted in the middle: the checkpoint has the head
                    head = checkpoint.empty_head(level.Y.shape[1], module.hidden_size)
                else:
                    if t == 0 and settings["first_bootstrap"] != "none":
                        emb_trn = embed_texts(workdir / "embeddings.start.npy", encoder, tokens["trn"])
                    head = first_head(level, head, emb_trn, hidden_size=module.hidden_size)

                def evaluate(encoder, head, score=score, Y=Y_dev[t]):
                    return precision_at(Y, score(encoder, head, tokens["dev"], beams["dev"], "validate")[0])

                encoder, head = fine_tune_level(
                    level,
                    module,
                    encoder,
                    head,
                    tokens["trn"],
                    ceiling=ceiling,
                    steps=steps,
                    evaluate=evaluate if dev else None,
                    log=lambda entry, t=t: report.log({"level": t, **entry}),
                    **passes,
                )
                checkpoint.save_state(level.folder, encoder, head)
                if is_first():
                    head_file(level).unlink(missing_ok=True)
            steps.clear()
            # Read back even when just written, so that a resumed run goes on from the same numbers.
            encoder, head = checkpoint.load_state(level.folder, encoder, level.Y.shape[1], module.hidden_size)
            handed_on = [name for name in scored if name != "trn" or needs_beam(level_settings, t)]
            if not checkpoint.is_done(level.folder):
                found, embeddings = {}, {}
                for name in handed_on:
                    found[name], embeddings[name] = score(encoder, head, tokens[name], beams[name])
                if "trn" not in found and needs_embeddings(level_settings, t, is_final):
                    embeddings["trn"] = embed(module, encoder, tokens["trn"], **passes)
                if is_first() and uses_concat(level_settings, t):
                    joined = {name: join_features(X[name], emb_nd) for name, emb_nd in embeddings.items()}
                    found = concat_beams(level, joined, beams, found)
                if is_first():
                    for name, beam in found.items():
                        save_npz(level.folder / f"beam.{name}.npz", beam)
                    if needs_embeddings(level_settings, t, is_final):
                        write_array(level.folder / "embeddings.trn.npy", embeddings["trn"])
                    if is_final and t == len(level_settings) - 1 and "tst" in embeddings:
                        # then it needs no pass of its own
                        write_array(workdir / "embeddings.tst.npy", embeddings["tst"])
                checkpoint.mark_done(level.folder)
            for name in handed_on:
                beams[name] = load_npz(level.folder / f"beam.{name}.npz")
            if needs_embeddings(level_settings, t, is_final):
                emb_trn = np.load(level.folder / "embeddings.trn.npy")

    if level_settings and share < 1:
        encoder = interpolate(load_start(config, start_folder)[1], encoder, share)
    if not (is_final or config.only_encoder):
        with report.stage("embed_train"):
            emb_trn = embed_texts(workdir / "embeddings.trn.npy", encoder, tokens["trn"])

    if level_settings and "tst" in scored and beams["tst"].shape == tst.Y.shape:  # the last level was fine-tuned too
        predictions["matcher"] = beams["tst"]

    # ------------ step 3: refined tree and linear ranker on [X | embedding]
    ranker = None
    if not config.only_encoder:
        if tst:
            with report.stage("embed_test"):
                emb_tst = embed_texts(workdir / "embeddings.tst.npy", encoder, tokens["tst"])
        if config.ranker_features == "embedding":
            tfidf = X_trn = X_tst = None  # the trees and XR-Linear have had their use of them
        with report.stage("ranker"):
            joined = lambda: join_features(X_trn, emb_trn)  # noqa: E731
            ranker = rank(config, workdir / "xr_transformer", joined, trn, ranker_chain)
            if is_first() and tst:
                joined_tst = join_features(X_tst, emb_tst)
                predictions["xr_transformer"] = rank_test(workdir / "xr_transformer", ranker, joined_tst)
    if not is_first():
        from_first()
        return read_json(workdir / "metrics.json")

    # --------------------------------------------------- metrics and model
    metrics = {name: precision_recall(tst.Y, P, 10) for name, P in predictions.items()}
    save_model(
        workdir / "model",
        settings=model_settings(config),
        module=module,
        encoder=encoder,
        tokenizer_folder=start_folder,
        ranker=ranker,
        tfidf=tfidf if ranker else None,
        labels=dataset.label_names,
        card=config_card(config, dataset, metrics),
    )
    result = {**{name: percent(values) for name, values in metrics.items()}, "seconds": report.seconds()}
    write_json(workdir / "metrics.json", result)
    if predictions:  # none without a test split; an encoder fine-tuned on upper levels alone ranks no labels
        shown = levels if ranker is None else [level.C.shape[0] for level in ranker]
        save_report("XR-Transformer", workdir, report, dataset, metrics, predictions, shown)
        print(f"\n{format_table(metrics)}\n\nreport:       {workdir / 'report.html'}", end="")
    print(f"\nmodel folder: {workdir / 'model'}")
    from_first()
    return result


# ---------------------------------------------------------------- the stages


class Level(NamedTuple):
    """A level of the preliminary tree that is fine-tuned: l nodes below l_above clusters."""

    number: int
    settings: dict
    folder: Path
    Y: csr_matrix  # [n, l] the labels of the training texts, counted up to the nodes
    C: csc_matrix  # [l, l_above]
    M: csr_matrix  # [n, l_above] the clusters whose children a text is trained on
    seed: int


def first_head(
    level: Level, head_above: dict[str, np.ndarray] | None, emb_nd: np.ndarray | None, *, hidden_size: int
) -> dict[str, np.ndarray]:
    """The head before the level's first update; emb_nd: embeddings by the encoder above. In all processes the same.

    Were each process to start its own, the bits of different processors could part for ever: it goes by way of a file.
    """

    def start_own() -> dict[str, np.ndarray]:
        return start_head(
            level.settings["bootstrap" if level.number else "first_bootstrap"],
            head_above=head_above,
            emb_nd=emb_nd,
            Y=level.Y,
            C=level.C,
            M=level.M,
            hidden_size=hidden_size,
            seed=level.seed,
            progress=progress,
        )

    if not are_several():
        return start_own()
    if is_first():
        with replace_file(head_file(level)) as tmp:
            np.savez(tmp, **start_own())
    from_first()
    with np.load(head_file(level), allow_pickle=False) as head:
        return dict(head)


def head_file(level: Level) -> Path:
    """Where several processes share the head that the level starts with."""
    return level.folder / "head.start.npz"


def fine_tune_level(level: Level, module, encoder, head: dict[str, np.ndarray], tokens: Tokens, **others):
    """(encoder, head) after the level's updates, by its settings; others: of fine_tune."""
    settings = level.settings
    return fine_tune(
        module,
        encoder,
        head,
        tokens,
        level.Y,
        level.C,
        level.M,
        lazy_head=level.number > 0,
        strategy=settings["head"],
        max_active_labels=settings["max_active_labels"] if level.number else 0,
        num_steps=number_of_steps(
            level.Y.shape[0],
            batch_size=settings["batch_size"] * settings["gradient_accumulation"],
            num_epochs=settings["num_epochs"],
            max_steps=settings["max_steps"],
        ),
        **{name: settings[name] for name in FINE_TUNING},
        seed=level.seed,
        **others,
    )


def concat_beams(level: Level, joined: dict, beams: dict, found: dict) -> dict:
    """The beams of `found`, by name of split, after the level's concat model has had its say.

    joined: [X | embedding] of trn and of these splits; beams: those of the level above.
    """
    settings = level.settings
    concat = train_concat(
        joined["trn"],
        level.Y,
        level.C,
        level.M,
        threshold=settings["concat_threshold"],
        cost_sensitive=settings["cost_sensitive"],
        only_topk=settings["only_topk"],
        post_processor=settings["post_processor"],
        progress=progress,
    )
    how = {"is_first": level.number == 0, "progress": progress}
    return {
        name: join_beams(settings["ensemble"], beam, concat, joined[name], beams[name], **how)
        for name, beam in found.items()
    }


def embed_once(path: Path, encoder, tokens: Tokens, *, module, **passes) -> np.ndarray:
    """Embeddings [n, hidden] from the file, computed and written there first if it is not; passes: of embed."""
    if not from_first(is_first() and path.exists()):
        emb_nd = embed(module, encoder, tokens, **passes)
        if is_first():
            write_array(path, emb_nd)
        from_first()
    return np.load(path)


# --------------------------------------------------------------- what is told


def precision_at(Y: csr_matrix, P: csr_matrix) -> dict[str, float]:
    """P@1, P@3, P@5 in percent, for a log line."""
    prec = 100 * precision_recall(Y, P, 5)["prec"]
    return {f"P@{k}": round(float(prec[k - 1]), 2) for k in (1, 3, 5)}


def model_settings(config: ConfigDict) -> dict:
    """What a model folder must know to treat features and texts as in training."""
    fields = ("pooling", *Padding._fields)
    encoder = {name: config.encoder[name] for name in fields}
    model = "encoder" if config.only_encoder else "xr_transformer"
    normalize = config.data.normalize and config.ranker_features == "both"  # of features that the model is given
    return {"model": model, "normalize": normalize, "ranker_features": config.ranker_features, **encoder}
