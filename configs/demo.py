"""XR-Transformer on text that is on every machine: docstrings of installed Python code -> what that code calls.

    python -m xrt_jax.main --config=configs/demo.py --workdir=runs/demo

Nothing is downloaded: the corpus is read from the standard library and this project's dependencies, the vocabulary
learned from it, and a BERT of 2 layers and hidden size 128 pre-trained on it before it is fine-tuned level by level.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.data.dev_size = 300
    config.encoder.truncate_length = 64
    config.encoder.nr_buckets = 2
    config.encoder.pooling = "mean"
    config.encoder.hidden_dropout = 0.1
    config.scratch.mlm_steps = 300
    config.preliminary_tree = default.tree(nr_splits=16, max_leaf_size=16, min_codes=256)
    config.refined_tree = default.tree(nr_splits=16, max_leaf_size=16)
    config.matcher.loss = ("weighted-squared-hinge",)
    config.matcher.first_bootstrap = "weighted-linear"
    config.matcher.bootstrap = ("weighted-linear",)
    config.matcher.num_epochs = (0.35,)
    config.matcher.learning_rate = (5e-4,)
    config.matcher.warmup_steps = (10,)
    config.ranker.threshold = (0.01,)
    config.ranker.rel_mode, config.ranker.rel_norm = "induce", "l1"
    config.ranker.Cp = (4.0,)
    return config
