"""Losses over the shortlisted labels of each instance, as PECOS defines them but for the cross-entropy."""

import jax
import jax.numpy as jnp

LOSSES = ("hinge", "squared-hinge", "weighted-hinge", "weighted-squared-hinge", "cross-entropy")


def check_loss(name: str) -> None:
    """ValueError for an unknown loss."""
    if name not in LOSSES:
        raise ValueError(f"matcher.loss is {name!r}: choose one of {', '.join(LOSSES)}")


def shortlist_loss(logits_bl: jax.Array, y_bl: jax.Array, mask_bl: jax.Array, *, width: int, name: str) -> jax.Array:
    """Loss of each instance, float32 [b]: weight * max(0, 1 - s * z) ** p summed over the shortlist, over its width.

    s is +1 for positives (y > 0), -1 for the others in mask_bl; p is 2 for squared-hinge; `weighted-` weights a
    positive with its value in y_bl (its label count on inner levels). `width` is the longest shortlist of the level:
    as in PECOS it divides every instance's loss, which so does not depend on the length of its own shortlist.
    "cross-entropy" is log(1 + exp(-s * z)) in the hinge's place. PECOS does not divide that by the width, and takes
    label counts for targets, so that its rates do not suit the hinges and no logit is large enough; here they do.
    """
    sign_bl = jnp.where(y_bl > 0, 1.0, -1.0)
    margin_bl = sign_bl * logits_bl.astype(jnp.float32)
    loss_bl = jax.nn.softplus(-margin_bl) if name == "cross-entropy" else jax.nn.relu(1.0 - margin_bl)
    if name.endswith("squared-hinge"):
        loss_bl = loss_bl**2
    if name.startswith("weighted-"):
        loss_bl = loss_bl * jnp.where(y_bl > 0, y_bl, 1.0)
    return jnp.sum(loss_bl * mask_bl, axis=1) / width


def mean_loss(loss_b: jax.Array, weight_b: jax.Array) -> jax.Array:
    """Mean over the real instances of a batch; rows that only fill it up have weight 0."""
    return jnp.sum(loss_b * weight_b) / jnp.maximum(jnp.sum(weight_b), 1.0)
