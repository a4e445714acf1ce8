"""Every stage of XR-Transformer in seconds, to try an installation: some docstrings of numpy, an encoder made here.

    python -m xrt_jax.main --config=configs/smoke.py --workdir=runs/smoke

It says that all works, not how well: an encoder as small as this one brings nothing. P@1/3/5: 28.72/27.30/23.19,
XR-Linear 32.98/30.50/24.47. 29 s of one core of a shared x86-64 server (processor time), most of it compilation, which
the next run finds on disk.
"""

from pathlib import Path

import numpy as np

from configs import default


def get_config():
    config = default.get_config()
    config.data.dev_size = 20
    config.docstrings.sources = (str(Path(np.__file__).parent),)
    config.docstrings.nr_documents = 600
    config.encoder.truncate_length = 24
    config.encoder.nr_buckets = 1
    config.scratch.vocab_size = 500
    config.scratch.hidden_size, config.scratch.intermediate_size = 32, 64
    config.scratch.num_layers, config.scratch.num_heads = 1, 2
    config.scratch.mlm_steps = 20
    config.preliminary_tree = default.tree(nr_splits=16, max_leaf_size=16)  # two levels
    config.refined_tree = default.tree(nr_splits=4, max_leaf_size=16)
    config.matcher.max_steps = (20,)
    config.matcher.negative_sampling = ("tfn+man",)
    config.matcher.bootstrap = ("weighted-linear",)
    config.matcher.ensemble = ("concat-only",)
    config.matcher.learning_rate = (1e-3,)
    config.matcher.log_steps = config.matcher.eval_steps = config.matcher.save_steps = 10
    return config
