"""The published settings of XR-Transformer (NeurIPS 2021) as a table, as PECOS's files and as our configurations.

Of no effect in a run here are batch_gen_workers, max_num_labels_in_gpu, use_gpu, checkpoint_dir and cache_dir of the
matcher, the ranker's own nr_splits, min_codes, shallow and ranker_level, threads and verbose, and imbalanced_ratio and
imbalanced_depth, which PECOS itself no longer knows. max_active_matching_labels has an effect here, and none in PECOS
1.2.8. Two things cannot be said here: another seed of the refined tree (amazon-670k/bert3), and save_steps that differ
by level (amazoncat-13k: the smallest is taken).
"""

from xrt_jax.config import flatten
from xrt_jax.default_config import get_config
from xrt_jax.tree.chain import per_level

# Per data set: what all of its encoders share, then one dict an encoder with what it has of its own. `rule` joins the
# rankings of the encoders, `paper` is the P@1/3/5 of that.
EURLEX = {
    "labels": 3956, "tree": (16, 16, 16), "levels": (16, 256, 3956), "steps": (600, 800, 1200), "rate": (5e-5, 100),
    "boot": "weighted-linear", "length": 128, "topk": 5, "active": 1000, "drop": 0.1, "log": 50, "save": (200,) * 3,
    "cs": False, "refined": (8, None, 16), "ranker_levels": (4, 32, 256, 3956), "rel": ("induce", "l1"),
    "Cp": (1, 1, 1, 2), "Cn": (2, 2, 2, 4), "threshold": 0.001, "eps": 0.1, "ranker_topk": (75, 75, 100, 25),
    "documents": "15,449", "rule": "softmax_average", "paper": "88.41/75.97/63.18",
}  # fmt: skip
WIKI10 = EURLEX | {
    "labels": 30938, "tree": (16, 128, 16), "levels": (128, 2048, 30938), "length": 256, "topk": 20, "cs": True,
    "refined": (16, None, 16), "ranker_levels": (8, 128, 2048, 30938), "Cp": (4,) * 4, "Cn": (1,) * 4,
    "ranker_topk": (100,) * 4,
    "documents": "14,146", "rule": "rank_average", "paper": "88.69/80.17/70.91",
}  # fmt: skip
AMAZONCAT = WIKI10 | {
    "labels": 13330, "tree": (8, 128, 16), "levels": (128, 1024, 13330), "steps": (5000, 10000, 30000),
    "rate": (5e-5, 1000), "topk": 50, "active": 10000, "log": 500, "save": (5000, 5000, 10000),
    "refined": (8, 128, 16), "ranker_levels": (128, 1024, 13330), "Cp": (0.5,) * 3, "Cn": (0.5,) * 3,
    "threshold": 1e-4, "eps": 0.01, "ranker_topk": (75, 100, 200),
    "documents": "1,186,239", "rule": "softmax_average", "paper": "96.79/83.66/68.04",
}  # fmt: skip
WIKI500K = WIKI10 | {
    "labels": 501070, "tree": (8, 64, 16), "levels": (64, 512, 4096, 32768, 501070),
    "steps": (10000, 10000, 20000, 20000), "rate": (1e-4, 5000), "length": 128, "topk": 5, "active": 500, "log": 500,
    "save": (5000,) * 4, "refined": (32, None, 100), "ranker_levels": (8, 256, 8192, 501070), "ranker_topk": (50,) * 4,
    "documents": "1,779,881", "rule": "sigmoid_average", "paper": "79.40/59.02/46.25",
}  # fmt: skip
AMAZON670K = WIKI500K | {
    "labels": 670091, "tree": (16, 128, 32), "levels": (128, 2048, 32768, 670091), "steps": (4000, 4000, 12000),
    "rate": (1e-4, 200), "boot": "linear", "log": 50, "save": (1000,) * 3, "cs": False,
    "ranker_levels": (8, 256, 8192, 670091), "rel": ("disable", "no-norm"), "Cp": (1,) * 4, "ranker_topk": (75,) * 4,
    "documents": "490,449", "rule": "softmax_average", "paper": "50.11/44.56/40.64",
}  # fmt: skip
AMAZON3M = AMAZON670K | {
    "labels": 2812281, "tree": (16, 128, 32), "levels": (32, 512, 8192, 131072, 2812281), "steps": (10000,) * 3,
    "rate": (1e-4, 1000), "topk": 20, "log": 100, "save": (5000,) * 3, "cs": True,
    "ranker_levels": (32, 1024, 32768, 2812281), "rel": ("induce", "l1"), "Cp": (8,) * 4, "ranker_topk": (50,) * 4,
    "documents": "1,717,899", "rule": "rank_average", "paper": "54.20/50.81/48.26",
}  # fmt: skip
PUBLISHED = {
    "eurlex-4k/bert": EURLEX | {"seed": 0},
    "eurlex-4k/roberta": EURLEX | {"seed": 1, "Cn": (2, 2, 2, 1)},
    "eurlex-4k/xlnet": EURLEX | {"seed": 2},
    "wiki10-31k/bert": WIKI10 | {"seed": 10001, "steps": (1000, 1000, 400)},
    "wiki10-31k/roberta": WIKI10 | {"seed": 10002, "steps": (600, 400, 200)},
    "wiki10-31k/xlnet": WIKI10 | {"seed": 10003, "steps": (400, 400, 200)},
    "amazoncat-13k/bert": AMAZONCAT | {"seed": 10, "drop": 0.05, "Cp": (0.25,) * 3},
    "amazoncat-13k/roberta": AMAZONCAT | {"seed": 1000},
    "amazoncat-13k/xlnet": AMAZONCAT | {"seed": 100000, "refined": (8, 128, 100), "ranker_levels": (32, 256, 13330)},
    **{f"wiki-500k/bert{i}": WIKI500K | {"seed": 10010 + i} for i in (1, 2, 3)},
    **{f"amazon-670k/bert{i}": AMAZON670K | {"seed": 10010 + i} for i in (1, 2)},
    "amazon-670k/bert3": AMAZON670K | {"seed": 10013, "refined_seed": 10012},
    "amazon-3m/bert1": AMAZON3M | {"seed": 10011, "tree": (16, 128, 100), "levels": (128, 2048, 32768, 2812281)},
    **{f"amazon-3m/bert{i}": AMAZON3M | {"seed": 10010 + i} for i in (2, 3)},
}
ENCODERS = {"bert": "bert-base-uncased", "roberta": "roberta-base", "xlnet": "xlnet-base-cased"}


