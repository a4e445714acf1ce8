"""The jitted steps: against a slow reference, and the same on one device and on a mesh of eight."""

import itertools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.sparse import csc_matrix, csr_matrix

from xrt_jax.checkpoint import Steps
from xrt_jax.data.tokens import Tokens
from xrt_jax.encoders.distilbert import DistilBert
from xrt_jax.encoders.huggingface import init_encoder
from xrt_jax.matcher import finetune as F
from xrt_jax.matcher import step as S
from xrt_jax.matcher.head import random_head
from xrt_jax.matcher.mesh import check_batch_size, make_mesh, split_batch, split_labels
from xrt_jax.matcher.shortlist import pack_rows, parent_of_label, shortlist_width
from xrt_jax.xlinear import postprocess as ranker

NR_LABELS, NR_CLUSTERS, HIDDEN, NR_TEXTS = 13, 3, 8, 24


class Bag(nn.Module):
    """The smallest encoder: the mean of word vectors through one dense layer."""

    hidden_size: int = HIDDEN
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, ids_bt, mask_bt, *, deterministic):
        hidden_btd = nn.Embed(20, self.hidden_size)(ids_bt)
        mean_bd = jnp.sum(hidden_btd * mask_bt[..., None], 1) / jnp.sum(mask_bt, 1, keepdims=True)
        emb_bd = nn.tanh(nn.Dense(self.hidden_size)(mean_bd))
        return hidden_btd, nn.Dropout(0.1)(emb_bd, deterministic=deterministic)


class Still(Bag):
    """Bag without dropout."""

    def __call__(self, ids_bt, mask_bt, *, deterministic):
        return super().__call__(ids_bt, mask_bt, deterministic=True)


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, NR_TEXTS)
    tokens = Tokens(rng.integers(1, 20, lengths.sum()).astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]), 0)
    Y = csr_matrix((rng.random((NR_TEXTS, NR_LABELS)) < 0.2).astype(np.float32))
    C = csc_matrix(np.eye(NR_CLUSTERS, dtype=np.float32)[np.arange(NR_LABELS) % NR_CLUSTERS])
    M = csr_matrix((rng.random((NR_TEXTS, NR_CLUSTERS)) < 0.6).astype(np.float32))
    module = Bag()
    encoder = module.init(jax.random.key(0), jnp.ones((1, 4), int), jnp.ones((1, 4), bool), deterministic=True)[
        "params"
    ]
    return tokens, Y, C, M, module, encoder, random_head(NR_LABELS, HIDDEN, seed=1)


PADDING = F.Padding(truncate_length=8, nr_buckets=2, tokens_a_batch=32)


def tune(problem, mesh, **changes):
    tokens, Y, C, M, module, encoder, head = problem
    settings = {
        "lazy_head": True,
        "strategy": "whole",
        "max_active_labels": 0,
        "loss": "weighted-squared-hinge",
        "batch_size": 8,
        "num_steps": 5,
        "learning_rate": 1e-2,
        "head_learning_rate": 0.0,
        "lr_schedule": "linear",
        "warmup_steps": 2,
        "gradient_accumulation": 1,
        "adam_epsilon": 1e-8,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "log_steps": 1,
        "eval_steps": 0,
        "max_no_improve": 0,
        "save_steps": 0,
        "seed": 0,
    } | changes
    return F.fine_tune(module, encoder, head, tokens, Y, C, M, mesh=mesh, padding=PADDING, **settings)


def shortlist(Y, C, M, i):
    return np.flatnonzero((M[[i]] @ C.T).toarray()[0] + Y[[i]].toarray()[0])


