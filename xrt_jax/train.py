"""XR-Transformer from data to model folder: the whole algorithm, in order, resumable after each stage.

Zhang et al., "Fast Multi-Resolution Transformer Fine-tuning for Extreme Multi-label Text Classification" (2021).
Every stage writes its result to the work directory, whole or not at all, and is skipped where the result is there.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy.sparse import csr_matrix

from xrt_jax import checkpoint
from xrt_jax.compilations import compilations
from xrt_jax.config import settings_of_level
from xrt_jax.data.tokens import load_tokens, stream, tokenize
from xrt_jax.data.vocabulary import learn_wordpiece
from xrt_jax.disk import replace_file, write_json
from xrt_jax.encoders.flops import matmul_ceiling
from xrt_jax.encoders.huggingface import count_parameters, init_encoder, load_encoder, load_tokenizer, save_encoder
from xrt_jax.encoders.mlm import pretrain
from xrt_jax.header import model_card, print_header
from xrt_jax.matcher.finetune import Padding, embed, fine_tune, make_scorer, number_of_steps
from xrt_jax.matcher.head import check_bootstrap, start_head
from xrt_jax.matcher.loss import check_loss
from xrt_jax.matcher.mesh import check_batch_size, make_mesh
from xrt_jax.matcher.optimizer import check_schedule
from xrt_jax.matcher.shortlist import check_scheme, match_clusters
from xrt_jax.matcher.step import check_post_processor
from xrt_jax.metrics import format_table, precision_recall
from xrt_jax.model import join_features, save_model
from xrt_jax.report import Report, progress
from xrt_jax.sparse import load_npz, save_npz
from xrt_jax.stages import (
    build_tree,
    load_clusters,
    load_data,
    make_features,
    open_workdir,
    percent,
    rank,
    ranker_levels,
    require_texts,
    save_report,
    tree_levels,
)
from xrt_jax.tree.chain import aggregate_labels
from xrt_jax.xlinear.predict import predict


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> dict:
    """Trains XR-Transformer (and XR-Linear beside it), prints the test table and returns what metrics.json holds."""
    workdir = open_workdir(config, Path(workdir))
    report = Report(workdir, counters=compilations)
    checkpoint.quiet_orbax()
    mesh = make_mesh(config.mesh.label)

    # ------------------------------------------------------------------ data
    with report.stage("data"):
        dataset = load_data(config, workdir)
        require_texts(dataset, config.data.dir)
    trn, dev, tst = dataset.trn, dataset.dev, dataset.tst
    levels, level_settings = plan_levels(config, dataset.trn.Y.shape[1], mesh)
    ranker_levels(config, trn)
    padding = Padding(config.encoder.truncate_length, config.encoder.nr_buckets, config.encoder.tokens_a_batch)
    # An encoder that cannot be loaded is found out now, not after the linear stages.
    module, encoder = load_start(config, config.encoder.name) if config.encoder.name else new_encoder(config)
    check_length(config, module)
    print_header(config, module, count_parameters(encoder), dataset, levels, len(level_settings))

    # ---------------------------------------------------------------- TF-IDF
    with report.stage("tfidf"):
        tfidf, X_trn, X_tst = make_features(config, dataset, workdir)

    # ------------------------- step 1: label features and preliminary tree
    with report.stage("preliminary_tree"):
        chain = load_clusters(config, "preliminary_tree", trn.Y.shape[1])
        chain = chain or build_tree(config, "preliminary_tree", workdir / "preliminary_tree", X_trn, trn.Y)
    ranker_chain = chain if config.fix_clustering else None  # else a refined one is built

    # ------------------------------------------------- XR-Linear, to compare
    predictions = {}
    if config.xr_linear:
        with report.stage("xr_linear"):
            linear = rank(config, workdir / "xr_linear", X_trn, trn, ranker_chain)
            predictions["xr_linear"] = predict(linear, X_tst, progress=progress)

    Y_trn = aggregate_labels(trn.Y, chain)
    Y_dev = aggregate_labels(dev.Y, chain) if dev else [None] * len(chain)

    # ------------------------------- step 2: fine-tuning, from easy to hard
    with report.stage("encoder"):
        start_folder = config.encoder.name or workdir / "encoder_start"
        if not config.encoder.name:
            pretrain_encoder(config, workdir, trn.texts, padding, report)
            module, encoder = load_start(config, start_folder)
        tokenizer = load_tokenizer(start_folder)
        tokens = {
            name: tokenize_once(workdir / "tokens" / name, split.texts, tokenizer, padding)
            for name, split in (("trn", trn), ("dev", dev), ("tst", tst))
            if split
        }
        unfinished = [t for t in range(len(level_settings)) if not checkpoint.has_state(workdir / f"level_{t}")]
        ceiling = matmul_ceiling(compute_dtype(config)) if unfinished else None
    head = emb_trn = None
    beam_trn, beam_dev = root(trn.Y.shape[0]), root(dev.Y.shape[0]) if dev else None
    for level, settings in enumerate(level_settings):
        with report.stage(f"level_{level}"):
            folder = workdir / f"level_{level}"
            Y, C = Y_trn[level], chain[level]
            score = make_scorer(
                module,
                C,
                mesh=mesh,
                padding=padding,
                only_topk=settings["only_topk"],
                post_processor=settings["post_processor"],
                progress=progress,
            )
            steps = checkpoint.Steps(folder)
            if not checkpoint.has_state(folder):
                M = (
                    beam_trn
                    if level == 0
                    else match_clusters(Y_trn[level - 1], beam_trn, settings["negative_sampling"])
                )
                method = settings["bootstrap"] if level else settings["first_bootstrap"]
                if steps.latest() is not None:  # interrupted in the middle: the checkpoint has the head
                    head = checkpoint.empty_head(Y.shape[1], module.hidden_size)
                else:
                    if level == 0 and method != "none":
                        emb_trn = embed_once(
                            workdir / "embeddings.start.npy", module, encoder, tokens["trn"], mesh=mesh, padding=padding
                        )
                    head = start_head(
                        method,
                        head_above=head,
                        emb_nd=emb_trn,
                        Y=Y,
                        C=C,
                        M=M,
                        hidden_size=module.hidden_size,
                        seed=config.seed + level,
                        progress=progress,
                    )

                def evaluate(encoder, head, score=score, beam=beam_dev, Y=Y_dev[level]):
                    return precision_at(Y, score(encoder, head, tokens["dev"], beam, "validate")[0])

                encoder, head = fine_tune(
                    module,
                    encoder,
                    head,
                    tokens["trn"],
                    Y,
                    C,
                    M,
                    mesh=mesh,
                    padding=padding,
                    lazy_head=level > 0,
                    loss=settings["loss"],
                    batch_size=settings["batch_size"],
                    num_steps=number_of_steps(
                        len(trn.texts),
                        batch_size=settings["batch_size"] * settings["gradient_accumulation"],
                        num_epochs=settings["num_epochs"],
                        max_steps=settings["max_steps"],
                    ),
                    learning_rate=settings["learning_rate"],
                    head_learning_rate=settings["head_learning_rate"],
                    lr_schedule=settings["lr_schedule"],
                    warmup_steps=settings["warmup_steps"],
                    gradient_accumulation=settings["gradient_accumulation"],
                    adam_epsilon=settings["adam_epsilon"],
                    weight_decay=settings["weight_decay"],
                    max_grad_norm=settings["max_grad_norm"],
                    log_steps=settings["log_steps"],
                    eval_steps=settings["eval_steps"],
                    save_steps=settings["save_steps"],
                    seed=config.seed + level,
                    ceiling=ceiling,
                    steps=steps,
                    evaluate=evaluate if dev else None,
                    progress=progress,
                    log=lambda entry, level=level: report.log({"level": level, **entry}),
                )
                checkpoint.save_state(folder, encoder, head)
            steps.clear()
            # Read back even when just written, so that a resumed run goes on from the same numbers.
            encoder, head = checkpoint.load_state(folder, encoder, Y.shape[1], module.hidden_size)
            if not checkpoint.is_done(folder):
                if needs_beam(level_settings, level):
                    beam_trn, emb_trn = score(encoder, head, tokens["trn"], beam_trn)
                    save_npz(folder / "beam.trn.npz", beam_trn)
                    save_array(folder / "embeddings.trn.npy", emb_trn)
                elif needs_embeddings(level_settings, level):
                    emb_trn = embed(module, encoder, tokens["trn"], mesh=mesh, padding=padding, progress=progress)
                    save_array(folder / "embeddings.trn.npy", emb_trn)
                if dev:
                    save_npz(folder / "beam.dev.npz", score(encoder, head, tokens["dev"], beam_dev)[0])
                checkpoint.mark_done(folder)
            if needs_beam(level_settings, level):
                beam_trn = load_npz(folder / "beam.trn.npz")
            if needs_embeddings(level_settings, level):
                emb_trn = np.load(folder / "embeddings.trn.npy")
            beam_dev = load_npz(folder / "beam.dev.npz") if dev else None

    if not level_settings:  # the encoder as it comes
        emb_trn = embed_once(workdir / "embeddings.trn.npy", module, encoder, tokens["trn"], mesh=mesh, padding=padding)

    # ------------ step 3: refined tree and linear ranker on [X | embedding]
    with report.stage("embed_test"):
        emb_tst = embed_once(workdir / "embeddings.tst.npy", module, encoder, tokens["tst"], mesh=mesh, padding=padding)
    with report.stage("ranker"):
        ranker = rank(config, workdir / "xr_transformer", join_features(X_trn, emb_trn), trn, ranker_chain)
        predictions["xr_transformer"] = predict(ranker, join_features(X_tst, emb_tst), progress=progress)

    # --------------------------------------------------- metrics and model
    metrics = {name: precision_recall(tst.Y, P, 10) for name, P in predictions.items()}
    save_model(
        workdir / "model",
        settings=model_settings(config),
        module=module,
        encoder=encoder,
        tokenizer_folder=start_folder,
        ranker=ranker,
        tfidf=tfidf,
        labels=dataset.label_names,
        card=model_card("XR-Transformer", dataset, metrics),
    )
    result = {**{name: percent(values) for name, values in metrics.items()}, "seconds": report.seconds()}
    write_json(workdir / "metrics.json", result)
    ranker_sizes = [level.C.shape[0] for level in ranker]
    save_report("XR-Transformer", workdir, report, dataset, metrics, predictions, ranker_sizes)
    print(
        "\n" + format_table(metrics) + f"\n\nmodel folder: {workdir / 'model'}\nreport:       {workdir / 'report.html'}"
    )
    return result


# ---------------------------------------------------------------- the stages


def plan_levels(config: ConfigDict, nr_labels: int, mesh) -> tuple[list[int], list[dict]]:
    """(sizes of the preliminary tree's levels, settings of each fine-tuned level); ValueError for any bad setting."""
    sizes = tree_levels(config, "preliminary_tree", nr_labels)
    if not config.do_fine_tune:
        return sizes, []
    nr_fine_tuned = sum(size <= config.matcher.max_match_clusters for size in sizes)
    if not nr_fine_tuned:
        raise ValueError(f"matcher.max_match_clusters is below the tree's first level, {sizes[0]}: raise it")
    settings = [settings_of_level(config.matcher, t, nr_fine_tuned, "matcher") for t in range(nr_fine_tuned)]
    for level in settings:
        check_loss(level["loss"])
        check_schedule(level["lr_schedule"])
        if level["gradient_accumulation"] < 1:
            raise ValueError(f"matcher.gradient_accumulation is {level['gradient_accumulation']}: it must be 1 or more")
        check_scheme(level["negative_sampling"])
        check_bootstrap("bootstrap", level["bootstrap"])
        check_post_processor(level["post_processor"])
        check_batch_size(mesh, level["batch_size"], "matcher.batch_size")
    check_bootstrap("first_bootstrap", config.matcher.first_bootstrap)
    if config.matcher.first_bootstrap == "inherit":
        raise ValueError("matcher.first_bootstrap is 'inherit', but no level is above the first: choose linear or none")
    return sizes, settings


def new_encoder(config: ConfigDict, vocab_size: int | None = None):
    """(module, random parameters) of the small BERT of config.scratch."""
    scratch = config.scratch
    return init_encoder(
        vocab_size=vocab_size or scratch.vocab_size,
        hidden_size=scratch.hidden_size,
        num_layers=scratch.num_layers,
        num_heads=scratch.num_heads,
        intermediate_size=scratch.intermediate_size,
        max_positions=config.encoder.truncate_length,
        pooling=config.encoder.pooling,
        hidden_dropout=0.0,  # the warm-up is too short to overfit; fine-tuning sets its own
        attention_dropout=0.0,
        seed=config.seed,
        dtype=compute_dtype(config),
    )


def pretrain_encoder(config: ConfigDict, workdir: Path, texts: list[str], padding: Padding, report: Report) -> None:
    """Writes encoder_start: a small BERT with a vocabulary of its own, pre-trained on the training texts."""
    scratch, vocabulary = config.scratch, workdir / "vocabulary"
    if (workdir / "encoder_start").is_dir():
        return
    if not vocabulary.is_dir():
        learn_wordpiece(texts, vocab_size=scratch.vocab_size, out_folder=vocabulary)
    tokenizer = load_tokenizer(vocabulary)
    tokens = tokenize_once(workdir / "tokens" / "trn", texts, tokenizer, padding)
    module, params = new_encoder(config, len(tokenizer))
    params = pretrain(
        module,
        params,
        stream(tokens, padding.buckets(tokens), batch_size=scratch.mlm_batch_size, seed=config.seed),
        learning_rate=scratch.mlm_learning_rate,
        warmup_steps=scratch.mlm_steps // 10,
        max_steps=scratch.mlm_steps,
        mask_id=tokenizer.mask_token_id,
        special_ids=tokenizer.all_special_ids,
        seed=config.seed,
        progress=progress,
        log=lambda entry: report.log({"stage": "mlm", **entry}),
    )
    save_encoder(workdir / "encoder_start", module, params, tokenizer_folder=vocabulary)


def check_length(config: ConfigDict, module) -> None:
    """ValueError if the encoder has fewer positions than texts are to have tokens."""
    length = config.encoder.truncate_length
    if not 2 < length <= module.max_positions:
        raise ValueError(f"encoder.truncate_length is {length}: this encoder takes 3 to {module.max_positions} tokens")


def load_start(config: ConfigDict, folder: str | Path):
    """(module, parameters) of the encoder to fine-tune."""
    return load_encoder(
        folder,
        pooling=config.encoder.pooling,
        hidden_dropout=config.encoder.hidden_dropout,
        attention_dropout=config.encoder.attention_dropout,
        dtype=compute_dtype(config),
        remat=config.encoder.remat,
        seed=config.seed,
    )


def compute_dtype(config: ConfigDict):
    """The dtype of the encoder's products; "auto" is bfloat16 on accelerators, float32 on CPU."""
    name = config.encoder.dtype
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if name not in ("float32", "bfloat16"):
        raise ValueError(f"encoder.dtype is {name!r}: choose auto, float32 or bfloat16")
    return jnp.dtype(name)


def tokenize_once(folder: Path, texts: list[str], tokenizer, padding: Padding):
    """Tokens of the texts from the folder, written there first if they are not."""
    if folder.is_dir():
        return load_tokens(folder)
    return tokenize(texts, tokenizer, folder, truncate_length=padding.truncate_length, progress=progress)


def root(nr_texts: int) -> csr_matrix:
    """The beam above the first level: every text at the root, score 1."""
    return csr_matrix(np.ones((nr_texts, 1), np.float32))


def needs_beam(level_settings: list[dict], level: int) -> bool:
    """Whether the training texts are scored after a level: matcher-aware negatives need the beams of all above."""
    return any("man" in settings["negative_sampling"] for settings in level_settings[level + 1 :])


def needs_embeddings(level_settings: list[dict], level: int) -> bool:
    """Whether the training texts are embedded after a level: for the ranker, or for the next level's linear heads."""
    last = level == len(level_settings) - 1
    return last or needs_beam(level_settings, level) or "linear" in level_settings[level + 1]["bootstrap"]


def embed_once(path: Path, module, encoder, tokens, *, mesh, padding: Padding) -> np.ndarray:
    """Embeddings [n, hidden] from the file, computed and written there first if it is not."""
    if not path.exists():
        save_array(path, embed(module, encoder, tokens, mesh=mesh, padding=padding, progress=progress))
    return np.load(path)


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes one .npy file, whole or not at all."""
    with replace_file(path) as tmp:
        np.save(tmp, array)


# --------------------------------------------------------------- what is told


def precision_at(Y: csr_matrix, P: csr_matrix) -> dict[str, float]:
    """P@1, P@3, P@5 in percent, for a log line."""
    prec = 100 * precision_recall(Y, P, 5)["prec"]
    return {f"P@{k}": round(float(prec[k - 1]), 2) for k in (1, 3, 5)}


def model_settings(config: ConfigDict) -> dict:
    """What a model folder must know to treat features and texts as in training."""
    fields = ("pooling", "truncate_length", "nr_buckets", "tokens_a_batch")
    encoder = {name: config.encoder[name] for name in fields}
    return {"model": "xr_transformer", "normalize": config.data.normalize, **encoder}
