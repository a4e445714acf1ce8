"""AdamW for the encoder, Adam for the head, with a schedule of the rate and clipping; each is clipped on its own."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

LR_END = 1e-7  # where the polynomial schedule ends

# From the share of the decaying updates that are done, 0 to 1, to the share of the rate; Hugging Face's names.
DECAYS = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: 0.5 * (1 + jnp.cos(jnp.pi * done)),
    "cosine_with_restarts": lambda done: 0.5 * (1 + jnp.cos(jnp.pi * done)),  # its default is one cycle, no restart
    "polynomial": lambda done: 1 - done,
    "constant": jnp.ones_like,
    "constant_with_warmup": jnp.ones_like,
}


def check_schedule(name: str) -> None:
    """ValueError for an unknown schedule of the learning rate."""
    if name not in DECAYS:
        raise ValueError(f"matcher.lr_schedule is {name!r}: choose one of {', '.join(DECAYS)}")


def make_schedule(name: str, learning_rate: float, *, warmup_steps: int, max_steps: int) -> optax.Schedule:
    """Rate of update s = 0, 1, …: up from 0 over warmup_steps (not "constant"), then down to the end at max_steps.

    As Hugging Face's get_scheduler with its defaults; the power of "polynomial" is 1, its end 1e-7.
    """
    warmup_steps = 0 if name == "constant" else warmup_steps
    end = min(LR_END, learning_rate) if name == "polynomial" else 0.0

    def schedule(step):
        up = learning_rate * (step / max(1, warmup_steps))
        done = jnp.clip((step - warmup_steps) / max(1, max_steps - warmup_steps), 0.0, 1.0)
        return jnp.where(step < warmup_steps, up, end + (learning_rate - end) * DECAYS[name](done))

    return schedule


def accumulated(tx: optax.GradientTransformation, nr_batches: int) -> optax.GradientTransformation:
    """An update of tx by the mean gradient of so many batches, with the last of them; none with the others."""
    return tx if nr_batches == 1 else optax.MultiSteps(tx, nr_batches).gradient_transformation()


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
