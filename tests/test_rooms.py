"""Who may import whom: the rooms below the matcher stay free of jax, so that MPI ranks and servers stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "xrt_jax"
LIGHT = (
    "tree",
    "data",
    "xlinear",
    "sparse",
    "npz",
    "selection",
    "threads",
    "metrics",
    "ensemble",
    "disk",
    "scalars",
    "report",
    "processes",
    "sharing",
    "stages",
    "model",
    "calibration",
    "calibrate",
    "make_data",
    "commands",
    "predict",
    "encode",
    "evaluate",
    "cli",
    "pecos",
    "header",
    "train_linear",
    "estimators",
)
# Rooms of a tier may know those of lower tiers and of their own.
TIER = {name: 0 for name in ("sparse", "metrics", "ensemble", "disk", "report", "report_html", "scalars")}
TIER |= {"npz": 0, "selection": 0, "threads": 0, "compilations": 0, "huge_pages": 0, "processes": 0, "sharing": 0}
TIER |= {name: 1 for name in ("encoders", "tree", "data")}
TIER |= {name: 2 for name in ("xlinear",)}
TIER |= {name: 3 for name in ("matcher", "calibration")}
TIER |= {name: 4 for name in ("config", "checkpoint", "model", "header", "stages")}
TIER |= {"levels": 4, "encoder_start": 4, "pecos": 4, "default_config": 4}
TIER |= {name: 5 for name in ("commands", "train", "train_linear", "predict", "encode", "evaluate")}
TIER |= {name: 5 for name in ("calibrate", "make_data")}
TIER |= {"main": 6, "cli": 6}
TIER |= {"estimators": 6, "__init__": 6}  # which imports estimators when asked for one


def modules_of(room: str) -> list[str]:
    path = PACKAGE / room
    files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    names = [".".join(("xrt_jax", *file.relative_to(PACKAGE).with_suffix("").parts)) for file in files]
    return [name.removesuffix(".__init__") for name in names]


def test_light_rooms_import_no_jax():
    modules = [module for room in LIGHT for module in modules_of(room)]
    assert len(modules) > 12
    code = f"import sys, {', '.join(modules)}; sys.exit('jax' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_import_runs_up(file):
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "xrt_jax" else [node.module]
            )
        for name in names:
            parts = name.split(".")
            if parts[0] == "xrt_jax" and parts[1] in TIER:
                assert TIER[parts[1]] <= TIER[room], f"{file.name} imports {name}"