def encoder_of(name: str) -> str:
    """The encoder's name on the hub."""
    return ENCODERS[name.partition("/")[2].rstrip("123")]


# ---------------------------------------------------------------------------- as PECOS has them


def indexer(sizes, seed) -> dict:
    found = {"nr_splits": sizes[0], "min_codes": sizes[1], "max_leaf_size": sizes[2], "spherical": True, "seed": seed}
    return found | {"kmeans_max_iter": 20, "threads": -1, "imbalanced_ratio": 0.0, "imbalanced_depth": 100}


def params_file(name: str) -> dict:
    """The parameters file of this name, in PECOS's format."""
    given = PUBLISHED[name]
    matchers = [
        {
            "__meta__": {"class_fullname": "pecos.xmc.xtransformer.matcher###TransformerMatcher.TrainParams"},
            "model_shortcut": encoder_of(name),
            "negative_sampling": "tfn+man",
            "loss_function": "weighted-squared-hinge",
            "bootstrap_method": given["boot"],
            "lr_schedule": "linear",
            "threshold": given["threshold"],
            "hidden_dropout_prob": given["drop"],
            "batch_size": 32,
            "batch_gen_workers": 16,
            "max_active_matching_labels": given["active"],
            "max_num_labels_in_gpu": 65536,
            "max_steps": steps,
            "max_no_improve_cnt": -1,
            "num_train_epochs": 10,
            "gradient_accumulation_steps": 1,
            "weight_decay": 0,
            "max_grad_norm": 1.0,
            "learning_rate": given["rate"][0],
            "adam_epsilon": 1e-08,
            "warmup_steps": given["rate"][1],
            "logging_steps": given["log"],
            "save_steps": save,
            "cost_sensitive_ranker": given["cs"],
            "use_gpu": True,
            "checkpoint_dir": "",
            "cache_dir": "",
            "init_model_dir": "",
        }
        for steps, save in zip(given["steps"], given["save"], strict=True)
    ]
    depth = len(given["ranker_levels"])
    solvers = [
        {"threshold": given["threshold"], "max_nonzeros_per_label": None, "solver_type": "L2R_L2LOSS_SVC_DUAL"}
        | {"Cp": Cp, "Cn": Cn, "max_iter": 100, "eps": given["eps"], "bias": 1.0, "threads": -1, "verbose": 0}
        for Cp, Cn in zip(given["Cp"], given["Cn"], strict=True)
    ]
    ranker = {
        "mode": "full-model",
        "ranker_level": 1,
        "nr_splits": 16,
        "min_codes": None,
        "shallow": False,
        "rel_mode": given["rel"][0],
        "rel_norm": given["rel"][1],
        "hlm_args": {"neg_mining_chain": ["tfn"] * (depth - 1) + ["tfn+man"], "model_chain": solvers},
    }
    beam = {"only_topk": given["topk"], "post_processor": "l3-hinge", "ensemble_method": "concat-only"}
    beams = [beam | {"truncate_length": given["length"]} for _ in matchers]
    of_ranker = [{"only_topk": k, "post_processor": "l3-hinge"} for k in given["ranker_topk"]]
    of_ranker[-1]["post_processor"] = "noop"
    train = {
        "preliminary_indexer_params": indexer(given["tree"], given["seed"]),
        "refined_indexer_params": indexer(given["refined"], given.get("refined_seed", given["seed"])),
        "matcher_params_chain": matchers,
        "ranker_params": ranker,
        "do_fine_tune": True,
        "only_encoder": False,
        "fix_clustering": False,
        "max_match_clusters": 32768,
    }
    pred = {"matcher_params_chain": beams, "ranker_params": {"hlm_args": {"model_chain": of_ranker}}}
    return {"train_params": train, "pred_params": pred}


