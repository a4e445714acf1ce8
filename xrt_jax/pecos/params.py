"""PECOS's parameter files in this project's words: XR-Transformer, XR-Linear and distributed XR-Linear.

A file has a section for each of PECOS's parameter classes; a key that it leaves out has the class's default, as in
PECOS. The schemas below have every key of PECOS 1.2.8 with that default; `Idle` ones have no effect here.
"""

import re
import sys
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from xrt_jax.config import set_field
from xrt_jax.disk import read_json


class Idle(NamedTuple):
    """A key without effect here, and why."""

    default: object
    why: str


class Chain(NamedTuple):
    """A key with one value for every level of the tree, or a list with one a level."""

    of: object


class Found(NamedTuple):
    """What is to be told about a file: unknown keys, idle keys by the reason, other remarks."""

    unknown: list[str]
    idle: dict[str, list[str]]
    notes: list[str]


# ---------------------------------------------------------------------------- PECOS's parameter classes

THREADS = Idle(-1, "all cores work, or as many as NUMBA_NUM_THREADS says")
GIVEN_TREE = "the tree is made by the indexer's parameters, or data.clusters names one"
TOKENS = "texts are tokenised once, before fine-tuning, and labels listed batch by batch"

INDEXER = {
    "nr_splits": 16,
    "min_codes": None,
    "max_leaf_size": 100,
    "spherical": True,
    "seed": 0,
    "kmeans_max_iter": 20,
    "threads": THREADS,
    "do_sample": False,
    "max_sample_rate": 1.0,
    "min_sample_rate": 0.1,
    "warmup_ratio": 0.4,
}
SOLVER = {
    "threshold": 0.1,
    "max_nonzeros_per_label": None,
    "solver_type": "L2R_L2LOSS_SVC_DUAL",
    "Cp": 1.0,
    "Cn": 1.0,
    "max_iter": 100,
    "eps": 0.1,
    "bias": 1.0,
    "threads": THREADS,
    "verbose": Idle(0, "PECOS does not read it either"),
    "newton_eps": 0.01,
}
LINEAR = {
    "mode": "full-model",
    "ranker_level": Idle(1, "whole models are trained"),
    "nr_splits": Idle(16, GIVEN_TREE),
    "min_codes": Idle(None, GIVEN_TREE),
    "shallow": Idle(False, GIVEN_TREE),
    "rel_mode": "disable",
    "rel_norm": "no-norm",
    "hlm_args": {"neg_mining_chain": Chain("tfn"), "model_chain": Chain(SOLVER)},
}
LINEAR_BEAM = {"hlm_args": {"model_chain": Chain({"only_topk": 20, "post_processor": "l3-hinge"})}}
MATCHER = {
    "model_shortcut": "bert-base-cased",
    "negative_sampling": "tfn",
    "loss_function": "squared-hinge",
    "bootstrap_method": "linear",
    "lr_schedule": "linear",
    "threshold": 0.1,
    "hidden_dropout_prob": 0.1,
    "batch_size": 8,
    "batch_gen_workers": Idle(4, TOKENS),
    "max_active_matching_labels": None,
    "max_num_labels_in_gpu": Idle(65536, "a large head is split over devices by mesh.label"),
    "max_steps": 0,
    "max_no_improve_cnt": -1,
    "num_train_epochs": 5.0,
    "gradient_accumulation_steps": 1,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "learning_rate": 1e-4,
    "adam_epsilon": 1e-8,
    "warmup_steps": 0,
    "logging_steps": 50,
    "save_steps": 100,
    "cost_sensitive_ranker": False,
    "pre_tokenize": Idle(True, TOKENS),
    "pre_tensorize_labels": Idle(True, TOKENS),
    "use_gpu": Idle(True, "jax takes the accelerators that are there unless JAX_PLATFORMS is cpu"),
    "eval_by_true_shorlist": Idle(False, "validations go down the beam"),
    "checkpoint_dir": Idle("", "checkpoints are in the work directory"),
    "cache_dir": Idle("", "what comes from the hub is kept where HF_HOME says"),
    "init_model_dir": "",
}
MATCHER_BEAM = {
    "only_topk": 20,
    "post_processor": "noop",
    "ensemble_method": "transformer-only",
    "truncate_length": 128,
}