def test_train_step_takes_the_gradient_of_the_mean_shortlist_loss(problem):
    """One SGD step against a loss written label by label, dropout off."""
    tokens, Y, C, M, module, encoder, head = problem
    module = module.clone()
    mesh = make_mesh(devices=jax.devices()[:1])
    rows, width = np.arange(8), 9
    ids = np.full((8, 8), 0, np.int32)
    mask = np.zeros((8, 8), bool)
    for i in rows:
        text = tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]]
        ids[i, : len(text)], mask[i, : len(text)] = text, True

    def slow_loss(params):
        encoder, head = params
        emb = module.apply({"params": encoder}, ids, mask, deterministic=True)[1]
        total = 0.0
        for i in rows[:6]:
            for label in shortlist(Y, C, M, i):
                z, y = emb[i] @ head["W"][label] + head["b"][label], float(Y[i, label])
                total += (y or 1.0) * jnp.maximum(0, 1 - (1 if y else -1) * z) ** 2 / width
        return total / 6

    tx = optax.sgd(0.1)
    step = S.make_train_step(
        Still(),
        tx,
        tx,
        loss="weighted-squared-hinge",
        width=width,
        nr_clusters=NR_CLUSTERS,
        mesh=mesh,
        strategy="whole",
        by_row=False,
    )
    clusters, labels = pack_rows(M), pack_rows(Y)
    weight = (rows < 6).astype(np.float32)
    batch = S.TrainBatch(ids, mask, S.ByCluster(clusters.index[rows], labels.index[rows], labels.value[rows]), weight)
    start = jax.tree.map(jnp.array, (encoder, head))
    loss, grads = jax.value_and_grad(slow_loss)(start)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, start, grads)
    state, told = step(S.init_state(*start, tx, tx), batch, parent_of_label(C), jax.random.key(0))
    np.testing.assert_allclose(told.loss, loss, rtol=1e-5)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(told.gradient_norm, norm, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), (state.encoder, state.head), expected)
    assert int(state.step) == 1


@pytest.mark.parametrize("label_devices", [1, 2, 4])
def test_eight_devices_train_as_one(problem, label_devices, monkeypatch):
    """SGD, since Adam hides errors of scale; the dropout masks do not depend on the devices either."""
    monkeypatch.setattr(F, "encoder_optimizer", lambda schedule, **_: optax.sgd(0.5))
    monkeypatch.setattr(F, "head_optimizer", lambda schedule, **_: optax.sgd(0.5))
    one = tune(problem, make_mesh(devices=jax.devices()[:1]))
    assert len(jax.devices()) == 8
    many = tune(problem, make_mesh(label_devices))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, many)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), one, (problem[5], problem[6]))
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_training_twice_gives_the_same_bits_and_leaves_its_arguments_alone(problem):
    mesh = make_mesh(devices=jax.devices()[:1])
    first, second = tune(problem, mesh), tune(problem, mesh)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_fine_tuning_lowers_the_loss_and_reports(problem):
    entries = []
    evaluated = []
    tune(
        problem,
        make_mesh(devices=jax.devices()[:1]),
        num_steps=120,
        learning_rate=3e-2,
        log_steps=20,
        eval_steps=60,
        evaluate=lambda encoder, head: evaluated.append(head["W"].shape) or {"P@1": 0.0},
        log=entries.append,
    )
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    assert len(losses) == 6
    assert losses[-1] < 0.5 * losses[0]
    assert all(entry["gradient_norm"] > 0 and entry["tokens_per_s"] > entry["documents_per_s"] > 0 for entry in entries
               if "loss" in entry)  # fmt: skip
    assert evaluated == [(NR_LABELS, HIDDEN)] * 2


def test_utilisation_counts_every_real_token_of_an_epoch_once(problem):
    """Batches of 7 take 28 places for 24 texts: neither the 4 that fill up nor padding count."""
    tokens, Y, C, M, _, _, head = problem
    shape = {"vocab_size": 20, "hidden_size": HIDDEN, "num_layers": 1, "num_heads": 2, "intermediate_size": 16}
    module, entries = DistilBert(**shape, max_positions=8), []
    inputs = jnp.ones((1, 4), int), jnp.ones((1, 4), bool)
    encoder = module.init(jax.random.key(0), *inputs, deterministic=True)["params"]
    problem, mesh = (tokens, Y, C, M, module, encoder, head), make_mesh(devices=jax.devices()[:1])
    tune(problem, mesh, batch_size=7, num_steps=8, log_steps=4, ceiling=1e12, log=entries.append)
    lengths = np.diff(tokens.offsets)
    a_token, a_pair = 2 * (4 * HIDDEN**2 + 2 * HIDDEN * 16), 4 * HIDDEN
    flops = 3 * (a_token * lengths.sum() + a_pair * (lengths**2).sum() + NR_TEXTS * 2 * NR_LABELS * HIDDEN)
    assert len(entries) == 2
    for entry in entries:
        seconds = 28 / entry["documents_per_s"]
        np.testing.assert_allclose(entry["utilisation"] * seconds, flops / 1e12, rtol=1e-12)
    entries.clear()
    tune(problem, mesh, num_steps=1, log=entries.append)
    assert "utilisation" not in entries[0]


