"""The two jitted steps of a level: one update of encoder and head, and one scoring pass. Written for one device;
the shardings of their arguments spread them over a mesh."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from xrt_jax.matcher.loss import mean_loss, shortlist_loss
from xrt_jax.matcher.mesh import sharding
from xrt_jax.matcher.shortlist import Listed, unpack_rows


class State(NamedTuple):
    """Everything that an update changes."""

    step: jax.Array  # int32 [], batches done
    encoder: dict
    head: dict  # W float32 [labels, hidden], b float32 [labels]
    encoder_opt: optax.OptState
    head_opt: optax.OptState


class Told(NamedTuple):
    """What an update tells of itself, float32 []."""

    loss: jax.Array  # of the batch, before the update
    gradient_norm: jax.Array  # of encoder and head together, before clipping


class ByCluster(NamedTuple):
    """Shortlists of a batch for a head that is computed whole."""

    clusters_bk: jax.Array  # int32, clusters of the level above that make the shortlist
    labels_bk: jax.Array  # int32, positives
    values_bk: jax.Array  # float32, their label values (counts on inner levels)


class TrainBatch(NamedTuple):
    """One global batch; instances of weight 0 only fill it up. ids and mask as `pooled` takes them."""

    ids_bt: jax.Array  # int32
    mask_bt: jax.Array  # bool
    shortlists: ByCluster | Listed
    weight_b: jax.Array  # float32, 0 or 1


class ScoreBatch(NamedTuple):
    """One batch to score; clusters are the beam kept by the level above, scores its values. ids, mask: see `pooled`."""

    ids_bt: jax.Array  # int32
    mask_bt: jax.Array  # bool
    clusters_bk: jax.Array  # int32
    scores_bk: jax.Array  # float32


def init_state(encoder, head, encoder_tx, head_tx) -> State:
    """State before the first update; moments are placed like the parameters they belong to."""
    return State(
        jnp.zeros([], jnp.int32), encoder, head, jax.jit(encoder_tx.init)(encoder), jax.jit(head_tx.init)(head)
    )


def pooled(module, encoder, ids: jax.Array, mask: jax.Array, **how) -> jax.Array:
    """Embeddings of a batch of texts [b, hidden] from ids int32 and mask bool [b, t] or [b, windows, t].

    With windows, float32: the mean over those of a text, which are those with a token in the mask; each text has one.
    how: deterministic and rngs, as module.apply takes them.
    """
    if ids.ndim == 2:
        return module.apply({"params": encoder}, ids, mask, **how)[1]
    exists_bw = mask.any(axis=-1)
    mask = mask.at[:, :, 0].set(mask[:, :, 0] | ~exists_bw)  # attention to nothing would give NaN
    b, w, t = ids.shape
    _, emb_nd = module.apply({"params": encoder}, ids.reshape(b * w, t), mask.reshape(b * w, t), **how)
    emb_bwd = jnp.where(exists_bw[..., None], emb_nd.reshape(b, w, -1).astype(jnp.float32), 0)
    return emb_bwd.sum(axis=1) / exists_bw.sum(axis=1, keepdims=True)


def head_logits(head: dict, emb_bd: jax.Array, mesh: Mesh, dtype) -> jax.Array:
    """Scores of all labels of the level, float32 [b, l]."""
    logits_bl = jnp.dot(emb_bd.astype(dtype), head["W"].astype(dtype).T, preferred_element_type=jnp.float32)
    return jax.lax.with_sharding_constraint(logits_bl + head["b"], sharding(mesh, "data", "label"))


def children_of(clusters_bk: jax.Array, values_bk: jax.Array, parent_l: jax.Array, nr_clusters: int) -> jax.Array:
    """Each label's value is its parent's value, 0 where the parent is not among the row's clusters: [b, l]."""
    return unpack_rows(clusters_bk, values_bk, nr_clusters + 1)[:, parent_l]


class Targets(NamedTuple):
    """What a loss is made of: labels along the second axis, only those in the mask count."""

    logits: jax.Array  # float32 [b, labels]
    y: jax.Array  # float32 [b, labels], above 0 for positives
    mask: jax.Array  # bool [b, labels]


