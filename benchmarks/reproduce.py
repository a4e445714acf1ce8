"""The tables of the README, measured again on real data sets, and written as Markdown.

    python benchmarks/reproduce.py --data=ROOT --out=DIR [--sets=eurlex15k,yso30k] [--rows=knn,xlinear] [--seeds=0,1]
        [--encoder=MINILM] [--peer-python=PEERS/bin/python] [--threads=2] [--fine-tune-on-cpu] [--table]

ROOT holds data-set folders in PECOS's layout, eurlex57k and yso-finna-en; eurlex15k and yso30k are parts of them. A set
may also be NAME=CONFIG, a folder ROOT/NAME with a configuration file of its XR-Transformer. PEERS is a virtual
environment with PECOS and omikuji (pip install libpecos==1.2.8 transformers==4.49.0 torch==2.13.0 omikuji==0.5.2).

Each row of a table, with each seed, is a process that leaves a JSON file in DIR/rows, or none. Rows that are there are
not measured again, so the same command goes on after it was broken off; runs of xrt_jax.main go on in the middle. What
cannot run here is left out, and DIR/results.md says why. Cheap rows come first. --table only writes results.md.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

from measure import available_cores
from reproduce_table import AFTER, ROWS, write_table

from xrt_jax.disk import read_json, write_json

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WORKER = HERE / "reproduce_rows.py"
FINE_TUNED = ("xrt", "xrt-pecos")
UNSEEDED = ("knn",)  # has nothing random: the first seed is all


class DataSet(NamedTuple):
    """A set of the tables."""

    title: str
    folder: str  # below ROOT
    config: str  # configuration file
    cut: dict | None = None  # as reproduce_rows.Spec
    is_large: bool = False  # fine-tuning wants an accelerator


SETS = {
    "eurlex57k": DataSet("EURLEX57K", "eurlex57k", "configs/eurlex57k.py", is_large=True),
    "yso-finna-en": DataSet("YSO Finna, English titles", "yso-finna-en", "configs/yso_finna.py", is_large=True),
    "eurlex15k": DataSet(
        "EURLEX57K, the cut of 15,449 / 3,865",
        "eurlex57k",
        "configs/eurlex15k_cpu.py",
        {"lists": ["subset15k.trn.idx", "subset15k.tst.idx"]},
    ),
    "yso30k": DataSet(
        "YSO Finna, 30,000 / 8,000 titles", "yso-finna-en", "configs/yso30k_cpu.py", {"sizes": [30000, 8000]}
    ),
}


# ---------------------------------------------------------------------------- flags


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Flags, checked: a wrong one is one line. `sets` becomes name -> DataSet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, metavar="ROOT", help="folder of the data-set folders")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where everything is written")
    parser.add_argument("--sets", type=named_sets, default=",".join(SETS), help="which sets")
    parser.add_argument("--rows", type=listed, default=",".join(ROWS), help="which rows")
    parser.add_argument("--seeds", type=seeds, default="0,1", help="which seeds")
    parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2", help="folder or hub name")
    parser.add_argument("--peer-python", default=os.environ.get("XRT_PEERS_PYTHON", ""), help="or XRT_PEERS_PYTHON")
    parser.add_argument("--threads", type=int, default=len(available_cores()), help="all cores, if not given")
    parser.add_argument("--fine-tune-on-cpu", action="store_true", help="also the full sets: half a day or more a seed")
    parser.add_argument("--table", action="store_true", help="only write results.md of the rows that are there")
    args = parser.parse_args(arguments)
    unknown = [row for row in args.rows if row not in ROWS]
    if unknown:
        parser.error(f"--rows: there is no row {unknown[0]!r}, choose of {', '.join(ROWS)}")
    if not args.data.is_dir():
        parser.error(f"--data={args.data}: there is no such folder; it is to hold eurlex57k and yso-finna-en")
    if not 1 <= args.threads <= len(available_cores()):
        parser.error(f"--threads={args.threads} must be from 1 to {len(available_cores())}, the cores to run on")
    if args.peer_python and not Path(args.peer_python).is_file():
        parser.error(f"--peer-python={args.peer_python}: there is no such file")
    if is_folder(args.encoder):
        args.encoder = str(Path(args.encoder).absolute())  # runs start in the repository's folder
    return args


def is_folder(encoder: str) -> bool:
    """Whether an encoder is a folder: not a hub's name, nor empty for one that is made on the spot."""
    return bool(encoder) and Path(encoder).is_dir()


def listed(text: str) -> list[str]:
    """The words of a list with commas."""
    return [word for word in text.split(",") if word]


def seeds(text: str) -> list[int]:
    """Numbers of a list with commas."""
    return [int(word) for word in listed(text)]


def named_sets(text: str) -> dict[str, DataSet]:
    """Sets by name, of SETS or NAME=CONFIG."""
    found = {}
    for word in listed(text):
        name, _, config = word.partition("=")
        if not config and name not in SETS:
            raise argparse.ArgumentTypeError(f"there is no set {name!r}: choose of {', '.join(SETS)}, or NAME=CONFIG")
        found[name] = DataSet(name, name, config) if config else SETS[name]
    return found


