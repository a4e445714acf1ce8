"""EURLex-4K: 15,449 / 3,865 EU laws -> 3,956 EuroVoc concepts. XR-Transformer as published.

    for encoder in bert roberta xlnet; do
        python -m xrt_jax.main --config=configs/eurlex_4k.py:$encoder --config.data.dir=DIR \\
            --workdir=runs/eurlex_4k/$encoder || break
    done
    xrt-jax evaluate --workdir=runs/eurlex_4k/{bert,roberta,xlnet}

DIR: see published.py. The paper: P@1/3/5 of 88.41/75.97/63.18 by the three together (softmax_average), trained in
0.8 hours on 8 V100. Not run here.
"""

from configs import default, published

VARIANTS = {
    "bert": {"seed": 0},
    "roberta": {"seed": 1, "encoder.name": "roberta-base", "ranker.Cn": (2.0, 2.0, 2.0, 1.0)},
    "xlnet": {"seed": 2, "encoder.name": "xlnet-base-cased"},
}


def get_config(variant=""):
    config = published.get_config()
    config.ensemble = "softmax_average"
    config.preliminary_tree = default.tree(nr_splits=16, min_codes=16, max_leaf_size=16)  # 16 -> 256 -> 3,956
    config.refined_tree = default.tree(nr_splits=8, max_leaf_size=16)  # 4 -> 32 -> 256 -> 3,956
    config.matcher.cost_sensitive = False
    config.matcher.max_active_labels = (1000,)
    config.matcher.max_steps = (600, 800, 1200)
    config.matcher.learning_rate, config.matcher.warmup_steps = (5e-5,), (100,)
    config.matcher.only_topk = (5,)
    config.matcher.log_steps = 50
    config.matcher.eval_steps = config.matcher.save_steps = 200
    config.ranker.Cp = (1.0, 1.0, 1.0, 2.0)
    config.ranker.Cn = (2.0, 2.0, 2.0, 4.0)
    config.ranker.only_topk = (75, 75, 100, 25)
    return published.with_variant(config, VARIANTS, variant)
