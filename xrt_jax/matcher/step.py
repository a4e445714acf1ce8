"""The two jitted steps of a level: one update of encoder and head, and one scoring pass. Written for one device;
the shardings of their arguments spread them over a mesh."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from xrt_jax.matcher.loss import mean_loss, shortlist_loss
from xrt_jax.matcher.mesh import sharding
from xrt_jax.matcher.shortlist import unpack_rows


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


class TrainBatch(NamedTuple):
    """One global batch; instances of weight 0 only fill it up. ids and mask as `pooled` takes them."""

    ids_bt: jax.Array  # int32
    mask_bt: jax.Array  # bool
    clusters_bk: jax.Array  # int32, clusters of the level above that make the shortlist
    labels_bk: jax.Array  # int32, positives
    values_bk: jax.Array  # float32, their label values (counts on inner levels)
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
    """Scores of all labels of the level, float32 [b, l]: up to 32,768 labels one dense product beats any gather."""
    logits_bl = jnp.dot(emb_bd.astype(dtype), head["W"].astype(dtype).T, preferred_element_type=jnp.float32)
    return jax.lax.with_sharding_constraint(logits_bl + head["b"], sharding(mesh, "data", "label"))


def children_of(clusters_bk: jax.Array, values_bk: jax.Array, parent_l: jax.Array, nr_clusters: int) -> jax.Array:
    """Each label's value is its parent's value, 0 where the parent is not among the row's clusters: [b, l]."""
    return unpack_rows(clusters_bk, values_bk, nr_clusters + 1)[:, parent_l]


def make_train_step(
    module, encoder_tx, head_tx, *, loss: str, width: int, nr_clusters: int, mesh: Mesh
) -> Callable[[State, TrainBatch, jax.Array, jax.Array], tuple[State, Told]]:
    """Jitted step (state, batch, parent_l, key) -> (state, Told); the state given is used up.

    parent_l int32 [labels] holds each label's parent cluster, nr_clusters (one past the last) for rows that only pad
    the head. key: the run's dropout key; each step folds its number in.
    """

    def loss_fn(params, batch: TrainBatch, parent_l, key):
        encoder, head = params
        emb_bd = pooled(module, encoder, batch.ids_bt, batch.mask_bt, deterministic=False, rngs={"dropout": key})
        logits_bl = head_logits(head, emb_bd, mesh, module.dtype)
        y_bl = unpack_rows(batch.labels_bk, batch.values_bk, logits_bl.shape[1])
        listed_bl = children_of(batch.clusters_bk, jnp.ones(batch.clusters_bk.shape), parent_l, nr_clusters)
        mask_bl = (listed_bl > 0) | (y_bl > 0)
        return mean_loss(shortlist_loss(logits_bl, y_bl, mask_bl, width=width, name=loss), batch.weight_b)

    def train_step(state: State, batch: TrainBatch, parent_l, key):
        key = jax.random.fold_in(key, state.step)
        value, (encoder_grad, head_grad) = jax.value_and_grad(loss_fn)(
            (state.encoder, state.head), batch, parent_l, key
        )
        encoder_step, encoder_opt = encoder_tx.update(encoder_grad, state.encoder_opt, state.encoder)
        head_step, head_opt = head_tx.update(head_grad, state.head_opt, state.head)
        encoder = optax.apply_updates(state.encoder, encoder_step)
        head = optax.apply_updates(state.head, head_step)
        told = Told(value, optax.global_norm((encoder_grad, head_grad)))
        return State(state.step + 1, encoder, head, encoder_opt, head_opt), told

    return jax.jit(train_step, donate_argnums=0)


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
