"""What the published settings of XR-Transformer share (Zhang et al., NeurIPS 2021); their six files start from here.

PECOS's archives have the texts, labels and the TF-IDF that was used. One is downloaded and unpacked, to the folder DIR
of these files, by

    xrt-jax fetch eurlex-4k --dir=data    # DIR is data/eurlex-4k; wiki10-31k, amazoncat-13k and so on likewise

Batches are of 32 texts on each of 8 GPUs, 256 an update; on less, --config.matcher.gradient_accumulation=4 with
--config.matcher.batch_size=64 makes updates of as many. All training texts are trained on, none are held out to
validate, and no XR-Linear is trained beside; --config.data.dev_size=500 and --config.xr_linear=True would.
"""

from configs import default
from xrt_jax.config import override


def get_config():
    """The fields that all six have, for a ranker of four levels."""
    config = default.get_config()
    config.xr_linear = False
    config.data.dev_size = 0
    config.encoder.name = "bert-base-uncased"
    config.encoder.hidden_dropout = 0.1
    config.matcher.negative_sampling = ("tfn+man",)
    config.matcher.loss = ("weighted-squared-hinge",)
    config.matcher.bootstrap = ("weighted-linear",)
    config.matcher.ensemble = ("concat-only",)
    config.matcher.concat_threshold = (0.001,)
    config.matcher.cost_sensitive = True
    config.matcher.batch_size = (256,)
    config.matcher.num_epochs = (10.0,)  # of no effect: max_steps says how long
    config.matcher.score_test = False
    config.ranker.negative_sampling = ("tfn", "tfn", "tfn", "tfn+man")
    config.ranker.threshold = (0.001,)
    config.ranker.rel_mode, config.ranker.rel_norm = "induce", "l1"
    config.ranker.post_processor = ("l3-hinge", "l3-hinge", "l3-hinge", "noop")
    return config


def with_variant(config, variants, name):
    """The configuration with the fields of the variant of this name, or of the first; ValueError names the choices."""
    if name and name not in variants:
        raise ValueError(f"there is no variant {name!r}: choose one of {', '.join(variants)}")
    override(config, variants[name or next(iter(variants))])
    return config