def test_a_diverging_loss_is_told(problem):
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step \d+: lower matcher.learning_rate"):
        tune(problem, make_mesh(devices=jax.devices()[:1]), learning_rate=float("inf"))


def slow_scores(problem, M_pred, k):
    """The k best children of each row's clusters under l3-hinge, one at a time."""
    tokens, _, C, _, module, encoder, head = problem
    parent, best, embeddings = parent_of_label(C), [], []
    for i in range(NR_TEXTS):
        ids = tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]][None]
        emb = np.asarray(module.apply({"params": encoder}, ids, np.ones_like(ids, bool), deterministic=True)[1][0])
        row = dict(zip(M_pred[[i]].indices, M_pred[[i]].data, strict=True))
        scores = {
            label: np.exp(-(max(0.0, 1 - (emb @ head["W"][label] + head["b"][label])) ** 3)) * row[parent[label]]
            for label in range(NR_LABELS)
            if parent[label] in row
        }
        best.append(sorted(scores.items(), key=lambda item: -item[1])[:k])
        embeddings.append(emb)
    return best, np.array(embeddings)


@pytest.mark.parametrize("devices", [1, 8])
def test_scores_are_the_best_children_of_the_beam(problem, devices):
    tokens, _, C, M, module, encoder, head = problem
    mesh = make_mesh(2 if devices == 8 else 1, devices=jax.devices()[:devices])
    M_pred = M.copy()
    M_pred.data = np.random.default_rng(1).random(M.nnz).astype(np.float32)
    score = F.make_scorer(module, C, mesh=mesh, padding=PADDING, only_topk=4, post_processor="l3-hinge")
    P, emb = score(encoder, head, tokens, M_pred)
    expected, expected_emb = slow_scores(problem, M_pred, 4)
    np.testing.assert_allclose(emb, expected_emb, atol=1e-6)
    for i, pairs in enumerate(expected):
        row = slice(P.indptr[i], P.indptr[i + 1])
        assert P.indices[row].tolist() == [label for label, _ in pairs]
        np.testing.assert_allclose(P.data[row], [value for _, value in pairs], atol=1e-6)


def test_embed_gives_the_texts_in_their_order(problem):
    tokens, _, _, M, module, encoder, _ = problem
    mesh = make_mesh(devices=jax.devices()[:1])
    emb = F.embed(module, encoder, tokens, mesh=mesh, padding=PADDING)
    np.testing.assert_allclose(emb, slow_scores(problem, M, 1)[1], atol=1e-6)


def in_windows(problem, seed=0):
    """The problem with texts of one to five windows; the first has one token, the second just one more window."""
    rng = np.random.default_rng(seed)
    counts = np.concatenate([[1, 2], rng.integers(1, 6, NR_TEXTS - 2)])
    last = np.concatenate([[1, 1], rng.integers(1, 9, NR_TEXTS - 2)])
    lengths = np.concatenate([[8] * (count - 1) + [end] for count, end in zip(counts, last, strict=True)])
    ids = rng.integers(1, 20, lengths.sum()).astype(np.int32)
    return (Tokens(ids, offsets_of(lengths), 0, offsets_of(counts)), *problem[1:])


def offsets_of(sizes):
    return np.concatenate([[0], np.cumsum(sizes)])


