"""XR-Linear alone, with PECOS's defaults, on any data-set folder; jax is not needed.

    python -m xrt_jax.main --config=configs/xlinear.py --config.data.dir=DIR --workdir=runs/xlinear

DIR holds texts, features or both (README, "Your own data"). Without --config.data.dir: the demo's corpus.

P@1/3/5 by this command, and seconds of one thread of a shared x86-64 server from texts to report: EURLEX57K, 45,000 /
6,000 documents, 4,271 labels, 91.58/82.15/69.42 in 63 s; YSO Finna, 137,308 / 34,327 documents, 24,409 labels,
40.11/30.38/23.83 in 20 s (processor time). Nothing is published of XR-Linear on these two.
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