SCHEMAS = {
    "xr_transformer": {
        "train_params": {
            "preliminary_indexer_params": INDEXER,
            "refined_indexer_params": INDEXER,
            "matcher_params_chain": Chain(MATCHER),
            "ranker_params": LINEAR,
            "do_fine_tune": True,
            "only_encoder": False,
            "fix_clustering": False,
            "max_match_clusters": 32768,
        },
        "pred_params": {"matcher_params_chain": Chain(MATCHER_BEAM), "ranker_params": LINEAR_BEAM},
    },
    "xr_linear": {"train_params": LINEAR, "pred_params": LINEAR_BEAM, "indexer_params": INDEXER},
    "distributed": {
        "train_params": LINEAR,
        "pred_params": LINEAR_BEAM | {"beam_size": 10},
        "dist_params": {"min_n_sub_tree": 16, "main_workload_factor": 0.3, "threads": THREADS},
        "cluster_params": {
            "indexer_params": INDEXER,
            "meta_label_embedding_method": "pifa",
            "sub_label_embedding_method": "pifa",
        },
    },
}
# A key by which the kind of a file is known, most telling first: of the file, or of its train_params.
TELLING = {
    "dist_params": "distributed",
    "cluster_params": "distributed",
    "indexer_params": "xr_linear",
    "hlm_args": "xr_linear",
    **dict.fromkeys(SCHEMAS["xr_transformer"]["train_params"], "xr_transformer"),
}

# ---------------------------------------------------------------------------- this project's fields

# field of config.matcher -> PECOS's key of a level's TransformerMatcher
FINE_TUNING = {
    "negative_sampling": "negative_sampling",
    "loss": "loss_function",
    "max_active_labels": "max_active_matching_labels",
    "concat_threshold": "threshold",
    "batch_size": "batch_size",
    "num_epochs": "num_train_epochs",
    "max_steps": "max_steps",
    "learning_rate": "learning_rate",
    "lr_schedule": "lr_schedule",
    "warmup_steps": "warmup_steps",
    "gradient_accumulation": "gradient_accumulation_steps",
    "adam_epsilon": "adam_epsilon",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
}
BEAM = {"only_topk": "only_topk", "post_processor": "post_processor"}
RANKER = {
    "solver": "solver_type",
    **{key: key for key in ("Cp", "Cn", "threshold", "max_nonzeros_per_label", "eps", "newton_eps", "max_iter")},
}


def read_params(path: str | Path) -> dict:
    """What a parameters file of PECOS holds; FileNotFoundError or ValueError in one line where it is none."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file; it is to hold PECOS's parameters")
    params = read_json(path)
    kind_of(params, path)
    return params


def kind_of(params: dict, source="params") -> str:
    """xr_transformer, xr_linear or distributed; an empty file is PECOS's default XR-Transformer."""
    if not isinstance(params, dict):
        raise ValueError(f"{source} holds no JSON object with PECOS's parameters")
    train = params.get("train_params")
    for key, kind in TELLING.items():
        if key in params or (isinstance(train, dict) and key in train):
            return kind
    if params:
        raise ValueError(
            f"{source} holds no parameters of PECOS: train_params with matcher_params_chain (XR-Transformer) or "
            "hlm_args (XR-Linear) is needed"
        )
    return "xr_transformer"


def apply_params(config: ConfigDict, params: dict, *, nr_gpus: int | None = None, source="params") -> Found:
    """Sets the fields of a configuration to what the parameters ask for, and returns what is to be told.

    Args:
        config: the defaults, of configs/default.py or of configs/xlinear.py, as kind_of(params) is.
        params: see read_params.
        nr_gpus: how many GPUs PECOS was to train on; its batch sizes are those of one. None: one, and that is told.
        source: what errors name.
    """
    kind, found = kind_of(params, source), Found([], {}, [])
    params = fill(params, SCHEMAS[kind], "", found, source)
    train, pred = params["train_params"], params["pred_params"]
    mode = train.get("ranker_params", train)["mode"]
    if mode != "full-model":
        raise ValueError(f"{source}: mode is {mode!r}, but a run trains the full-model")
    if kind == "xr_transformer":
        fields = transformer_fields(train, pred, nr_gpus, found)
    elif nr_gpus is not None:
        raise ValueError(f"{source} is XR-Linear: gpus={nr_gpus} has no meaning there")
    elif kind == "xr_linear":
        indexer = params["indexer_params"]
        fields = {"seed": indexer["seed"], **tree_fields("refined_tree", indexer), **ranker_fields(train, pred, found)}
    else:
        fields = distributed_fields(params, found)
    for key, value in fields.items():
        set_field(config, key, value, source)
    return found