def mean_of_windows(module, encoder, tokens):
    """Every window alone in a batch of its own, and the mean over those of a text: [n, hidden]."""
    apply, embeddings = jax.jit(partial(module.apply, deterministic=True)), []
    for first, end in itertools.pairwise(tokens.text_offsets):
        windows = [tokens.ids[tokens.offsets[j] : tokens.offsets[j + 1]][None] for j in range(first, end)]
        alone = [apply({"params": encoder}, ids, np.ones_like(ids, bool))[1][0] for ids in windows]
        embeddings.append(sum(alone) / len(alone))
    return jnp.stack(embeddings)


@pytest.mark.parametrize(("kind", "devices"), [("bag", 1), ("bag", 8), ("bert", 1)])
def test_a_long_text_has_the_mean_of_its_windows(problem, kind, devices):
    tokens, _, C, M, module, encoder, head = in_windows(problem)
    if kind == "bert":
        sizes = {"vocab_size": 20, "hidden_size": HIDDEN, "num_layers": 1, "num_heads": 2, "intermediate_size": 16}
        module, encoder = init_encoder(**sizes, max_positions=8)
        encoder = jax.tree.map(lambda a: 5 * a, encoder)  # at 0.02 all texts are much the same
    expected = np.asarray(mean_of_windows(module, encoder, tokens))
    assert np.std(expected, axis=0).min() > 0.01
    mesh = make_mesh(2 if devices == 8 else 1, devices=jax.devices()[:devices])
    np.testing.assert_allclose(F.embed(module, encoder, tokens, mesh=mesh, padding=PADDING), expected, atol=1e-6)
    score = F.make_scorer(module, C, mesh=mesh, padding=PADDING, only_topk=NR_LABELS, post_processor="noop")
    P, emb = score(encoder, head, tokens, M)
    np.testing.assert_allclose(emb, expected, atol=1e-6)
    logits = np.where((M @ C.T).toarray() > 0, expected @ head["W"].T + head["b"], 0)
    np.testing.assert_allclose(P.toarray(), logits, atol=1e-6)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_step_on_windows_takes_the_gradient_of_their_mean(problem, devices, monkeypatch):
    """Loss and update of one SGD step on all texts and eight filling rows, against a loss written label by label."""
    monkeypatch.setattr(F, "encoder_optimizer", lambda schedule, **_: optax.sgd(0.5))
    monkeypatch.setattr(F, "head_optimizer", lambda schedule, **_: optax.sgd(0.5))
    tokens, Y, C, M, _, encoder, head = in_windows(problem)
    head = {"W": 20 * head["W"], "b": head["b"]}  # so that the encoder gets a gradient worth comparing
    width = shortlist_width(M, C, Y)

    def slow_loss(params):
        encoder, head = params
        emb, total = mean_of_windows(Still(), encoder, tokens), 0.0
        for i in range(NR_TEXTS):
            for label in shortlist(Y, C, M, i):
                z, y = emb[i] @ head["W"][label] + head["b"][label], float(Y[i, label])
                total += (y or 1.0) * jnp.maximum(0, 1 - (1 if y else -1) * z) ** 2 / width
        return total / NR_TEXTS

    start = jax.tree.map(jnp.array, (encoder, head))
    loss, grads = jax.value_and_grad(slow_loss)(start)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, start, grads)
    mesh, entries = make_mesh(2 if devices == 8 else 1, devices=jax.devices()[:devices]), []
    still = (tokens, Y, C, M, Still(), encoder, head)
    found = tune(still, mesh, batch_size=NR_TEXTS + 8, num_steps=1, log=entries.append)
    np.testing.assert_allclose(entries[0]["loss"], loss, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), found, (encoder, head))
    assert min(jax.tree.leaves(moved)) > 1e-3


