"""The configurations of the published data sets, and the smallest: fields, trees, what they say of themselves."""

import ast
import json

import pytest
from commands import ROOT, run
from published import PUBLISHED, by_level, fields, params_file

from xrt_jax.config import load_config
from xrt_jax.levels import plan_levels
from xrt_jax.matcher.mesh import make_mesh
from xrt_jax.stages import tree_levels
from xrt_jax.xlinear.train import check_settings

DATA_SETS = sorted({name.partition("/")[0] for name in PUBLISHED})


def file_of(data_set: str):
    return ROOT / f"configs/{data_set.replace('-', '_')}.py"


def config_of(name: str):
    """eurlex-4k/bert -> the configuration configs/eurlex_4k.py:bert"""
    data_set, _, variant = name.partition("/")
    return load_config(f"{file_of(data_set)}:{variant}")


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_field_is_as_published(name):
    assert by_level(config_of(name), name) == fields(name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_pecos_is_given_means_the_same(name, tmp_path):
    (tmp_path / "params.json").write_text(json.dumps(params_file(name)))
    of_pecos = load_config(f"{ROOT / 'configs/pecos.py'}:{tmp_path / 'params.json'},gpus=8")
    of_pecos.ensemble = PUBLISHED[name]["rule"]  # run.sh of the published code has it, not the file
    assert by_level(config_of(name), name) == by_level(of_pecos, name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_levels_follow_from_the_number_of_labels(name):
    given, config = PUBLISHED[name], config_of(name)
    assert tree_levels(config, "preliminary_tree", given["labels"]) == list(given["levels"])
    assert tree_levels(config, "refined_tree", given["labels"]) == list(given["ranker_levels"])
    sizes, settings = plan_levels(config, given["labels"], make_mesh(1))
    assert len(settings) == len(given["steps"]) == sum(size <= 32768 for size in sizes)
    assert all(settings[t]["max_steps"] == given["steps"][t] for t in range(len(settings)))
    depth = len(given["ranker_levels"])
    assert len(check_settings(depth, matching=None, **config.ranker)) == depth


@pytest.mark.parametrize("data_set", DATA_SETS)
def test_what_a_file_says(data_set):
    """Sizes, the paper's figures, the rule, the commands; that it was run, or was not."""
    variants = [name.partition("/")[2] for name in PUBLISHED if name.startswith(f"{data_set}/")]
    given, file = PUBLISHED[f"{data_set}/{variants[0]}"], file_of(data_set)
    about = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    for part in (given["documents"], f"{given['labels']:,}", given["paper"], given["rule"], "hours on 8 V100"):
        assert part in about
    assert f"in {' '.join(variants)}; do" in about and f"--config=configs/{file.name}:$" in about
    assert "xrt-jax evaluate --workdir=" in about and "Not run here" in about
    assert list(load_config(str(file)).items()) == list(config_of(f"{data_set}/{variants[0]}").items())


def test_all_are_here():
    assert len(PUBLISHED) == 18 and len(DATA_SETS) == 6


def test_an_unknown_variant_is_one_line(tmp_path):
    result = run("xrt_jax.main", "--config=configs/wiki10_31k.py:bret", f"--workdir={tmp_path / 'w'}")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "there is no variant 'bret': choose one of bert, roberta, xlnet" in result.stderr


def test_the_smoke_configuration_goes_through_every_stage(tmp_path):
    result = run("xrt_jax.main", "--config=configs/smoke.py", f"--workdir={tmp_path / 'w'}")
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "w/metrics.json").read_text())
    stages = {"tfidf", "preliminary_tree", "xr_linear", "encoder", "level_0", "level_1", "embed_test", "ranker"}
    assert stages <= metrics["seconds"].keys() and "level_2" not in metrics["seconds"]
    assert {"xr_linear", "matcher", "xr_transformer"} <= metrics.keys()
    assert metrics["xr_transformer"]["prec"][0] > 10  # no label is on more than a tenth of the documents
    assert (tmp_path / "w/report.html").is_file() and (tmp_path / "w/model/encoder/model.safetensors").is_file()
    evaluated = run("xrt_jax.evaluate", f"--workdir={tmp_path / 'w'}", f"--output={tmp_path / 'out'}")
    assert evaluated.returncode == 0 and not evaluated.stderr  # no text is encoded again
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    assert found == {str(tmp_path / "w"): metrics["xr_transformer"]}
