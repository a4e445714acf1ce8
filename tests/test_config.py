import json
import shlex
import subprocess
import sys

import pytest
from absl import flags
from commands import ROOT, environment, run
from ml_collections import ConfigDict, config_flags

from xrt_jax import config
from xrt_jax.default_config import get_config as load_default
from xrt_jax.matcher.loss import LOSSES
from xrt_jax.stages import tree_levels
from xrt_jax.xlinear.train import check_settings


def test_flatten_and_differences():
    c = ConfigDict({"a": 1, "b": {"c": (1, 2), "d": "x"}})
    assert config.flatten(c) == {"a": 1, "b.c": (1, 2), "b.d": "x"}
    assert config.to_json(c)["b.c"] == [1, 2]
    assert config.differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ["b: 2 -> 3", "c: None -> 4"]


def test_settings_of_level():
    section = ConfigDict({"steps": (1, 2), "other": 7})
    assert config.settings_of_level(section, 1, 2, "s") == {"steps": 2, "other": 7}
    with pytest.raises(ValueError, match=r"s\.steps has 2 values for 3 levels: give 1 or 3"):
        config.settings_of_level(section, 1, 3, "s")


@pytest.mark.parametrize(
    ("value", "reference", "settled"),
    [
        ((3,), (1.0,), (3.0,)),
        (("tfn,man",), ("tfn",), ("tfn", "man")),
        (("a", "b"), (), ("a", "b")),
        ((5, 6), (0,), (5, 6)),
        ("unchanged", "x", "unchanged"),
    ],
)
def test_settle(value, reference, settled):
    assert config.settle("k", value, reference) == settled
    assert all(type(a) is type(b) for a, b in zip(config.settle("k", value, reference), settled, strict=True))


@pytest.mark.parametrize("value", [("x",), (1.5,)])
def test_settle_refuses_other_types(value):
    with pytest.raises(ValueError, match=r"'k' takes int values"):
        config.settle("k", value, (1,))


def test_every_configuration_loads_and_only_changes_fields_of_default():
    default = config.flatten(config.load_config(str(ROOT / "configs/default.py")))
    files = sorted((ROOT / "configs").glob("*.py"))
    assert len(files) >= 4
    for file in files:
        fields = config.flatten(config.load_config(str(file)))
        method = fields["method"]
        assert fields.keys() <= default.keys() and (method == "xr_linear" or fields.keys() == default.keys()), file.name
        for key, value in fields.items():
            assert value is None or default[key] is None or type(value) is type(default[key]), (file.name, key)


def test_parse_flags_sets_fields(monkeypatch):
    holder = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=holder, lock_config=True)
    argv = [
        "prog",
        f"--config={ROOT / 'configs/demo.py'}",
        "--config.matcher.max_steps=3,4",
        "--config.matcher.loss=hinge,squared-hinge",
        "--config.seed=1",
        "--config.seed=2",  # the last one counts
    ]
    monkeypatch.setattr(flags, "FLAGS", holder)
    monkeypatch.setattr("sys.argv", argv)  # where config_flags looks for overrides
    config.parse_flags(argv)
    assert holder.config.matcher.max_steps == (3, 4)
    assert holder.config.matcher.loss == ("hinge", "squared-hinge")
    assert holder.config.seed == 2