# ---------------------------------------------------------------------------- reading


def fill(given, schema, where: str, found: Found, source):
    """The given value with the schema's defaults where it has none; ValueError names the key of a wrong kind."""
    if isinstance(schema, Idle):
        name = re.sub(r"\[\d+\]", "", ".".join(where.split(".")[-2:]))  # nr_splits alone could be the indexer's
        found.idle.setdefault(schema.why, []).append(name)
        return schema.default
    if isinstance(schema, Chain):
        levels = given if isinstance(given, list) else [given]
        if not levels:
            raise ValueError(f"{source}: {where} is an empty list: give one value a level")
        places = [f"{where}[{t}]" for t in range(len(levels))] if isinstance(given, list) else [where]
        return [fill(level, schema.of, place, found, source) for level, place in zip(levels, places, strict=True)]
    if not isinstance(schema, dict):
        return checked(given, schema, where, source)
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise ValueError(f"{source}: {where} is {given!r}: it must be an object with PECOS's keys")
    given = {key: value for key, value in given.items() if key != "__meta__"}
    path = f"{where}." if where else ""
    found.unknown.extend(path + key for key in given if key not in schema)
    return {
        key: fill(given.get(key), of, path + key, found, source) if key in given else default_of(of)
        for key, of in schema.items()
    }


def default_of(schema):
    """What `fill` makes of nothing."""
    return fill(None, schema, "", Found([], {}, []), "")


def checked(value, default, where: str, source):
    """The value in the type of PECOS's default; None stands for that."""
    if value is None:
        return default
    kind = int if default is None else type(default)
    fits = isinstance(value, kind) and not (kind is not bool and isinstance(value, bool))
    if kind in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        fits = kind is float or isinstance(value, int) or value.is_integer()
    if not fits:
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        raise ValueError(f"{source}: {where} is {value!r}: it must be {names[kind]}")
    return kind(value)


def one_for_all(levels: list[dict], key: str, field: str, *, found: Found, choose=None):
    """The value of a key that may differ by level in PECOS and not here: the first, or what `choose` takes of all."""
    values = [level[key] for level in levels]
    value = choose(values) if choose else values[0]
    if len(set(values)) > 1:
        found.notes.append(f"{key} differs by level, but {field} is one for all: {value}")
    return value


# ---------------------------------------------------------------------------- translating


def tree_fields(name: str, indexer: dict) -> dict:
    """Fields of a label tree."""
    return {f"{name}.{key}": value for key, value in indexer.items() if key not in ("seed", "threads")}


def by_level(section: str, names: dict[str, str], levels: list[dict]) -> dict[str, tuple]:
    """Fields with one value a level; None stands for 0."""
    return {
        f"{section}.{field}": tuple(0 if level[key] is None else level[key] for level in levels)
        for field, key in names.items()
    }


def ranker_fields(train: dict, pred: dict, found: Found) -> dict:
    """Fields of the linear ranker."""
    levels, beam = train["hlm_args"]["model_chain"], pred["hlm_args"]["model_chain"]
    return {
        "ranker.negative_sampling": tuple(train["hlm_args"]["neg_mining_chain"]),
        "ranker.rel_mode": train["rel_mode"],
        "ranker.rel_norm": train["rel_norm"],
        "ranker.bias": one_for_all(levels, "bias", "ranker.bias", found=found),
        **by_level("ranker", RANKER, levels),
        **by_level("ranker", BEAM, beam),
    }


