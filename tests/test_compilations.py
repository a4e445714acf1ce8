"""What jax compiles is counted, once, and told after each stage."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp

from xrt_jax.compilations import compilations
from xrt_jax.report import Report


def counted(run) -> dict:
    before = compilations()
    run()
    return {name: total - before[name] for name, total in compilations().items()}


def test_a_new_function_or_shape_counts_and_a_known_one_does_not():
    inputs = [jnp.ones(3), jnp.ones(4)]  # made before: making them compiles too
    cube = jax.jit(lambda x: x * x * x + 17)
    assert counted(lambda: cube(inputs[0]))["compilations"] == 1
    again = counted(lambda: cube(inputs[0]))
    assert again == {"compilations": 0, "cache_hits": 0, "compile_seconds": 0}
    other = counted(lambda: cube(inputs[1]))
    assert other["compilations"] == 1 and other["compile_seconds"] > 0


def test_a_program_from_the_cache_is_none_compiled(tmp_path):
    code = """
import jax, numpy as np
from xrt_jax.compilations import compilations
compilations()
jax.jit(lambda x: x * 3 - 1)(np.ones(5, np.float32)).block_until_ready()
found = compilations()
print(found["compilations"], found["cache_hits"], found["compile_seconds"] > 0)
"""
    always = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)} | always
    told = [subprocess.run([sys.executable, "-c", code], env=env, text=True, capture_output=True) for _ in range(2)]
    assert [result.stdout.split() for result in told] == [["1", "0", "True"], ["0", "1", "True"]], told[0].stderr


def test_a_stage_tells_what_it_added_and_others_nothing(tmp_path, capsys):
    report = Report(tmp_path, counters=compilations)
    x = jnp.ones(6)
    with report.stage("with jax"):
        jax.jit(lambda x: x / 7 + 2)(x)
    with report.stage("without"):
        pass
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    told = [entry for entry in entries if "compilations" in entry]
    assert [(entry["stage"], entry["compilations"], entry["cache_hits"]) for entry in told] == [("with jax", 1, 0)]
    assert "stage with jax  compilations 1  cache_hits 0  compile_seconds " in capsys.readouterr().out
    assert set(report.seconds()) == {"with jax", "without"}
    assert not (tmp_path / "tensorboard").exists()