# ---------------------------------------------------------------------------- what can run


def why_not(args, name: str, row: str, seed: int) -> str:
    """Why a row cannot be measured now; empty where it can."""
    if row.endswith(("-pecos", "-omikuji")) and not args.peer_python:
        return "no environment with PECOS and omikuji was named (--peer-python)"
    is_slow = args.sets[name].is_large and row in FINE_TUNED and not args.fine_tune_on_cpu
    if is_slow and (row == "xrt-pecos" or find_backend() == "cpu"):
        where = "runs on CPU here" if row == "xrt-pecos" else "there is no accelerator"
        return f"{where}, and fine-tuning on the full set takes half a day or more on CPU (--fine-tune-on-cpu)"
    if row in AFTER and not row_path(args.out, name, AFTER[row], seed).is_file():
        return f"takes the encoder of the row {AFTER[row]}, which is not there"
    return ""


@cache
def find_backend() -> str:
    """What jax runs on: cpu, gpu or tpu."""
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


def command_of(args) -> str:
    """The command that measures a row again, for others to read: places by the names of the module's docstring."""
    encoder = Path(args.encoder).name if is_folder(args.encoder) else args.encoder
    chosen = [f"--encoder={encoder}", f"--threads={args.threads}", f"--seeds={','.join(map(str, args.seeds))}"]
    chosen += ["--peer-python=PEERS/bin/python"] if args.peer_python else []
    chosen += ["--fine-tune-on-cpu"] if args.fine_tune_on_cpu else []
    return shlex.join(["python", "benchmarks/reproduce.py", "--data=ROOT", "--out=DIR", *chosen])


def commit() -> str:
    """The repository's commit, with a + where files differ from it."""
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "") if not found.returncode else "unknown"


# ---------------------------------------------------------------------------- rows


def row_path(out: Path, name: str, row: str, seed: int) -> Path:
    """The JSON file of a row."""
    return out / "rows" / f"{name}.{row}.{seed}.json"


def spec_of(args, name: str, row: str, seed: int, about: dict) -> dict:
    """What reproduce_rows.Spec holds."""
    data_set = args.sets[name]
    config = str((ROOT / data_set.config).resolve())  # a path of its own where it is absolute
    return {
        "set": name,
        "row": row,
        "seed": seed,
        "folder": str((args.data / data_set.folder).absolute()),
        "cut": data_set.cut,
        "config": config,
        "out": str(args.out.absolute()),
        "encoder": args.encoder,
        "peer_python": args.peer_python,
        "threads": args.threads,
        **about,
    }


def run_worker(args, phase: str, spec: dict, log: Path) -> str:
    """Runs a phase of reproduce_rows.py; the line that says what went wrong, empty if nothing did."""
    names = ("OMP", "OPENBLAS", "MKL", "NUMBA")
    environment = os.environ | {f"{name}_NUM_THREADS": str(args.threads) for name in names}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as out:
        command = [sys.executable, str(WORKER), phase, json.dumps(spec)]
        done = subprocess.run(command, env=environment, stdout=out, stderr=subprocess.STDOUT, check=False)
    if not done.returncode:
        return ""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    reason = f"failed: {lines[-1] if lines else f'status {done.returncode}'} ({log.absolute()})"
    return reason.replace(spec["folder"], args.sets[spec["set"]].folder).replace(spec["out"], "DIR")


def measure_rows(args, about: dict) -> dict[str, dict[str, str]]:
    """Measures what is not there yet; set -> "row seed" -> why it was left out."""
    left_out: dict[str, dict[str, str]] = {name: {} for name in args.sets}
    broken, logs = {}, args.out / "logs"
    for name in args.sets:
        tell(f"{name}: data and features")
        broken[name] = run_worker(args, "prepare", spec_of(args, name, "", 0, about), logs / f"{name}.prepare.log")
    for row in (row for row in ROWS if row in args.rows):
        for name in args.sets:
            for seed in args.seeds[:1] if row in UNSEEDED else args.seeds:
                if row_path(args.out, name, row, seed).is_file():
                    continue
                reason = broken[name] or why_not(args, name, row, seed)
                if not reason:
                    tell(f"{name}: {row}, seed {seed}")
                    log = logs / f"{name}.{row}.{seed}.log"
                    reason = run_worker(args, "measure", spec_of(args, name, row, seed, about), log)
                if reason:
                    tell(f"{name}: {row}, seed {seed}: {reason}")
                    left_out[name][f"{row} {seed}"] = reason
    return left_out


def tell(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measures and writes the tables."""
    args = parse_arguments()
    path = args.out / "left_out.json"
    if not args.table:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, available_cores()[: args.threads])  # every process from here on inherits it
        about = {"commit": commit(), "command": command_of(args)}
        known = read_json(path) if path.is_file() else {}
        write_json(path, known | measure_rows(args, about))
    left_out = read_json(path) if path.is_file() else {}
    print(write_table(args.out, {name: data_set.title for name, data_set in args.sets.items()}, left_out))


if __name__ == "__main__":
    main()