def test_an_epoch_on_windows_is_the_same_on_eight_devices(problem, monkeypatch):
    """With dropout, in batches of different numbers of windows."""
    monkeypatch.setattr(F, "encoder_optimizer", lambda schedule, **_: optax.sgd(0.5))
    monkeypatch.setattr(F, "head_optimizer", lambda schedule, **_: optax.sgd(0.5))
    long = in_windows(problem)
    one, many = tune(long, make_mesh(devices=jax.devices()[:1])), tune(long, make_mesh(2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, many)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), one, (problem[5], problem[6]))
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_texts_of_one_window_each_give_the_bits_of_plain_texts(problem):
    tokens, *rest = problem
    same = tokens._replace(text_offsets=np.arange(NR_TEXTS + 1))
    mesh = make_mesh(devices=jax.devices()[:1])
    first, second = tune(problem, mesh), tune((same, *rest), mesh)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    module, encoder = problem[4:6]
    first, second = (F.embed(module, encoder, t, mesh=mesh, padding=PADDING) for t in (tokens, same))
    np.testing.assert_array_equal(first, second)


def test_modules_of_equal_fields_share_the_pass_that_embeds():
    """Else a text at a time would be traced and compiled each time."""
    step = S.make_embed_step(Bag())
    assert S.make_embed_step(Bag()) is step
    assert S.make_embed_step(Bag(hidden_size=HIDDEN + 1)) is not step
    assert S.make_embed_step(Bag(dtype=jnp.bfloat16)) is not step


@pytest.mark.parametrize("name", sorted(S.POST_PROCESSORS))
def test_post_processors_are_those_of_the_ranker(name):
    v, parent = np.linspace(-3, 3, 13).astype(np.float32), np.linspace(-0.9, 0.9, 13).astype(np.float32)
    transform, combine = S.POST_PROCESSORS[name]
    kind, power = ranker.parse(name)
    expected = [ranker.combine(ranker.transform(x, kind, power), y, kind) for x, y in zip(v, parent, strict=True)]
    np.testing.assert_allclose(combine(transform(v), parent), expected, rtol=1e-5, atol=1e-6)


def test_number_of_steps():
    assert F.number_of_steps(100, batch_size=32, num_epochs=2, max_steps=0) == 8
    assert F.number_of_steps(100, batch_size=32, num_epochs=2, max_steps=5) == 5
    assert F.number_of_steps(3, batch_size=32, num_epochs=0.1, max_steps=0) == 1


def test_an_epoch_of_train_batches_weighs_every_text_once(problem):
    tokens, Y, _, M, *_ = problem
    lists = F.by_cluster(Y, M)
    batches = list(F.train_batches(tokens, lists, PADDING, batch_size=7, first=0, stop=8, seed=0))
    assert len(batches) == 8
    assert sum(float(batch.weight_b.sum()) for batch in batches) == 2 * NR_TEXTS
    assert all(batch.ids_bt.shape[0] == 7 for batch in batches)
    for first in (1, 4, 6, 8):
        rest = list(F.train_batches(tokens, lists, PADDING, batch_size=7, first=first, stop=8, seed=0))
        assert len(rest) == 8 - first
        jax.tree.map(np.testing.assert_array_equal, rest, batches[first:])


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("optimizer", ["lazy Adam", "SGD"])
def test_every_head_strategy_makes_the_same_updates(problem, optimizer, accumulation, monkeypatch):
    """Steps of plain SGD are the gradients, those of lazy Adam show the moments of listed rows; one and 8 devices."""
    if optimizer == "SGD":
        monkeypatch.setattr(F, "encoder_optimizer", lambda schedule, **_: optax.sgd(0.5))
        monkeypatch.setattr(F, "head_optimizer", lambda schedule, **_: optax.sgd(0.5))
    changes = {"gradient_accumulation": accumulation, "num_steps": 4}
    one = make_mesh(devices=jax.devices()[:1])
    whole = tune(problem, one, **changes)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), whole, (problem[5], problem[6]))
    assert max(jax.tree.leaves(moved)) > 1e-3
    for strategy, mesh in (("union", one), ("gather", make_mesh(4 if accumulation == 1 else 1))):
        listed = tune(problem, mesh, strategy=strategy, **changes)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), whole, listed)


