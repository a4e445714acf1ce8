"""The README's demo at full size, on the embedded corpus."""

import json
import subprocess
import sys

import pytest
from commands import ROOT, environment


@pytest.mark.slow
def test_the_demo_learns(tmp_path):
    command = [sys.executable, "-m", "xrt_jax.main", "--config=configs/demo.py", f"--workdir={tmp_path / 'w'}"]
    subprocess.run(command, cwd=ROOT, env=environment() | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}, check=True)
    metrics = json.loads((tmp_path / "w/metrics.json").read_text())
    for name in ("xr_linear", "xr_transformer"):
        assert metrics[name]["prec"][0] > 35  # the most popular labels reach 11