def test_override():
    c = load_default()
    config.override(c, {"matcher.max_steps": [3, 4], "matcher.batch_size": 8, "tfidf.max_features": 5, "seed": 1})
    assert (c.matcher.max_steps, c.matcher.batch_size, c.tfidf.max_features, c.seed) == ((3, 4), (8,), 5, 1)
    for fields, message in [
        ({"matcher.max_step": 3}, "unknown config field 'matcher.max_step': did you mean matcher.max_steps"),
        ({"matcher.max_steps": "x"}, r"'matcher.max_steps' takes int values"),
        ({"seed": "x"}, "config field 'seed': "),
    ]:
        with pytest.raises(ValueError, match=message):
            config.override(load_default(), fields)


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.py")), ids=lambda file: file.stem)
def test_the_command_of_a_configuration_gives_it_back(file, monkeypatch):
    wanted = config.load_config(str(file))
    command = shlex.split(config.command(wanted, load_default()))
    argv = ["main", *(word for word in command if word.startswith("--config."))]
    argv.insert(1, f"--config={ROOT / 'configs/default.py'}")
    holder = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=holder, lock_config=True)
    monkeypatch.setattr(flags, "FLAGS", holder)
    monkeypatch.setattr("sys.argv", argv)
    config.parse_flags(argv)
    found = config.flatten(holder.config)
    assert {key: found[key] for key in config.flatten(wanted)} == config.flatten(wanted)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--config.matcher.max_step=3", "unknown config field 'matcher.max_step': did you mean matcher.max_steps"),
        ("--config.learning_rate=3", "did you mean matcher.learning_rate?"),
        ("--config.qqqq=3", "the sections are"),
        ("--config.seed=x", "config.seed=x"),
        ("--config.matcher.max_steps=x", "'matcher.max_steps' takes int values"),
        ("--config.tfidf.ngram_range=1 --config.tfidf.ngram_range=2", "tfidf.ngram_range is given 2 times: give its"),
        ("stray", "unexpected argument 'stray'"),
    ],
)
def test_a_wrong_flag_is_one_line_and_status_2(tmp_path, argument, expected):
    result = run("xrt_jax.main", "--config=configs/demo.py", f"--workdir={tmp_path / 'w'}", *argument.split())
    assert result.returncode == 2
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "w").exists()


def test_a_missing_configuration_is_one_line_and_status_2(tmp_path):
    result = run("xrt_jax.main", "--config=configs/none.py", f"--workdir={tmp_path / 'w'}")
    assert result.returncode == 2
    known = ", ".join(f"configs/{file.name}" for file in sorted((ROOT / "configs").glob("*.py")))
    told = "error: --config=configs/none.py: there is no such file; it may be one of your own or "
    assert result.stderr == f"{told}{known}\n" and "configs/xlinear.py" in known


OWN = """
from configs import xlinear

def get_config(seed="0"):
    config = xlinear.get_config()
    config.seed = int(seed)
    return config
"""


def test_installed_without_the_repository_the_configurations_are_there(tmp_path):
    """What pip install does to the package, then a run in another folder, by a name of ours and a file of one's own."""
    pytest.importorskip("setuptools")
    build = [sys.executable, "setup.py", "--quiet", "build_py", f"--build-lib={tmp_path / 'site'}"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (tmp_path / "mine/configs").mkdir(parents=True)
    (tmp_path / "mine/configs/own.py").write_text(OWN)
    main = [sys.executable, "-m", "xrt_jax.main", "--print_config"]
    printed = {
        name: subprocess.run(
            [*main, "--config", name],
            cwd=tmp_path / "mine",
            env=environment() | {"PYTHONPATH": str(tmp_path / "site")},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in ("configs/xlinear.py", "configs/own.py:7", "configs/json.py")
    }
    of_ours = config.to_json(config.load_config(str(ROOT / "configs/xlinear.py")))
    assert json.loads(printed["configs/xlinear.py"]) == of_ours
    assert json.loads(printed["configs/own.py:7"]) == of_ours | {"seed": 7}
    assert json.loads(printed["configs/json.py"]) == config.to_json(load_default())


@pytest.mark.parametrize(
    ("name", "nr_labels"), [("eurlex57k", 4271), ("eurlex15k_cpu", 4271), ("yso_finna", 24409), ("yso30k_cpu", 24409)]
)
def test_settings_of_levels_fit_the_data_sets_that_they_are_for(name, nr_labels):
    found = config.load_config(str(ROOT / f"configs/{name}.py"))
    depth = len(tree_levels(found, "refined_tree", nr_labels))
    assert depth == 4
    check_settings(depth, matching=None, **found.ranker)
    nr_levels = len(tree_levels(found, "preliminary_tree", nr_labels))
    assert config.settings_of_level(found.matcher, nr_levels - 1, nr_levels, "matcher")["loss"] in LOSSES
