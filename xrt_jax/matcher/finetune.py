"""Fine-tuning of one level, and passes over texts without gradients."""

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from scipy.sparse import csc_matrix, csr_matrix

from xrt_jax.data.tokens import (
    Tokens,
    bucket_lengths,
    pad_batch,
    pass_batch_size,
    plan_epoch,
    plan_pass,
    text_lengths,
    text_windows,
)
from xrt_jax.encoders.flops import forward_cost, training_flops
from xrt_jax.matcher.head import cheapest_strategy, pad_head, unpad_head
from xrt_jax.matcher.mesh import fetch, gather, own_rows, replicate, split_batch, split_labels
from xrt_jax.matcher.optimizer import accumulated, encoder_optimizer, head_optimizer, make_schedule
from xrt_jax.matcher.shortlist import Listed, children, list_labels, pack_rows, parent_of_label, shortlist_width
from xrt_jax.matcher.step import (
    ByCluster,
    ScoreBatch,
    State,
    Told,
    TrainBatch,
    init_state,
    make_embed_step,
    make_score_step,
    make_train_step,
)


class Padding(NamedTuple):
    """Texts are padded to nr_buckets lengths up to truncate_length; tokens_a_batch bounds passes without gradient.

    A longer text has up to `windows` windows of truncate_length tokens.
    """

    truncate_length: int
    nr_buckets: int
    tokens_a_batch: int
    windows: int = 1

    def buckets(self, tokens: Tokens) -> np.ndarray:
        """The padded lengths that these texts need."""
        return bucket_lengths(text_lengths(tokens), truncate_length=self.truncate_length, nr_buckets=self.nr_buckets)


