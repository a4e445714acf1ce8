"""benchmarks/xtransformer.py: what a run's config says, in PECOS's words."""

import json
import sys

import numpy as np
from commands import ROOT
from ml_collections import ConfigDict
from scipy.sparse import csr_matrix

from xrt_jax import config as C
from xrt_jax.data.folders import Dataset, Split

sys.path.insert(0, str(ROOT / "benchmarks"))  # scripts, no package

import xtransformer


def small_dataset(nr_labels):
    Y = csr_matrix((np.ones(70, np.float32), (np.arange(70), np.arange(70))), (70, nr_labels))
    split = Split(["a text"] * 70, Y, None)
    return Dataset(split, None, split, [str(i) for i in range(nr_labels)])


def test_the_config_of_a_work_directory_is_read_back(tmp_path):
    config = C.load_config(str(ROOT / "configs/eurlex15k_cpu.py"))
    (tmp_path / "config.json").write_text(json.dumps(C.to_json(config)))
    found = xtransformer.read_config(tmp_path)
    assert isinstance(found, ConfigDict) and C.flatten(found) == C.flatten(config)


def test_every_level_gets_its_own_settings():
    config = C.load_config(str(ROOT / "configs/eurlex15k_cpu.py"))
    config.ranker.Cp = (0.5, 0.5, 0.5, 2.0)
    params = xtransformer.pecos_params(config, small_dataset(4271))
    matchers = params["train_params"]["matcher_params_chain"]
    assert [matcher["max_steps"] for matcher in matchers] == [150, 350]
    assert all(matcher["save_steps"] == matcher["max_steps"] for matcher in matchers)  # PECOS drops what comes after
    assert {matcher["bootstrap_method"] for matcher in matchers} == {"weighted-linear"}
    rankers = params["train_params"]["ranker_params"]["hlm_args"]
    assert rankers["neg_mining_chain"] == ["tfn", "tfn", "tfn", "tfn+man"]
    assert [level["Cp"] for level in rankers["model_chain"]] == [0.5, 0.5, 0.5, 2.0]
    predicted = params["pred_params"]["ranker_params"]["hlm_args"]["model_chain"]
    assert [level["post_processor"] for level in predicted] == ["l3-hinge"] * 3 + ["noop"]
    assert params["pred_params"]["matcher_params_chain"][0]["truncate_length"] == 96
    json.dumps(params)


def test_epochs_become_steps_and_no_bootstrap_has_its_name():
    config = C.load_config(str(ROOT / "configs/eurlex15k_cpu.py"))
    config.matcher.max_steps, config.matcher.num_epochs, config.matcher.bootstrap = (0,), (2.0,), ("none",)
    matchers = xtransformer.pecos_params(config, small_dataset(4271))["train_params"]["matcher_params_chain"]
    assert [matcher["max_steps"] for matcher in matchers] == [6, 6]  # 70 texts are three batches of 32
    assert matchers[1]["bootstrap_method"] == "no-bootstrap"