def test_a_step_on_listed_rows_leaves_the_others_alone(problem):
    """A head with rows that no shortlist holds: neither they nor their moments move, and the others do."""
    tokens, Y, C, M, module, encoder, head = problem
    Y, M = Y.copy(), M.copy()
    outside = np.flatnonzero(parent_of_label(C) == 2)
    Y[:, outside], M[:, 2] = 0, 0
    Y.eliminate_zeros()
    M.eliminate_zeros()
    found = tune((tokens, Y, C, M, module, encoder, head), make_mesh(), strategy="union")[1]
    np.testing.assert_array_equal(found["W"][outside], head["W"][outside])
    others = np.setdiff1d(np.arange(NR_LABELS), outside)
    assert (found["W"][others] != head["W"][others]).any(axis=1).all()


def test_training_ends_when_validation_no_longer_improves(problem, tmp_path):
    """The best parameters come back, also after an interruption; a tie is no improvement."""
    mesh = make_mesh(devices=jax.devices()[:1])
    values = {1: 1.0, 2: 3.0, 3: 3.0, 4: 2.0, 5: 9.0}
    seen, kept = [], {}

    def run(cut=None, steps=None):
        seen.clear()

        def evaluate(encoder, head):
            step = len(seen) + 1 if cut is None or not seen else seen[-1] + 1
            kept[step] = jax.tree.map(np.array, (encoder, head))
            return {"P@1": values[step]}

        def log(entry):
            if "P@1" in entry:
                seen.append(entry["step"])
            if entry["step"] == cut:
                raise KeyboardInterrupt

        return tune(
            problem,
            mesh,
            num_steps=9,
            eval_steps=1,
            save_steps=1,
            max_no_improve=2,
            evaluate=evaluate,
            log=log,
            steps=steps,
        )

    found = run()
    assert seen == [1, 2, 3, 4]
    jax.tree.map(np.testing.assert_array_equal, found, kept[2])
    steps = Steps(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(cut=4, steps=steps)
    steps.wait()
    assert steps.latest() == 3
    values[1] = values[4]  # the resumed run evaluates update 4 first
    resumed = run(steps=Steps(tmp_path))
    assert seen == [4]
    jax.tree.map(np.testing.assert_array_equal, resumed, found)


@pytest.mark.parametrize("label_devices", [1, 2])
def test_an_interrupted_level_goes_on_to_the_same_bits(problem, label_devices, tmp_path):
    """Cut off in update 6, with checkpoints after updates 2 and 4: the rest of the updates is done, and no more."""
    mesh = make_mesh(label_devices, devices=jax.devices()[:2])
    whole, steps, seen = tune(problem, mesh, num_steps=9), Steps(tmp_path), []

    class CutOffError(Exception):
        pass

    def log(entry):
        seen.append(entry["step"])
        if entry["step"] == 6:
            raise CutOffError

    with pytest.raises(CutOffError):
        tune(problem, mesh, num_steps=9, save_steps=2, steps=steps, log=log)
    steps.wait()
    assert steps.latest() == 4 and [path.name for path in steps.folder.iterdir()] == ["4"]
    seen.clear()
    steps = Steps(tmp_path)  # as a new process has it
    resumed = tune(problem, mesh, num_steps=9, save_steps=2, steps=steps, log=lambda entry: seen.append(entry["step"]))
    assert seen == [5, 6, 7, 8, 9]
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    steps.clear()
    assert steps.latest() is None and not steps.folder.exists()


def test_mesh_sizes_are_checked():
    with pytest.raises(ValueError, match=r"mesh\.label is 3: it must divide the number of devices, 8"):
        make_mesh(3)
    with pytest.raises(ValueError, match=r"matcher\.batch_size is 6: it must be a multiple of the data devices, 8"):
        check_batch_size(make_mesh(1), 6, "matcher.batch_size")


def test_batches_and_heads_are_split_over_their_axes():
    mesh = make_mesh(2)
    assert split_batch(mesh, np.zeros((8, 3))).sharding.shard_shape((8, 3)) == (2, 3)
    assert split_labels(mesh, np.zeros((6, 3))).sharding.shard_shape((6, 3)) == (3, 3)
