"""PECOS's parameter files: the eighteen published ones and others become configurations; --print_config and back."""

import json

import pytest
from commands import ROOT, run
from published import PUBLISHED, by_level, fields, params_file

from xrt_jax.config import flatten, from_json, load_config, set_field
from xrt_jax.pecos.params import SCHEMAS, default_of, kind_of


def load(path, params=None, more=""):
    """The configuration of configs/pecos.py for these parameters, written to the path."""
    if params is not None:
        path.write_text(json.dumps(params))
    return load_config(f"{ROOT / 'configs/pecos.py'}:{path}{more}")


def test_all_are_here():
    assert len(PUBLISHED) == 18


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(tmp_path, name):
    config = load(tmp_path / "params.json", params_file(name), ",gpus=8")
    config.ensemble = PUBLISHED[name]["rule"]  # not in these files
    assert by_level(config, name) == fields(name)


def test_what_is_told(tmp_path, capsys):
    path = tmp_path / "params.json"
    load(path, params_file("amazoncat-13k/bert"))
    load(path)  # flags are parsed more than once
    told = capsys.readouterr().err.splitlines()
    assert len(told) == len(set(told)) == 5 and all(line.startswith(f"warning: {path}: ") for line in told)
    assert "unknown keys" in told[0] and "train_params.preliminary_indexer_params.imbalanced_ratio" in told[0]
    for key in ("matcher_params_chain.batch_gen_workers", "model_chain.threads", "ranker_params.nr_splits", "use_gpu"):
        assert key in told[1]
    assert "save_steps differs by level" in told[3] or "save_steps differs by level" in told[4]
    assert any(",gpus=N" in line for line in told) and any("max_active_matching_labels bounds" in line for line in told)
    load(path, params_file("amazon-670k/bert3"), ",gpus=8")
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
    config = load(tmp_path / "params.json", params_file("wiki10-31k/bert"))
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
