"""XR-Transformer on text that is on every machine: docstrings of installed Python code -> what that code calls.

    python -m xrt_jax.main --config=configs/demo.py --workdir=runs/demo

Nothing is downloaded: the corpus is read from the standard library and this project's dependencies, the vocabulary
learned from it, and a BERT of 2 layers and hidden size 128 pre-trained on it before it is fine-tuned level by level.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.preliminary_tree = default.tree(nr_splits=8, max_leaf_size=16, min_codes=64)
    return config
