"""XR-Transformer on text that is on every machine: docstrings of installed Python code -> what that code calls.

    make demo
    python -m xrt_jax.main --config=configs/demo.py --workdir=runs/demo     # once `make encoder` has run

The corpus is read from the standard library and this project's dependencies. The encoder is MiniLM, which
`make encoder` puts in .venv/encoder; without that folder it comes from the hub. With --config.encoder.name= none is
fetched: a vocabulary is learned from the corpus and a BERT of 2 layers pre-trained on it, too weak to beat XR-Linear.

P@1/3/5: 40.08/31.45/25.33, XR-Linear 37.55/29.33/23.41. `make demo` in a fresh clone took 317 seconds on 2 cores of a
shared x86-64 server, with installation and compilation. The corpus varies with what is installed, and the figures too.
"""

from pathlib import Path

from configs import default

ENCODER = Path(__file__).resolve().parents[1] / ".venv/encoder"


def get_config():
    config = default.get_config()
    config.data.dev_size = 200
    config.docstrings.nr_documents = 9000
    config.encoder.name = str(ENCODER) if ENCODER.is_dir() else "sentence-transformers/all-MiniLM-L6-v2"
    config.encoder.truncate_length = 48
    config.encoder.nr_buckets = 2
    config.encoder.tokens_a_batch = 3072
    config.encoder.pooling = "mean"  # as MiniLM was pre-trained
    config.encoder.hidden_dropout, config.encoder.attention_dropout = 0.1, 0.0
    config.preliminary_tree = default.tree(nr_splits=16, max_leaf_size=16, min_codes=256)
    config.refined_tree = default.tree(nr_splits=16, max_leaf_size=16)
    config.matcher.loss = ("weighted-squared-hinge",)
    config.matcher.first_bootstrap = "weighted-linear"
    config.matcher.bootstrap = ("weighted-linear",)
    config.matcher.max_steps = (30, 50)
    config.matcher.learning_rate = (1e-4,)
    config.matcher.head_learning_rate = (2e-4,)
    config.matcher.warmup_steps = (10,)
    config.matcher.log_steps = 10
    config.matcher.eval_steps = 25
    config.ranker.negative_sampling = ("tfn+man",)
    config.ranker.threshold = (0.01,)
    config.ranker.rel_mode, config.ranker.rel_norm = "induce", "l1"
    config.ranker.Cp = (4.0,)
    return config