def whole_targets(head, emb_bd, shortlists: ByCluster, parent_l, nr_clusters: int, mesh: Mesh, dtype) -> Targets:
    """All labels of the level, and a mask over them."""
    logits_bl = head_logits(head, emb_bd, mesh, dtype)
    y_bl = unpack_rows(shortlists.labels_bk, shortlists.values_bk, logits_bl.shape[1])
    ones_bk = jnp.ones(shortlists.clusters_bk.shape)
    listed_bl = children_of(shortlists.clusters_bk, ones_bk, parent_l, nr_clusters)
    return Targets(logits_bl, y_bl, (listed_bl > 0) | (y_bl > 0))


def union_targets(head_u, emb_bd, shortlists: Listed, dtype) -> Targets:
    """The labels of the batch's shortlists together: head_u are their rows."""
    logits_bu = jnp.dot(emb_bd.astype(dtype), head_u["W"].astype(dtype).T, preferred_element_type=jnp.float32)
    y_bu = unpack_rows(shortlists.slots_bw, shortlists.values_bw, logits_bu.shape[1])
    mask_bu = unpack_rows(shortlists.slots_bw, jnp.ones(shortlists.slots_bw.shape, bool), logits_bu.shape[1])
    return Targets(logits_bu + head_u["b"], y_bu, mask_bu)


def gather_targets(head_u, emb_bd, shortlists: Listed, dtype) -> Targets:
    """Each instance's own shortlist, its rows gathered from head_u."""
    rows = {name: value.at[shortlists.slots_bw].get(mode="fill", fill_value=0) for name, value in head_u.items()}
    logits_bw = jnp.einsum(
        "bd,bwd->bw", emb_bd.astype(dtype), rows["W"].astype(dtype), preferred_element_type=jnp.float32
    )
    return Targets(logits_bw + rows["b"], shortlists.values_bw, shortlists.slots_bw < len(head_u["b"]))


def make_train_step(
    module, encoder_tx, head_tx, *, loss: str, width: int, nr_clusters: int, mesh: Mesh, strategy: str, by_row: bool
) -> Callable[[State, TrainBatch, jax.Array, jax.Array], tuple[State, Told]]:
    """Jitted step (state, batch, parent_l, key) -> (state, Told); the state given is used up.

    parent_l int32 [labels] holds each label's parent cluster, nr_clusters (one past the last) for rows that only pad
    the head. key: the run's dropout key; each step folds its number in. strategy: one of head.STRATEGIES; "whole"
    wants batches with ByCluster, the others with Listed. by_row: head_tx treats each row of the head alone and leaves
    those without a gradient as they are, so that a step on Listed need only touch the listed ones.
    """

    def targets(head, emb_bd, shortlists, parent_l) -> Targets:
        if strategy == "whole":
            return whole_targets(head, emb_bd, shortlists, parent_l, nr_clusters, mesh, module.dtype)
        head_u = head if by_row else take_rows(head, shortlists.rows_u, len(head["b"]))
        return {"union": union_targets, "gather": gather_targets}[strategy](head_u, emb_bd, shortlists, module.dtype)

    def loss_fn(params, batch: TrainBatch, parent_l, key):
        encoder, head = params
        emb_bd = pooled(module, encoder, batch.ids_bt, batch.mask_bt, deterministic=False, rngs={"dropout": key})
        logits, y, mask = targets(head, emb_bd, batch.shortlists, parent_l)
        return mean_loss(shortlist_loss(logits, y, mask, width=width, name=loss), batch.weight_b)

    def train_step(state: State, batch: TrainBatch, parent_l, key):
        key = jax.random.fold_in(key, state.step)
        whole, nr_rows = (state.head, state.head_opt), len(state.head["b"])
        only_listed = by_row and strategy != "whole"
        head, head_opt = take_rows(whole, batch.shortlists.rows_u, nr_rows) if only_listed else whole
        value, (encoder_grad, head_grad) = jax.value_and_grad(loss_fn)((state.encoder, head), batch, parent_l, key)
        encoder_step, encoder_opt = encoder_tx.update(encoder_grad, state.encoder_opt, state.encoder)
        head_step, head_opt = head_tx.update(head_grad, head_opt, head)
        encoder = optax.apply_updates(state.encoder, encoder_step)
        head = optax.apply_updates(head, head_step)
        if only_listed:
            head, head_opt = put_rows(whole, batch.shortlists.rows_u, nr_rows, (head, head_opt))
        told = Told(value, optax.global_norm((encoder_grad, head_grad)))
        return State(state.step + 1, encoder, head, encoder_opt, head_opt), told

    return jax.jit(train_step, donate_argnums=0)


