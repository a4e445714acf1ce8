"""AdamW for the encoder, Adam for the head, with warm-up, linear decay and clipping; each is clipped on its own."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


def linear_schedule(learning_rate: float, *, warmup_steps: int, max_steps: int) -> optax.Schedule:
    """Rate of update s = 0, 1, …: up over warmup_steps, then down to 0 at max_steps (Hugging Face's "linear")."""

    def schedule(step):
        up = step / max(1, warmup_steps)
        down = (max_steps - step) / max(1, max_steps - warmup_steps)
        return learning_rate * jnp.where(step < warmup_steps, up, jnp.maximum(down, 0.0))

    return schedule


def decays(params) -> dict:
    """True for the parameters under weight decay: all but biases and layer norms' scales."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("bias", "scale"), params)


def encoder_optimizer(
    schedule: optax.Schedule, *, adam_epsilon: float, weight_decay: float, max_grad_norm: float
) -> optax.GradientTransformation:
    """AdamW with decoupled decay after clipping by the encoder's global norm."""
    return optax.chain(
        optax.clip_by_global_norm(max_grad_norm),
        optax.adamw(schedule, eps=adam_epsilon, weight_decay=weight_decay, mask=decays),
    )


def head_optimizer(
    schedule: optax.Schedule, *, adam_epsilon: float, max_grad_norm: float, lazy: bool
) -> optax.GradientTransformation:
    """Adam without decay after clipping by the head's norm; `lazy` where most rows rest in most steps."""
    adam = scale_by_lazy_adam(eps=adam_epsilon) if lazy else optax.scale_by_adam(eps=adam_epsilon)
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), adam, optax.scale_by_learning_rate(schedule))


class LazyAdamState(NamedTuple):
    """Step count and the two moments, shaped like the parameters."""

    count: jax.Array
    mu: dict
    nu: dict


def scale_by_lazy_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """Adam that leaves rows without a gradient, and their moments, untouched (torch's SparseAdam, as PECOS's heads).

    Plain Adam would go on moving a label's row by its old momentum in all the batches that do not hold the label.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return LazyAdamState(jnp.zeros([], jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

    def update(grads, state, params=None):
        del params
        count = state.count + 1
        touched = jax.tree.map(_touched_rows, grads)
        keep = lambda new, old, rows: jnp.where(rows, new, old)  # noqa: E731
        mu = jax.tree.map(lambda g, m, t: keep(b1 * m + (1 - b1) * g, m, t), grads, state.mu, touched)
        nu = jax.tree.map(lambda g, v, t: keep(b2 * v + (1 - b2) * g * g, v, t), grads, state.nu, touched)
        # expm1: in float32 the plain 1 - 0.999**count is off by 1e-5 in the first steps.
        m_scale, v_scale = (-1 / jnp.expm1(count * math.log(b)) for b in (b1, b2))
        step = lambda m, v, t: jnp.where(t, m * m_scale / (jnp.sqrt(v * v_scale) + eps), 0.0)  # noqa: E731
        return jax.tree.map(step, mu, nu, touched), LazyAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def _touched_rows(grad: jax.Array) -> jax.Array:
    """True for the rows with any gradient, shaped to broadcast against grad."""
    return jnp.any(grad != 0, axis=tuple(range(1, grad.ndim)), keepdims=True)