# ---------------------------------------------------------------------------- as they are here


def tree_fields(tree: str, sizes: tuple) -> dict:
    return dict(zip((f"{tree}.nr_splits", f"{tree}.min_codes", f"{tree}.max_leaf_size"), sizes, strict=True))


def fields(name: str) -> dict[str, object]:
    """All fields of the configuration, lists with a value for each level: the table's, the others by default."""
    given = PUBLISHED[name]
    nr, depth = len(given["steps"]), len(given["ranker_levels"])
    of_matcher = {
        "max_steps": given["steps"],
        "batch_size": 8 * 32,
        "learning_rate": given["rate"][0],
        "warmup_steps": given["rate"][1],
        "negative_sampling": "tfn+man",
        "loss": "weighted-squared-hinge",
        "bootstrap": given["boot"],
        "lr_schedule": "linear",
        "concat_threshold": given["threshold"],
        "max_active_labels": given["active"],
        "max_no_improve": 0,
        "num_epochs": 10.0,
        "gradient_accumulation": 1,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "adam_epsilon": 1e-8,
        "only_topk": given["topk"],
        "post_processor": "l3-hinge",
        "ensemble": "concat-only",
    }
    of_ranker = {
        "negative_sampling": ("tfn",) * (depth - 1) + ("tfn+man",),
        "solver": "L2R_L2LOSS_SVC_DUAL",
        "Cp": given["Cp"],
        "Cn": given["Cn"],
        "threshold": given["threshold"],
        "max_nonzeros_per_label": 0,
        "eps": given["eps"],
        "max_iter": 100,
        "only_topk": given["ranker_topk"],
        "post_processor": ("l3-hinge",) * (depth - 1) + ("noop",),
    }
    once = {
        "seed": given["seed"],
        "ensemble": given["rule"],
        "xr_linear": False,  # PECOS trains none beside
        "data.dev_size": 0,  # nor does it hold texts out
        "matcher.score_test": False,
        "encoder.name": encoder_of(name),
        "encoder.truncate_length": given["length"],
        "encoder.hidden_dropout": given["drop"],
        **tree_fields("preliminary_tree", given["tree"]),
        **tree_fields("refined_tree", given["refined"]),
        "matcher.cost_sensitive": given["cs"],
        "matcher.log_steps": given["log"],
        "matcher.eval_steps": min(given["save"]),
        "matcher.save_steps": min(given["save"]),
        "matcher.max_match_clusters": 32768,
        "matcher.first_bootstrap": "none",
        "ranker.bias": 1.0,
        "ranker.rel_mode": given["rel"][0],
        "ranker.rel_norm": given["rel"][1],
    }
    of_levels = {f"matcher.{key}": filled(value, nr) for key, value in of_matcher.items()}
    of_levels |= {f"ranker.{key}": filled(value, depth) for key, value in of_ranker.items()}
    return by_level(get_config(), name) | of_levels | once


def filled(value, nr_levels: int) -> tuple:
    """A value for each level."""
    return value if isinstance(value, tuple) else (value,) * nr_levels


def by_level(config, name: str) -> dict[str, object]:
    """The fields of a configuration, lists with a value for each level of these settings."""
    nr_levels = {"matcher": len(PUBLISHED[name]["steps"]), "ranker": len(PUBLISHED[name]["ranker_levels"])}
    found = {}
    for key, value in flatten(config).items():
        section = key.partition(".")[0]
        found[key] = (
            per_level(key, value, nr_levels[section]) if section in nr_levels and isinstance(value, tuple) else value
        )
    return found
