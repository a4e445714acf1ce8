"""Which levels of the preliminary tree are fine-tuned, with which settings, and what each one owes to the next."""

from ml_collections import ConfigDict

from xrt_jax.config import settings_of_level
from xrt_jax.matcher.concat import check_ensemble
from xrt_jax.matcher.head import check_bootstrap, check_strategy
from xrt_jax.matcher.loss import check_loss
from xrt_jax.matcher.mesh import check_batch_size
from xrt_jax.matcher.optimizer import check_schedule
from xrt_jax.matcher.shortlist import check_scheme
from xrt_jax.matcher.step import check_post_processor
from xrt_jax.stages import tree_levels

RANKER_FEATURES = ("both", "embedding")
# Fields of a level that fine_tune takes as they are.
FINE_TUNING = (
    "loss",
    "batch_size",
    "learning_rate",
    "head_learning_rate",
    "lr_schedule",
    "warmup_steps",
    "gradient_accumulation",
    "adam_epsilon",
    "weight_decay",
    "max_grad_norm",
    "log_steps",
    "eval_steps",
    "max_no_improve",
    "save_steps",
)


def plan_levels(config: ConfigDict, nr_labels: int, mesh) -> tuple[list[int], list[dict]]:
    """(sizes of the preliminary tree's levels, settings of each fine-tuned level); ValueError for any bad setting."""
    sizes = tree_levels(config, "preliminary_tree", nr_labels)
    if config.ranker_features not in RANKER_FEATURES:
        raise ValueError(f"ranker_features is {config.ranker_features!r}: choose one of {', '.join(RANKER_FEATURES)}")
    if not 0 < config.encoder.fine_tuned_share <= 1:
        raise ValueError(
            f"encoder.fine_tuned_share is {config.encoder.fine_tuned_share}: it must be above 0, at most 1"
        )
    if not config.do_fine_tune:
        if config.only_encoder:
            raise ValueError("only_encoder with do_fine_tune=False leaves nothing to train")
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
        check_strategy(level["head"])
        check_ensemble(level["ensemble"])
        if level["max_no_improve"] and not (level["eval_steps"] and config.data.dev_size):
            raise ValueError("matcher.max_no_improve stops by validations: set matcher.eval_steps and data.dev_size")
        if level["max_active_labels"] and level["head"] == "whole":
            raise ValueError("matcher.max_active_labels lists labels: matcher.head must be auto, union or gather")
        check_post_processor(level["post_processor"])
        check_batch_size(mesh, level["batch_size"], "matcher.batch_size")
    check_bootstrap("first_bootstrap", config.matcher.first_bootstrap)
    if config.matcher.first_bootstrap == "inherit":
        raise ValueError("matcher.first_bootstrap is 'inherit', but no level is above the first: choose linear or none")
    return sizes, settings


def needs_beam(level_settings: list[dict], level: int) -> bool:
    """Whether the training texts are scored after a level: matcher-aware negatives need the beams of all above."""
    return any("man" in settings["negative_sampling"] for settings in level_settings[level + 1 :])


def uses_concat(level_settings: list[dict], level: int) -> bool:
    """Whether linear classifiers on [X | embedding] have a say in the beam handed on: not on the last level."""
    return level < len(level_settings) - 1 and level_settings[level]["ensemble"] != "transformer-only"


def needs_embeddings(level_settings: list[dict], level: int, is_final: bool) -> bool:
    """Whether the training texts are embedded after a level: for ranker, concat model or linear heads of the next.

    is_final: the ranker takes the last level's encoder as it is.
    """
    if level == len(level_settings) - 1:
        return is_final
    if needs_beam(level_settings, level) or uses_concat(level_settings, level):
        return True
    return "linear" in level_settings[level + 1]["bootstrap"]
