"""Masked language modelling (Devlin et al. 2019, section 3.1): warms an encoder up on the texts themselves."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

MASKED_SHARE = 0.15
_STEPS_PER_LOG = 50


class MlmState(NamedTuple):
    """Trained in place: {"encoder": ..., "head": ...}, and the optimiser's state."""

    params: dict
    opt_state: Any


class MlmHead(nn.Module):
    """Token states [b, m, d] to logits [b, m, v] float32; the decoder is the word embedding table itself."""

    dtype: Any

    @nn.compact
    def __call__(self, hidden_bmd: jax.Array, table_vd: jax.Array) -> jax.Array:
        vocab_size, width = table_vd.shape
        transform = nn.Dense(width, dtype=self.dtype, kernel_init=nn.initializers.normal(0.02), name="transform")
        x_bmd = jax.nn.gelu(transform(hidden_bmd), approximate=False)
        x_bmd = nn.LayerNorm(dtype=jnp.float32, name="norm")(x_bmd).astype(self.dtype)
        logits_bmv = jnp.matmul(x_bmd, table_vd.T.astype(self.dtype), preferred_element_type=jnp.float32)
        return logits_bmv + self.param("bias", nn.initializers.zeros, (vocab_size,))


def mask_tokens(
    key: jax.Array,
    ids_bt: jax.Array,
    mask_bt: jax.Array,
    *,
    mask_id: int,
    vocab_size: int,
    special_ids: tuple[int, ...],
    rate: float,
    nr_masked: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Hides tokens to be guessed: (inputs [b, t], positions [b, m], targets [b, m], weights [b, m]), m = nr_masked.

    A row with n ordinary tokens gets round(rate * n) of them chosen, at least one and at most m (none if n = 0); the
    other slots have weight 0. Of the chosen, 80 % become `mask_id`, 10 % a random token, 10 % stay as they are.
    m does not depend on the data, so that the softmax over the vocabulary is paid only where it is needed.
    """
    b, t = ids_bt.shape
    choose, replace, draw = jax.random.split(key, 3)
    ordinary_bt = mask_bt.astype(bool) & ~jnp.isin(ids_bt, jnp.array(special_ids, ids_bt.dtype))
    scores_bt = jnp.where(ordinary_bt, jax.random.uniform(choose, (b, t)), -1.0)
    positions = jax.lax.top_k(scores_bt, nr_masked)[1]  # [b, m]

    nr_ordinary = ordinary_bt.sum(1, keepdims=True)
    nr_chosen = jnp.clip(jnp.round(rate * nr_ordinary), jnp.minimum(nr_ordinary, 1), nr_masked)
    weights = (jnp.arange(nr_masked) < nr_chosen).astype(jnp.float32)  # [b, m]

    targets = jnp.take_along_axis(ids_bt, positions, axis=1)
    lot = jax.random.uniform(replace, targets.shape)
    random_ids = jax.random.randint(draw, targets.shape, 0, vocab_size, ids_bt.dtype)
    hidden = jnp.where(lot < 0.8, mask_id, jnp.where(lot < 0.9, random_ids, targets))
    hidden = jnp.where(weights > 0, hidden, targets)
    inputs = ids_bt.at[jnp.arange(b)[:, None], positions].set(hidden.astype(ids_bt.dtype))
    return inputs, positions, targets, weights


def make_mlm_step(
    module: nn.Module, tx: optax.GradientTransformation, *, mask_id: int, special_ids: tuple[int, ...]
) -> Callable[[MlmState, jax.Array, jax.Array, jax.Array], tuple[MlmState, jax.Array]]:
    """A jitted step(state, ids_bt, mask_bt, key) -> (state, loss): mean cross entropy in nats over the chosen tokens.

    The state is donated: the one passed in must not be used again.
    """
    head = MlmHead(module.dtype)

    def loss_fn(params, ids_bt, mask_bt, key):
        mask_key, dropout_key = jax.random.split(key)
        inputs, positions, targets, weights = mask_tokens(
            mask_key,
            ids_bt,
            mask_bt,
            mask_id=mask_id,
            vocab_size=module.vocab_size,
            special_ids=special_ids,
            rate=MASKED_SHARE,
            nr_masked=max(1, round(MASKED_SHARE * ids_bt.shape[1])),
        )
        rngs = {"dropout": dropout_key}
        hidden_btd, _ = module.apply({"params": params["encoder"]}, inputs, mask_bt, deterministic=False, rngs=rngs)
        hidden_bmd = jnp.take_along_axis(hidden_btd, positions[:, :, None], axis=1)
        logits_bmv = head.apply({"params": params["head"]}, hidden_bmd, _word_table(params["encoder"]))
        losses_bm = optax.softmax_cross_entropy_with_integer_labels(logits_bmv, targets)
        return (losses_bm * weights).sum() / jnp.maximum(weights.sum(), 1)

    @partial(jax.jit, donate_argnums=0)
    def step(state, ids_bt, mask_bt, key):
        loss, grads = jax.value_and_grad(loss_fn)(state.params, ids_bt, mask_bt, key)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        return MlmState(optax.apply_updates(state.params, updates), opt_state), loss

    return step


def pretrain(
    module: nn.Module,
    params: dict,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    learning_rate: float,
    warmup_steps: int,
    max_steps: int,
    mask_id: int,
    special_ids: tuple[int, ...],
    seed: int,
    progress: Callable | None = None,
    log: Callable[[dict], None] | None = None,
) -> dict:
    """The encoder's parameters after `max_steps` steps of masked language modelling, fewer if `batches` ends first.

    Batches are (ids_bt int32, mask_bt bool) of few different shapes, as each is compiled once. Learning rate: linear
    from 0 over `warmup_steps`, then linear to 0. `progress(total, desc)` makes a bar; `log` gets a dict now and then.
    """
    tx, schedule = _make_optimiser(learning_rate, warmup_steps, max_steps)
    init_key, step_key = jax.random.split(jax.random.key(seed))
    table_vd = _word_table(params)
    head = MlmHead(module.dtype).init(init_key, jnp.zeros((1, 1, table_vd.shape[1])), table_vd)["params"]
    trained = {"encoder": jax.tree.map(jnp.copy, params), "head": head}  # a copy, as each step donates its state
    state = MlmState(trained, tx.init(trained))
    step = make_mlm_step(module, tx, mask_id=mask_id, special_ids=tuple(special_ids))

    bar = progress(max_steps, "masked language model") if progress else None
    for i, (ids_bt, mask_bt) in zip(range(max_steps), batches, strict=False):
        state, loss = step(state, ids_bt, mask_bt, jax.random.fold_in(step_key, i))
        if bar:
            bar.update(1)
        if log and ((i + 1) % _STEPS_PER_LOG == 0 or i + 1 == max_steps):
            log({"step": i + 1, "loss": float(loss), "learning_rate": float(schedule(i))})
    if bar:
        bar.close()
    return state.params["encoder"]


def _make_optimiser(learning_rate, warmup_steps, max_steps):
    """AdamW as BERT: weight decay 0.01 on matrices only; not on the pooler, which this task does not train."""
    warm = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    cool = optax.linear_schedule(learning_rate, 0.0, max_steps - warmup_steps)
    schedule = optax.join_schedules([warm, cool], [warmup_steps])

    def decayed(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf.ndim > 1 and "pooler" not in jax.tree_util.keystr(path), params
        )

    adamw = optax.adamw(schedule, weight_decay=0.01, mask=decayed)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw), schedule


def _word_table(params: dict) -> jax.Array:
    return params["word_embeddings"]["embedding"]