def distributed_fields(params: dict, found: Found) -> dict:
    """Fields of distributed XR-Linear."""
    train, pred, cluster, dist = (params[f"{name}_params"] for name in ("train", "pred", "cluster", "dist"))
    fields = ranker_fields(train, pred, found)
    depth = max(len(value) for key, value in fields.items() if isinstance(value, tuple))
    *_, topk = fields["ranker.only_topk"]
    if depth > 1:  # beam_size is for all levels but the last
        fields["ranker.only_topk"] = (*[pred["beam_size"]] * (depth - 1), topk)
    elif pred["beam_size"] != topk:
        found.notes.append(
            f"beam_size is {pred['beam_size']}, but the number of levels is not known yet: every level keeps {topk}; "
            "--config.ranker.only_topk takes a value a level, the last being the number of labels"
        )
    meta, sub = cluster["meta_label_embedding_method"], cluster["sub_label_embedding_method"]
    return fields | {
        "seed": cluster["indexer_params"]["seed"],
        **tree_fields("refined_tree", cluster["indexer_params"]),
        "refined_tree.embedding": sub,
        "refined_tree.meta_embedding": "" if meta == sub else meta,
        "distributed.min_n_sub_tree": dist["min_n_sub_tree"],
        "distributed.main_workload_factor": dist["main_workload_factor"],
    }


def transformer_fields(train: dict, pred: dict, nr_gpus: int | None, found: Found) -> dict:
    """Fields of XR-Transformer."""
    levels, beam = train["matcher_params_chain"], pred["matcher_params_chain"]
    first, one = levels[0], partial(one_for_all, levels, found=found)
    preliminary, refined = train["preliminary_indexer_params"], train["refined_indexer_params"]
    if refined["seed"] != preliminary["seed"]:
        found.notes.append(f"the trees' seeds differ, but seed is one for all: {preliminary['seed']}")
    if nr_gpus is None:
        found.notes.append(
            "batch_size is of one GPU in PECOS, and of all devices together here: where PECOS ran on N GPUs, put "
            ",gpus=N behind the file's name"
        )
    if any(level["max_active_matching_labels"] for level in levels):
        found.notes.append("max_active_matching_labels bounds the shortlists here; PECOS 1.2.8 does not read it")
    patience = tuple(max(0, level["max_no_improve_cnt"]) for level in levels)
    eval_steps = one("save_steps", "matcher.eval_steps and save_steps", choose=min)
    fields = {
        "seed": preliminary["seed"],
        "xr_linear": False,  # PECOS trains none beside
        **{key: train[key] for key in ("do_fine_tune", "only_encoder", "fix_clustering")},
        "encoder.name": first["init_model_dir"] or first["model_shortcut"],
        "encoder.truncate_length": one_for_all(beam, "truncate_length", "encoder.truncate_length", found=found),
        "encoder.hidden_dropout": one("hidden_dropout_prob", "encoder.hidden_dropout"),
        **tree_fields("preliminary_tree", preliminary),
        **tree_fields("refined_tree", refined),
        "matcher.max_match_clusters": train["max_match_clusters"],
        **by_level("matcher", FINE_TUNING, levels),
        **by_level("matcher", BEAM | {"ensemble": "ensemble_method"}, beam),
        "matcher.bootstrap": tuple(
            "none" if level["bootstrap_method"] == "no-bootstrap" else level["bootstrap_method"] for level in levels
        ),
        "matcher.first_bootstrap": "none",
        "matcher.cost_sensitive": one("cost_sensitive_ranker", "matcher.cost_sensitive"),
        "matcher.log_steps": one("logging_steps", "matcher.log_steps", choose=min),
        "matcher.eval_steps": eval_steps,
        "matcher.save_steps": eval_steps,
        "matcher.max_no_improve": patience,
        "matcher.score_test": False,
        **ranker_fields(train["ranker_params"], pred["ranker_params"], found),
    }
    fields["matcher.batch_size"] = tuple(size * (nr_gpus or 1) for size in fields["matcher.batch_size"])
    # PECOS validates where it is given texts for that; to end levels early it must have been.
    return fields if any(patience) else fields | {"data.dev_size": 0}


# ---------------------------------------------------------------------------- telling


def tell(found: Found, source) -> None:
    """Warnings on standard error, each once in a process: flags are parsed more than once."""
    if found.unknown:
        _tell_once(f"{source}: unknown keys, of no effect: {', '.join(found.unknown)}")
    if found.idle:
        reasons = (f"{', '.join(dict.fromkeys(keys))} ({why})" for why, keys in found.idle.items())
        _tell_once(f"{source}: of no effect here: {'; '.join(reasons)}")
    for note in dict.fromkeys(found.notes):
        _tell_once(f"{source}: {note}")


@cache
def _tell_once(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)
