"""XR-Linear alone, with PECOS's defaults, on any data-set folder; jax is not needed.

    python -m xrt_jax.main --config=configs/xlinear.py --config.data.dir=DIR --workdir=runs/xlinear

DIR holds texts, features or both (docs/data.md). Without --config.data.dir: the demo's corpus.
"""

from configs import default

ONLY_XR_TRANSFORMER = ("encoder", "scratch", "preliminary_tree", "matcher", "mesh")
ONLY_XR_TRANSFORMER += ("xr_linear", "do_fine_tune", "fix_clustering", "ranker_features")


def get_config():
    config = default.get_config()
    config.method = "xr_linear"
    for name in ONLY_XR_TRANSFORMER:
        del config[name]
    config.data.dev_size = 0
    return config