def take_rows(tree, rows_u: jax.Array, nr_rows: int):
    """The rows rows_u (zeros past the end) of the leaves that have nr_rows of them; other leaves as they are."""
    return jax.tree.map(lambda a: a.at[rows_u].get(mode="fill", fill_value=0) if _is_table(a, nr_rows) else a, tree)


def put_rows(tree, rows_u: jax.Array, nr_rows: int, new):
    """The inverse of take_rows: the tree with what `new` holds of it."""
    return jax.tree.map(lambda a, b: a.at[rows_u].set(b, mode="drop") if _is_table(a, nr_rows) else b, tree, new)


def _is_table(leaf: jax.Array, nr_rows: int) -> bool:
    return leaf.ndim > 0 and leaf.shape[0] == nr_rows


def make_score_step(
    module, *, nr_clusters: int, only_topk: int, post_processor: str, mesh: Mesh
) -> Callable[[dict, dict, ScoreBatch, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]:
    """Jitted pass (encoder, head, batch, parent_l) -> (values [b, k], labels [b, k], emb [b, hidden] float32).

    The k best children of each row's clusters, best first; -inf fills rows with fewer. Embedding and scores come out
    of the same pass.
    """
    transform, combine = POST_PROCESSORS[post_processor]

    def score(encoder, head, batch: ScoreBatch, parent_l):
        emb_bd = pooled(module, encoder, batch.ids_bt, batch.mask_bt, deterministic=True)
        scores_bl = transform(head_logits(head, emb_bd, mesh, module.dtype))
        listed_bl = children_of(batch.clusters_bk, jnp.ones(batch.clusters_bk.shape), parent_l, nr_clusters)
        scores_bl = combine(scores_bl, children_of(batch.clusters_bk, batch.scores_bk, parent_l, nr_clusters))
        scores_bl = jnp.where(listed_bl > 0, scores_bl, -jnp.inf)
        values_bk, labels_bk = jax.lax.top_k(scores_bl, min(only_topk, scores_bl.shape[1]))
        return values_bk, labels_bk, emb_bd.astype(jnp.float32)

    return jax.jit(score)


@lru_cache(maxsize=8)  # by module, which compares by its fields: a text at a time is not to be compiled each time
def make_embed_step(module) -> Callable[[dict, jax.Array, jax.Array], jax.Array]:
    """Jitted pass (encoder, ids_bt, mask_bt) -> float32 embeddings [b, hidden], dropout off; see `pooled`."""

    def embed(encoder, ids_bt, mask_bt):
        return pooled(module, encoder, ids_bt, mask_bt, deterministic=True).astype(jnp.float32)

    return jax.jit(embed)


def _keep_child(child, parent):
    del parent
    return child


def _hinge(p: int):
    return lambda v: jnp.exp(-(jax.nn.relu(1.0 - v) ** p))


def _log_hinge(p: int):
    return lambda v: -(jax.nn.relu(1.0 - v) ** p)


# What turns a raw margin into a score, and a child's score with its parent's into the path's (as PECOS).
POST_PROCESSORS = {
    "noop": (lambda v: v, _keep_child),
    "sigmoid": (jax.nn.sigmoid, jnp.multiply),
    "log-sigmoid": (jax.nn.log_sigmoid, jnp.add),
    **{f"l{p}-hinge": (_hinge(p), jnp.multiply) for p in (1, 2, 3, 4)},
    **{f"log-l{p}-hinge": (_log_hinge(p), jnp.add) for p in (1, 2, 3, 4)},
}


def check_post_processor(name: str) -> None:
    """ValueError for an unknown post-processor."""
    if name not in POST_PROCESSORS:
        raise ValueError(f"matcher.post_processor is {name!r}: choose one of {', '.join(POST_PROCESSORS)}")
