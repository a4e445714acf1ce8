"""PECOS's parameter files: the eighteen published ones and others become configurations; --print_config and back."""

import json

import pytest
from commands import ROOT, run

from xrt_jax.config import flatten, from_json, load_config, set_field
from xrt_jax.levels import plan_levels
from xrt_jax.matcher.mesh import make_mesh
from xrt_jax.pecos.params import SCHEMAS, default_of, kind_of
from xrt_jax.stages import tree_levels
from xrt_jax.xlinear.train import check_settings

# ---------------------------------------------------------------------------- published settings

# Per data set: what all of its encoders share, then one dict an encoder with what it has of its own (NeurIPS 2021).
EURLEX = {
    "labels": 3956, "tree": (16, 16, 16), "levels": (16, 256, 3956), "steps": (600, 800, 1200), "rate": (5e-5, 100),
    "boot": "weighted-linear", "length": 128, "topk": 5, "active": 1000, "drop": 0.1, "log": 50, "save": (200,) * 3,
    "cs": False, "refined": (8, None, 16), "ranker_levels": (4, 32, 256, 3956), "rel": ("induce", "l1"),
    "Cp": (1, 1, 1, 2), "Cn": (2, 2, 2, 4), "threshold": 0.001, "eps": 0.1, "ranker_topk": (75, 75, 100, 25),
}  # fmt: skip
WIKI10 = EURLEX | {
    "labels": 30938, "tree": (16, 128, 16), "levels": (128, 2048, 30938), "length": 256, "topk": 20, "cs": True,
    "refined": (16, None, 16), "ranker_levels": (8, 128, 2048, 30938), "Cp": (4,) * 4, "Cn": (1,) * 4,
    "ranker_topk": (100,) * 4,
}  # fmt: skip
AMAZONCAT = WIKI10 | {
    "labels": 13330, "tree": (8, 128, 16), "levels": (128, 1024, 13330), "steps": (5000, 10000, 30000),
    "rate": (5e-5, 1000), "topk": 50, "active": 10000, "log": 500, "save": (5000, 5000, 10000),
    "refined": (8, 128, 16), "ranker_levels": (128, 1024, 13330), "Cp": (0.5,) * 3, "Cn": (0.5,) * 3,
    "threshold": 1e-4, "eps": 0.01, "ranker_topk": (75, 100, 200),
}  # fmt: skip
WIKI500K = WIKI10 | {
    "labels": 501070, "tree": (8, 64, 16), "levels": (64, 512, 4096, 32768, 501070),
    "steps": (10000, 10000, 20000, 20000), "rate": (1e-4, 5000), "length": 128, "topk": 5, "active": 500, "log": 500,
    "save": (5000,) * 4, "refined": (32, None, 100), "ranker_levels": (8, 256, 8192, 501070), "ranker_topk": (50,) * 4,
}  # fmt: skip
AMAZON670K = WIKI500K | {
    "labels": 670091, "tree": (16, 128, 32), "levels": (128, 2048, 32768, 670091), "steps": (4000, 4000, 12000),
    "rate": (1e-4, 200), "boot": "linear", "log": 50, "save": (1000,) * 3, "cs": False,
    "ranker_levels": (8, 256, 8192, 670091), "rel": ("disable", "no-norm"), "Cp": (1,) * 4, "ranker_topk": (75,) * 4,
}  # fmt: skip
AMAZON3M = AMAZON670K | {
    "labels": 2812281, "tree": (16, 128, 32), "levels": (32, 512, 8192, 131072, 2812281), "steps": (10000,) * 3,
    "rate": (1e-4, 1000), "topk": 20, "log": 100, "save": (5000,) * 3, "cs": True,
    "ranker_levels": (32, 1024, 32768, 2812281), "rel": ("induce", "l1"), "Cp": (8,) * 4, "ranker_topk": (50,) * 4,
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


def indexer(sizes, seed) -> dict:
    found = {"nr_splits": sizes[0], "min_codes": sizes[1], "max_leaf_size": sizes[2], "spherical": True, "seed": seed}
    return found | {"kmeans_max_iter": 20, "threads": -1, "imbalanced_ratio": 0.0, "imbalanced_depth": 100}


def published(name: str) -> dict:
    """The parameters file of this name, in PECOS's format."""
    given = PUBLISHED[name]
    matchers = [
        {
            "__meta__": {"class_fullname": "pecos.xmc.xtransformer.matcher###TransformerMatcher.TrainParams"},
            "model_shortcut": ENCODERS[name.partition("/")[2].rstrip("123")],
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


def load(path, params=None, more=""):
    """The configuration of configs/pecos.py for these parameters, written to the path."""
    if params is not None:
        path.write_text(json.dumps(params))
    return load_config(f"{ROOT / 'configs/pecos.py'}:{path}{more}")


def test_all_are_here():
    assert len(PUBLISHED) == 18


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(tmp_path, name):
    given, config = PUBLISHED[name], load(tmp_path / "params.json", published(name), ",gpus=8")
    matcher, ranker, depth = config.matcher, config.ranker, len(given["ranker_levels"])
    assert tree_levels(config, "preliminary_tree", given["labels"]) == list(given["levels"])
    assert tree_levels(config, "refined_tree", given["labels"]) == list(given["ranker_levels"])
    sizes, settings = plan_levels(config, given["labels"], make_mesh(1))
    assert len(settings) == len(given["steps"]) == sum(size <= 32768 for size in sizes)
    assert len(check_settings(depth, matching=None, **ranker)) == depth
    assert config.encoder.name == ENCODERS[name.partition("/")[2].rstrip("123")]
    assert (config.encoder.truncate_length, config.encoder.hidden_dropout) == (given["length"], given["drop"])
    nr = len(given["steps"])
    levels = {
        "max_steps": given["steps"],
        "batch_size": (256,) * nr,
        "learning_rate": (given["rate"][0],) * nr,
        "warmup_steps": (given["rate"][1],) * nr,
        "negative_sampling": ("tfn+man",) * nr,
        "loss": ("weighted-squared-hinge",) * nr,
        "bootstrap": (given["boot"],) * nr,
        "lr_schedule": ("linear",) * nr,
        "concat_threshold": (given["threshold"],) * nr,
        "max_active_labels": (given["active"],) * nr,
        "num_epochs": (10.0,) * nr,
        "gradient_accumulation": (1,) * nr,
        "weight_decay": (0.0,) * nr,
        "max_grad_norm": (1.0,) * nr,
        "adam_epsilon": (1e-8,) * nr,
        "only_topk": (given["topk"],) * nr,
        "post_processor": ("l3-hinge",) * nr,
        "ensemble": ("concat-only",) * nr,
    }
    assert {key: matcher[key] for key in levels} == levels
    assert (matcher.cost_sensitive, matcher.log_steps) == (given["cs"], given["log"])
    assert matcher.save_steps == min(given["save"]) and not any(matcher.max_no_improve)
    assert (ranker.Cp, ranker.Cn, ranker.only_topk) == (given["Cp"], given["Cn"], given["ranker_topk"])
    assert (ranker.rel_mode, ranker.rel_norm) == given["rel"]
    assert set(ranker.threshold) == {given["threshold"]} and set(ranker.eps) == {given["eps"]}
    assert ranker.negative_sampling == ("tfn",) * (depth - 1) + ("tfn+man",)
    assert ranker.post_processor == ("l3-hinge",) * (depth - 1) + ("noop",)
    assert (config.seed, config.data.dev_size, config.xr_linear) == (given["seed"], 0, False)


def test_what_is_told(tmp_path, capsys):
    path = tmp_path / "params.json"
    load(path, published("amazoncat-13k/bert"))
    load(path)  # flags are parsed more than once
    told = capsys.readouterr().err.splitlines()
    assert len(told) == len(set(told)) == 5 and all(line.startswith(f"warning: {path}: ") for line in told)
    assert "unknown keys" in told[0] and "train_params.preliminary_indexer_params.imbalanced_ratio" in told[0]
    for key in ("matcher_params_chain.batch_gen_workers", "model_chain.threads", "ranker_params.nr_splits", "use_gpu"):
        assert key in told[1]
    assert "save_steps differs by level" in told[3] or "save_steps differs by level" in told[4]
    assert any(",gpus=N" in line for line in told) and any("max_active_matching_labels bounds" in line for line in told)
    load(path, published("amazon-670k/bert3"), ",gpus=8")
    assert "seeds differ" in capsys.readouterr().err


# ---------------------------------------------------------------------------- other files


def test_defaults_are_those_of_pecos(tmp_path):
    """The skeleton, an empty file and no file are the same."""
    skeleton = load(tmp_path / "skeleton.json", default_of(SCHEMAS["xr_transformer"]))
    assert flatten(load(tmp_path / "empty.json", {})) == flatten(skeleton)
    assert flatten(load_config(str(ROOT / "configs/pecos.py"))) == flatten(skeleton)
    assert (skeleton.matcher.batch_size, skeleton.matcher.post_processor) == ((8,), ("noop",))
    assert (skeleton.encoder.name, skeleton.preliminary_tree.max_leaf_size) == ("bert-base-cased", 100)


def test_early_stopping_keeps_validation_texts(tmp_path):
    params = {"train_params": {"matcher_params_chain": {"max_no_improve_cnt": 3, "bootstrap_method": "no-bootstrap"}}}
    config = load(tmp_path / "params.json", params)
    assert config.matcher.max_no_improve == (3,) and config.data.dev_size > 0
    assert config.matcher.bootstrap == ("none",)


def test_a_model_to_start_from_wins_over_the_shortcut(tmp_path):
    params = {"train_params": {"matcher_params_chain": [{"init_model_dir": "start"}], "do_fine_tune": False}}
    config = load(tmp_path / "params.json", params)
    assert config.encoder.name == "start" and not config.do_fine_tune


def test_xr_linear(tmp_path):
    params = {
        "train_params": {
            "rel_mode": "induce",
            "hlm_args": {"neg_mining_chain": "tfn+man", "model_chain": {"Cp": 2, "max_nonzeros_per_label": 50}},
        },
        "pred_params": {"hlm_args": {"model_chain": [{"only_topk": 10}, {"only_topk": 5, "post_processor": "noop"}]}},
        "indexer_params": {"nr_splits": 8, "max_leaf_size": 50, "seed": 4, "do_sample": True, "min_codes": 9},
    }
    config = load(tmp_path / "params.json", params)
    assert (config.method, config.seed, "matcher" in config) == ("xr_linear", 4, False)
    tree, ranker = config.refined_tree, config.ranker
    assert (tree.nr_splits, tree.max_leaf_size, tree.min_codes, tree.do_sample) == (8, 50, 9, True)
    assert (ranker.Cp, ranker.max_nonzeros_per_label, ranker.rel_mode) == ((2.0,), (50,), "induce")
    assert (ranker.negative_sampling, ranker.only_topk) == (("tfn+man",), (10, 5))
    assert ranker.post_processor == ("l3-hinge", "noop")


def test_distributed_xr_linear(tmp_path, capsys):
    params = {
        "train_params": {"hlm_args": {"model_chain": [{"Cp": 1}, {"Cp": 2}, {"Cp": 3}]}},
        "pred_params": {"beam_size": 7},
        "dist_params": {"min_n_sub_tree": 4, "main_workload_factor": 0.5},
        "cluster_params": {"meta_label_embedding_method": "pii", "indexer_params": {"seed": 6, "spherical": False}},
    }
    config = load(tmp_path / "params.json", params)
    assert (config.method, config.seed, config.refined_tree.spherical) == ("xr_linear", 6, False)
    assert (config.refined_tree.embedding, config.refined_tree.meta_embedding) == ("pifa", "pii")
    assert dict(config.distributed) == {"min_n_sub_tree": 4, "main_workload_factor": 0.5}
    assert config.ranker.only_topk == (7, 7, 20)
    load(tmp_path / "other.json", default_of(SCHEMAS["distributed"]))
    assert "beam_size is 10" in capsys.readouterr().err


@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_kind_of_a_file(kind):
    assert kind_of(default_of(SCHEMAS[kind])) == kind


@pytest.mark.parametrize(
    ("params", "more", "expected"),
    [
        ([], "", "holds no JSON object"),
        ({"matcher": {}}, "", "holds no parameters of PECOS"),
        ({"train_params": {"matcher_params_chain": [{"batch_size": "x"}]}}, "", "batch_size is 'x': it must be"),
        ({"train_params": {"matcher_params_chain": []}}, "", "matcher_params_chain is an empty list"),
        ({"train_params": {"ranker_params": 3}}, "", "train_params.ranker_params is 3: it must be an object"),
        ({"train_params": {"do_fine_tune": 1}}, "", "train_params.do_fine_tune is 1: it must be true or false"),
        ({"train_params": {"hlm_args": {}, "mode": "matcher"}}, "", "mode is 'matcher', but a run trains"),
        ({"indexer_params": {}}, ",gpus=8", "gpus=8 has no meaning"),
        ({}, ",gpus=x", "gpus= takes a whole number"),
    ],
)  # fmt: skip
def test_bad_files_are_told_in_one_line(tmp_path, params, more, expected):
    with pytest.raises(ValueError, match=r"params\.json") as error:
        load(tmp_path / "params.json", params, more)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_one_line_and_status_2(tmp_path):
    result = run("xrt_jax.main", f"--config=configs/pecos.py:{tmp_path}/none.json", f"--workdir={tmp_path}/w")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "none.json: there is no such file" in result.stderr


# ---------------------------------------------------------------------------- --print_config


@pytest.mark.parametrize("file", ["demo", "xlinear", "yso_finna", "pecos"])
def test_printed_and_loaded_again(tmp_path, file):
    """Placeholders, tuples and numbers come back as they were."""
    name = f"configs/{file}.py"
    printed = run("xrt_jax.main", f"--config={name}", "--print_config", "--config.tfidf.max_features=7")
    assert printed.returncode == 0 and not printed.stderr
    (tmp_path / "my.json").write_text(printed.stdout)
    config, expected = load_config(f"{ROOT}/configs/json.py:{tmp_path}/my.json"), load_config(str(ROOT / name))
    expected.tfidf.max_features = 7
    found, expected = flatten(config), flatten(expected)
    assert found == expected and {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in expected.items()}
    edited = {"tfidf.max_features": None, "ranker.Cp": [1, 2], "seed": 5}
    (tmp_path / "my.json").write_text(json.dumps(json.loads(printed.stdout) | edited))
    again = run(
        "xrt_jax.main", f"--config=configs/json.py:{tmp_path}/my.json", "--print_config", "--config.ranker.Cn=3"
    )
    assert json.loads(again.stdout) == json.loads(printed.stdout) | edited | {"ranker.Cn": [3.0]}


def test_pecos_to_json_and_back(tmp_path):
    config = load(tmp_path / "params.json", published("wiki10-31k/bert"))
    path = f"--config=configs/pecos.py:{tmp_path}/params.json"
    printed = run("xrt_jax.main", path, "--print_config", f"--workdir={tmp_path}/w")
    assert printed.returncode == 0 and not (tmp_path / "w").exists()
    (tmp_path / "my.json").write_text(printed.stdout)
    assert flatten(load_config(f"{ROOT}/configs/json.py:{tmp_path}/my.json")) == flatten(config)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"matcher.max_step": [3]}, "unknown config field 'matcher.max_step': did you mean matcher.max_steps"),
        ({"matcher.max_steps": 3}, "'matcher.max_steps' takes a list, not 3"),
        ({"matcher.max_steps": ["x"]}, "'matcher.max_steps' takes int values"),
        ({"seed": "x"}, "'seed' takes a value like 0, not 'x'"),
        ({"seed": None}, "'seed' takes a value like 0, not None"),
        ({"seed": True}, "'seed' takes a value like 0, not True"),
        ({"xr_linear": 1}, "'xr_linear' takes a value like true, not 1"),
        ({"tfidf.max_features": "x"}, "'tfidf.max_features' takes null or int, not 'x'"),
    ],
)
def test_fields_that_do_not_fit(fields, expected):
    with pytest.raises(ValueError, match=r"^my\.json: config field|^my\.json: unknown") as error:
        from_json(load_config(str(ROOT / "configs/default.py")), fields, "my.json")
    assert expected in str(error.value)