def number_of_steps(nr_texts: int, *, batch_size: int, num_epochs: float, max_steps: int) -> int:
    """Updates of a level: max_steps if given, else num_epochs over the texts; at least 1."""
    return max_steps or max(1, round(num_epochs * -(-nr_texts // batch_size)))


def fine_tune(
    module,
    encoder,
    head: dict[str, np.ndarray],
    tokens: Tokens,
    Y: csr_matrix,
    C: csc_matrix,
    M: csr_matrix,
    *,
    mesh: Mesh,
    padding: Padding,
    lazy_head: bool,
    strategy: str,
    max_active_labels: int,
    loss: str,
    batch_size: int,
    num_steps: int,
    learning_rate: float,
    head_learning_rate: float,
    lr_schedule: str,
    warmup_steps: int,
    gradient_accumulation: int,
    adam_epsilon: float,
    weight_decay: float,
    max_grad_norm: float,
    log_steps: int,
    eval_steps: int,
    max_no_improve: int,
    save_steps: int,
    seed: int,
    ceiling: float | None = None,
    steps=None,
    evaluate: Callable[[dict, dict], dict] | None = None,
    progress=None,
    log=None,
):
    """Fine-tunes encoder and head on one level: labels Y [n, l], tree C [l, clusters], shortlists from M [n, clusters].

    Returns (encoder, head), the head as numpy arrays. batch_size is global, over all devices; each of the num_steps
    updates takes the mean gradient of gradient_accumulation batches. `evaluate(encoder, head)` runs every eval_steps
    updates (0: never) and its dict goes to `log`, as do, every log_steps updates, the learning rate and since the last
    time the means of loss and gradient norm and the documents and tokens a second, and with a `ceiling` (operations a
    second) the utilisation: the share of it that went into the real tokens of real texts.
    max_no_improve above 0: training ends after so many evaluations in a row without a better mean of their values, and
    what had the best is returned. head_learning_rate 0 stands for the encoder's learning_rate. lazy_head: rows of the
    head rest in batches without them. strategy: one of head.STRATEGIES or auto; max_active_labels above 0: most labels
    of a shortlist, see list_labels. `steps` (checkpoint.Steps) takes the state every save_steps updates (0: never);
    where it holds one, training goes on from there to the same bits.
    """
    schedule, head_schedule = (
        make_schedule(lr_schedule, rate, warmup_steps=warmup_steps, max_steps=num_steps)
        for rate in (learning_rate, head_learning_rate or learning_rate)
    )
    encoder_tx = encoder_optimizer(
        schedule, adam_epsilon=adam_epsilon, weight_decay=weight_decay, max_grad_norm=max_grad_norm
    )
    head_tx = head_optimizer(head_schedule, adam_epsilon=adam_epsilon, max_grad_norm=max_grad_norm, lazy=lazy_head)
    encoder_tx, head_tx = (accumulated(tx, gradient_accumulation) for tx in (encoder_tx, head_tx))
    nr_labels, hidden_size = head["W"].shape
    head = split_labels(mesh, pad_head(head, mesh.shape["label"]))
    # A copy, since the first update gives the buffers of the state away and the caller may still hold them.
    state = init_state(jax.tree.map(jnp.copy, replicate(mesh, encoder)), head, encoder_tx, head_tx)
    best = start_best(state) if max_no_improve else None
    state, best = steps.load((state, best)) if steps else (state, best)
    first = int(state.step)
    by_row = lazy_head and gradient_accumulation == 1  # the mean over batches moves every row in each of them
    listed = by_label(Y, M, C, most=max_active_labels, nr_rows=len(head["b"]), seed=seed)
    if strategy == "auto" and not by_row and not max_active_labels:
        strategy = "whole"  # the whole table is updated anyway
    elif strategy == "auto":
        samples = np.array_split(np.random.default_rng(seed).permutation(Y.shape[0]), 8)
        strategy = cheapest_strategy(
            [listed(sample[:batch_size], 0) for sample in samples if len(sample)],
            nr_labels=nr_labels,
            hidden_size=hidden_size,
            batch_size=batch_size,
            thinned=max_active_labels > 0,
        )
    longest = shortlist_width(M, C, Y)
    width = min(longest, max_active_labels or longest)
    step = make_train_step(
        module,
        encoder_tx,
        head_tx,
        loss=loss,
        width=width,
        nr_clusters=C.shape[1],
        mesh=mesh,
        strategy=strategy,
        by_row=by_row,
    )
    parent_l, key = place_parents(mesh, C), jax.random.key(seed)
    bar = progress(num_steps, f"fine-tune, {strategy} head") if progress else None
    if bar:
        bar.update(first // gradient_accumulation)
    told, nr_tokens, since, stop = [], 0, time.perf_counter(), num_steps * gradient_accumulation
    nr_logits, flops = nr_labels if strategy == "whole" else width, 0
    cost = forward_cost(module, state.encoder, nr_logits) if ceiling else None
    own = own_rows(mesh, batch_size)
    own_share = (own.stop - own.start) / batch_size  # of the tokens, of which a process counts its own
    batches = train_batches(
        tokens,
        by_cluster(Y, M) if strategy == "whole" else listed,
        padding,
        batch_size=batch_size,
        own=own,
        first=first,
        stop=stop,
        seed=seed,
    )
    for nr_batches, batch in enumerate(batches, first + 1):
        state, of_batch = step(state, place_batch(mesh, batch), parent_l, key)
        told.append(of_batch)
        nr_tokens += int(batch.mask_bt.sum())
        if cost:
            lengths = batch.mask_bt[batch.weight_b > 0].sum(-1).ravel()  # of windows, where texts have some
            flops += training_flops(cost, lengths[lengths > 0])
        if len(told) > 1:  # one update runs while the next batch is made, no more: the bar stays true
            told[-2].loss.block_until_ready()
        i, rest = divmod(nr_batches, gradient_accumulation)
        if rest:
            continue
        if bar:
            bar.update(1)
        if i % log_steps == 0 or i == num_steps:
            means, seconds = finite_means(told, i), time.perf_counter() - since
            rates = {
                "documents_per_s": len(told) * batch_size / seconds,
                "tokens_per_s": nr_tokens / own_share / seconds,
            }
            if ceiling:
                rates["utilisation"] = flops / own_share / seconds / ceiling
            if log:
                log({"step": i, **means, "learning_rate": float(schedule(i - 1)), **rates})
            told, nr_tokens, flops, since = [], 0, 0, time.perf_counter()
        if evaluate and eval_steps and (i % eval_steps == 0 or i == num_steps):
            metrics = evaluate(state.encoder, unpad_head(state.head, nr_labels))
            if log:
                log({"step": i, **metrics})
            if best:
                best = better(best, float(np.mean(list(metrics.values()))), state)
                if int(best.nr_worse) >= max_no_improve:
                    break
            since = time.perf_counter()
        if steps and save_steps and i % save_steps == 0 and i < num_steps:
            steps.save(nr_batches, (state, best))
    if bar:
        bar.close()
    final = best or state
    return final.encoder, unpad_head(final.head, nr_labels)


class Best(NamedTuple):
    """The best evaluation so far, and what it was of."""

    score: jax.Array  # float32 []
    nr_worse: jax.Array  # int32 [], evaluations since
    encoder: dict
    head: dict


def start_best(state: State) -> Best:
    """Before the first evaluation."""
    return Best(jnp.float32(-jnp.inf), jnp.int32(0), *jax.tree.map(jnp.copy, (state.encoder, state.head)))


def better(best: Best, score: float, state: State) -> Best:
    """`best`, or where `score` is higher a copy of the state's parameters: the next update takes their buffers."""
    if np.float32(score) > best.score:
        return start_best(state)._replace(score=jnp.float32(score))
    return best._replace(nr_worse=best.nr_worse + 1)


def by_cluster(Y: csr_matrix, M: csr_matrix) -> Callable[[np.ndarray, int], ByCluster]:
    """shortlists(rows, number of the batch) for a head that is computed whole."""
    clusters, labels = pack_rows(M), pack_rows(Y)
    return lambda rows, number: ByCluster(clusters.index[rows], labels.index[rows], labels.value[rows])


def by_label(
    Y: csr_matrix, M: csr_matrix, C: csc_matrix, *, most: int, nr_rows: int, seed: int
) -> Callable[[np.ndarray, int], Listed]:
    """shortlists(rows, number of the batch) for a head of which only the listed rows are computed; see list_labels."""
    children_kl = children(C)
    return lambda rows, number: list_labels(Y, M, children_kl, rows, most=most, nr_rows=nr_rows, seed=(seed, number))


def place_batch(mesh: Mesh, batch: TrainBatch) -> TrainBatch:
    """The batch on the devices: instances split over `data`, the list of rows whole on each."""
    if isinstance(batch.shortlists, ByCluster):
        return split_batch(mesh, batch)
    rows_u, *rest = batch.shortlists
    ids_bt, mask_bt, rest, weight_b = split_batch(mesh, (batch.ids_bt, batch.mask_bt, rest, batch.weight_b))
    return TrainBatch(ids_bt, mask_bt, Listed(replicate(mesh, rows_u), *rest), weight_b)


def train_batches(
    tokens: Tokens,
    shortlists: Callable[[np.ndarray, int], ByCluster | Listed],
    padding: Padding,
    *,
    batch_size: int,
    own: slice = slice(None),
    first: int,
    stop: int,
    seed: int,
):
    """Yields the host batches (TrainBatch) first:stop of an endless run, epoch after epoch.

    own: the rows of a batch whose texts are read, those of this process's devices.
    """
    lengths, buckets = text_lengths(tokens), padding.buckets(tokens)
    an_epoch = -(-len(lengths) // batch_size)
    epoch, skipped = divmod(first, an_epoch)
    done = first - skipped
    while done < stop:
        sizes = {"batch_size": batch_size, "windows": text_windows(tokens)}
        for batch in plan_epoch(lengths, buckets, seed=seed, epoch=epoch, **sizes)[: stop - done]:
            done += 1
            if done <= first:
                continue
            ids_bt, mask_bt = pad_batch(tokens, batch, batch_size=batch_size, own=own)
            rows = np.resize(batch.rows, batch_size)
            weight_b = (np.arange(batch_size) < len(batch.rows)).astype(np.float32)
            yield TrainBatch(ids_bt, mask_bt, shortlists(rows, done), weight_b)
        epoch += 1


def finite_means(told: list[Told], step: int) -> dict[str, float]:
    """Means of what the batches told; ValueError if training has diverged."""
    means = dict(zip(Told._fields, np.mean(fetch(told), axis=0).tolist(), strict=True))
    if not np.isfinite(means["loss"]):
        raise ValueError(
            f"the loss is {means['loss']} at step {step}: lower matcher.learning_rate or matcher.max_grad_norm"
        )
    return means


def place_parents(mesh: Mesh, C: csc_matrix) -> jax.Array:
    """Parent of each head row, int32 [padded labels]; padding rows have the parent C.shape[1], which no row lists."""
    parents = parent_of_label(C)
    extra = -len(parents) % mesh.shape["label"]
    return split_labels(mesh, np.pad(parents, (0, extra), constant_values=C.shape[1]))


def make_scorer(
    module, C: csc_matrix, *, mesh: Mesh, padding: Padding, only_topk: int, post_processor: str, progress=None
) -> Callable[..., tuple[csr_matrix, np.ndarray]]:
    """score(encoder, head, tokens, M_pred) -> (the only_topk best labels a text, csr [n, l]; embeddings [n, hidden]).

    M_pred csr [n, clusters] holds the beam of the level above and its scores. Compiled once a level.
    """
    step = make_score_step(
        module, nr_clusters=C.shape[1], only_topk=only_topk, post_processor=post_processor, mesh=mesh
    )
    parent_l = place_parents(mesh, C)

    def score(encoder, head, tokens: Tokens, M_pred: csr_matrix, desc: str = "score"):
        encoder, head = replicate(mesh, encoder), split_labels(mesh, pad_head(head, mesh.shape["label"]))
        beam = pack_rows(M_pred)

        def run(rows, ids_bt, mask_bt):
            batch = ScoreBatch(ids_bt, mask_bt, beam.index[rows], beam.value[rows])
            return step(encoder, head, split_batch(mesh, batch), parent_l)

        values, labels, emb_nd = for_all_texts(
            run, tokens, padding, mesh=mesh, progress=progress and (lambda total, _: progress(total, desc))
        )
        return top_labels(values, labels, C.shape[0]), emb_nd

    return score


def embed(module, encoder, tokens: Tokens, *, mesh: Mesh, padding: Padding, progress=None) -> np.ndarray:
    """Pooled embeddings of all texts, float32 [n, hidden], not normalised."""
    step = make_embed_step(module)
    encoder = replicate(mesh, encoder)

    def run(rows, ids_bt, mask_bt):
        del rows
        return (step(encoder, *split_batch(mesh, (ids_bt, mask_bt))),)

    return for_all_texts(run, tokens, padding, mesh=mesh, progress=progress)[0]


def for_all_texts(run: Callable, tokens: Tokens, padding: Padding, *, mesh: Mesh, progress=None) -> list[np.ndarray]:
    """Applies run(rows, ids_bt, mask_bt) -> arrays [b, …] to all texts and returns its results in the texts' order.

    One batch is prepared and one computed while the one before is fetched.
    """
    lengths, sizes = text_lengths(tokens), {"tokens_a_batch": padding.tokens_a_batch, "multiple": mesh.shape["data"]}
    batches = plan_pass(lengths, padding.buckets(tokens), windows=text_windows(tokens), **sizes)
    bar = progress(len(lengths), "encode") if progress else None
    results, waiting = None, deque()

    def finish_one():
        nonlocal results
        rows, arrays = waiting.popleft()
        arrays = [array[: len(rows)] for array in fetch(arrays)]
        if results is None:
            results = [np.empty((len(lengths), *array.shape[1:]), array.dtype) for array in arrays]
        for result, array in zip(results, arrays, strict=True):
            result[rows] = array
        if bar:
            bar.update(len(rows))

    for batch in batches:
        size = pass_batch_size(batch.length * batch.windows, len(lengths), **sizes)
        ids_bt, mask_bt = pad_batch(tokens, batch, batch_size=size, own=own_rows(mesh, size))
        waiting.append((batch.rows, gather(run(np.resize(batch.rows, size), ids_bt, mask_bt))))
        if len(waiting) > 2:
            finish_one()
    while waiting:
        finish_one()
    if bar:
        bar.close()
    return results


def top_labels(values_nk: np.ndarray, labels_nk: np.ndarray, nr_labels: int) -> csr_matrix:
    """CSR of scored labels, best first in each row; places of -inf are left out, scores of 0 stay."""
    kept = np.isfinite(values_nk)
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    return csr_matrix((values_nk[kept], labels_nk[kept], indptr), (len(values_nk), nr_labels))
