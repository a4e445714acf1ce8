"""PECOS's rows of benchmarks/reproduce.py on a small set: trained, not fine-tuned, and without TF-IDF.

Skipped where PECOS's environment has no torch and transformers, which `make test-peers` does not install.
"""

import json
import sys

import pytest
from commands import ROOT
from toy import SMALL, toy_dataset

from xrt_jax.data.folders import load_dataset
from xrt_jax.data.vocabulary import learn_wordpiece
from xrt_jax.encoders.huggingface import init_encoder, save_encoder

sys.path.insert(0, str(ROOT / "benchmarks"))  # scripts, no package

import reproduce

CONFIG = f"""
from xrt_jax.config import override
from xrt_jax.default_config import get_config as default


def get_config():
    config = default()
    override(config, {SMALL | {"matcher.max_steps": 12}!r})
    return config
"""


def make_encoder(folder, texts) -> None:
    """A small random BERT with a vocabulary of the texts."""
    vocabulary = learn_wordpiece(texts, vocab_size=200, out_folder=folder / "tokenizer") / "vocab.txt"
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, "max_positions": 64}
    module, params = init_encoder(vocab_size=len(vocabulary.read_text().splitlines()), **sizes)
    (folder / "encoder").mkdir()
    save_encoder(folder / "encoder", module, params, tokenizer_folder=folder / "tokenizer")


def test_rows_of_pecos(pecos, tmp_path):
    if not pecos("has_transformers"):
        pytest.skip("PECOS's environment has no torch and transformers: no XR-Transformer")
    toy_dataset(tmp_path / "toy")
    (tmp_path / "toy.py").write_text(CONFIG)
    make_encoder(tmp_path, load_dataset(tmp_path / "toy").trn.texts)
    flags = [f"--data={tmp_path}", f"--out={tmp_path / 'out'}", f"--sets=toy={tmp_path / 'toy.py'}", "--threads=1"]
    flags += ["--seeds=0", f"--encoder={tmp_path / 'encoder'}", f"--peer-python={pecos.process.args[0]}"]
    rows = ["xrt-plain-pecos", "xrt-pecos", "xrt-text-pecos"]
    args = reproduce.parse_arguments([*flags, f"--rows={','.join(rows)}"])
    assert reproduce.measure_rows(args, {"commit": "", "command": ""}) == {"toy": {}}
    found = {row: json.loads((tmp_path / f"out/rows/toy.{row}.0.json").read_text()) for row in rows}
    for row in found.values():
        assert row["train"] > 0 and row["p50"] > 0 and row["texts_per_second"] > 0 and row["memory"] > 2**20
    # words tell the labels, which TF-IDF has and a random encoder hardly
    by_row = {name: row["metrics"]["P@1"] for name, row in found.items()}
    assert by_row["xrt-plain-pecos"] > 80 and by_row["xrt-pecos"] > 80
    assert 5 < by_row["xrt-text-pecos"] < by_row["xrt-pecos"]
    result = json.loads((tmp_path / "out/work/toy.xrt-pecos.0/pecos/result.text-only.json").read_text())
    assert "fine-tune" not in result["seconds"]
