"""AmazonCat-13K: 1,186,239 / 306,782 products -> 13,330 categories. XR-Transformer as published.

    for encoder in bert roberta xlnet; do
        python -m xrt_jax.main --config=configs/amazoncat_13k.py:$encoder --config.data.dir=DIR \\
            --workdir=runs/amazoncat_13k/$encoder || break
    done
    xrt-jax evaluate --workdir=runs/amazoncat_13k/{bert,roberta,xlnet}

DIR: see published.py. The paper: P@1/3/5 of 96.79/83.66/68.04 by the three together (softmax_average), trained in
13.2 hours on 8 V100. Not run here.
"""

from configs import default, published

VARIANTS = {
    "bert": {"seed": 10, "encoder.hidden_dropout": 0.05, "ranker.Cp": (0.25,)},
    "roberta": {"seed": 1000, "encoder.name": "roberta-base"},
    "xlnet": {"seed": 100000, "encoder.name": "xlnet-base-cased", "refined_tree.max_leaf_size": 100},
}


def get_config(variant=""):
    config = published.get_config()
    config.ensemble = "softmax_average"
    config.encoder.truncate_length = 256
    config.preliminary_tree = default.tree(nr_splits=8, min_codes=128, max_leaf_size=16)  # 128 -> 1,024 -> 13,330
    config.refined_tree = default.tree(nr_splits=8, min_codes=128, max_leaf_size=16)  # the same; 32 -> 256 with xlnet
    config.matcher.concat_threshold = (1e-4,)
    config.matcher.max_active_labels = (10000,)
    config.matcher.max_steps = (5000, 10000, 30000)
    config.matcher.learning_rate, config.matcher.warmup_steps = (5e-5,), (1000,)
    config.matcher.only_topk = (50,)
    config.matcher.log_steps = 500
    config.matcher.eval_steps = config.matcher.save_steps = 5000  # published: 10,000 on the last level
    config.ranker.negative_sampling = ("tfn", "tfn", "tfn+man")
    config.ranker.Cp = config.ranker.Cn = (0.5,)
    config.ranker.threshold, config.ranker.eps = (1e-4,), (0.01,)
    config.ranker.only_topk = (75, 100, 200)
    config.ranker.post_processor = ("l3-hinge", "l3-hinge", "noop")
    return published.with_variant(config, VARIANTS, variant)
