"""The README's demo at full size, on the embedded corpus."""

import json

import pytest
from commands import ROOT, environment


@pytest.mark.slow
def test_the_demo_trains_and_xr_transformer_beats_xr_linear(tmp_path):
    import subprocess
    import sys

    command = [sys.executable, "-m", "xrt_jax.main", "--config=configs/demo.py", f"--workdir={tmp_path / 'w'}"]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True)
    metrics = json.loads((tmp_path / "w/metrics.json").read_text())
    linear, transformer = metrics["xr_linear"]["prec"], metrics["xr_transformer"]["prec"]
    for k in (1, 3, 5):
        assert transformer[k - 1] > linear[k - 1], k