def test_set_field_makes_whole_numbers_of_a_float_field_floats():
    config = load_config(str(ROOT / "configs/default.py"))
    set_field(config, "ranker.bias", 2, "my.json")
    assert config.ranker.bias == 2.0 and isinstance(config.ranker.bias, float)


def test_json_without_a_reader_is_one_line(tmp_path):
    (tmp_path / "my.json").write_text("{}")
    result = run("xrt_jax.main", f"--config={tmp_path}/my.json", "--print_config")
    assert result.returncode == 2 and "use configs/json.py:" in result.stderr and result.stderr.count("\n") == 1


def test_a_run_by_pecos_parameters_goes_on_by_its_own_config(tmp_path, data):
    params = {
        "train_params": {"hlm_args": {"model_chain": {"threshold": 0.01}}},
        "indexer_params": {"nr_splits": 4, "max_leaf_size": 6},
    }
    (tmp_path / "params.json").write_text(json.dumps(params))
    arguments = (f"--config.data.dir={data}", f"--workdir={tmp_path}/w")
    first = run("xrt_jax.main", f"--config=configs/pecos.py:{tmp_path}/params.json", *arguments)
    assert first.returncode == 0 and (tmp_path / "w" / "model" / "ranker").is_dir()
    again = run("xrt_jax.main", f"--config=configs/json.py:{tmp_path}/w/config.json", f"--workdir={tmp_path}/w")
    assert again.returncode == 0, again.stderr
