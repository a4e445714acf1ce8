"""XR-Linear over MPI: 1, 2, 4 ranks here, PECOS's distributed trainer beside them, and a simulation up to 256 ranks.

    python benchmarks/scaling.py --synthetic wiki10 --out DIR                                   # [--ranks 1,2,4]
    python benchmarks/scaling.py --synthetic wiki10 --out DIR --peer-python PEERS/bin/python    # and PECOS, 1 and 2
    python benchmarks/scaling.py --simulate-only --out DIR      # again from DIR/parts.json, which the others have left

The environment needs the extra `mpi`, and `notebooks` for the plot; PEERS is that of benchmarks/xlinear.py with mpi4py
and mpich. Every rank has one thread. After a job of each kind that fills numba's cache, and of which only the memory is
measured, they run in turns, each in a fresh work directory; seconds are medians. PECOS has the same data, parameters
and threads. Its distributed clustering ends in an error where sub-trees differ in size (numpy 1.24 and later): with a
peer, the labels are the first so many that its sub-trees are of one size.

PSS, the proportional set size, counts a page that k processes map as 1/k for each: its sum over a job's processes is
what the machine holds for the job. RSS counts such pages in every process.

What runs here says how ranks of one machine share its cores, disk and memory. More ranks than cores show that the
result is the same and what another rank costs, not how training scales. Figures of more ranks, of larger sets and of
networks are simulated (simulation.py) from parts measured here one after the other (scaling_parts.py), and say so.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from measure import available_cores, processor
from simulation import FREQUENCY_POWER, SUB_TREES_A_RANK, Machine, Sizes, Stage, draw_tree, plan, run_all
from synthetic import PRESETS, make_dataset

from xrt_jax.data.folders import Dataset, Split, save_dataset
from xrt_jax.tree.chain import binary_depth

ROOT = Path(__file__).resolve().parent.parent
TREES = {"tiny": (4, 10)}  # children of a node, labels of a leaf; of the other sets:
DEFAULT_TREE = (16, 100)
PECOS_RANKS = (1, 2)
PAUSE = 0.2  # seconds between two samples of memory
PHASES = ("tree", "training", "writing")
SETS = {
    "Amazon-3M": Sizes(1_717_899, 337_067, 2_812_281, 84.6e6 / 1_717_899, 61_916_857 / 1_717_899),
    "100 million labels": Sizes(40_000_000, 1_000_000, 100_000_000, 50.0, 12.5),
}
SIMULATED = [2**i for i in range(9)]
THREADS = (1, 16)
HOST_DISK, DISK = 1e9, 10e9  # bytes/s of the shared disk: for one host, for all
COLUMNS = ["ranks", "XR-Linear", "ratio", *PHASES, "whole job", "ratio", "PSS of all", "largest RSS"]


# ---------------------------------------------------------------------------- jobs


def equal_labels(nr_labels: int, tree: tuple[int, int], nr_ranks: int) -> int:
    """The most labels, up to so many, with which PECOS's sub-trees for these ranks are of one size."""
    nr_splits, max_leaf_size = tree
    nr_sub_trees = 1 << binary_depth(nr_labels, max_leaf_size)
    while nr_sub_trees > nr_splits:
        nr_sub_trees //= nr_splits
    while nr_sub_trees < nr_ranks:
        nr_sub_trees *= nr_splits
    return nr_labels // nr_sub_trees * nr_sub_trees


def write_data(args, folder: Path) -> None:
    """The synthetic set with its first args.labels labels as a data-set folder."""
    splits = make_dataset(args.synthetic)
    trn, tst = (Split(None, s.Y[: args.rows, : args.labels].tocsr(), s.X[: args.rows]) for s in splits)
    save_dataset(folder, Dataset(trn, None, tst, [f"label {i}" for i in range(args.labels)]))


def processes_below(parent: int) -> list[int]:
    """Numbers of all processes that this one has started, and they in turn."""
    children = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            children[int(path.read_text().rpartition(")")[2].split()[1])].append(int(path.parent.name))
        except OSError:  # it has just ended
            continue
    found = [parent]
    for process in found:
        found += children[process]
    return found


def memory_of(process: int) -> tuple[int, int]:
    """(PSS, RSS) of a process in bytes; zeros if it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return 1024 * kib.get("Pss", 0), 1024 * kib.get("Rss", 0)


def watch_memory(job: subprocess.Popen) -> dict[str, float]:
    """Peak of the PSS of all processes of a job, and largest RSS of one, once it has ended."""
    pss = rss = 0
    while job.poll() is None:
        found = [memory_of(process) for process in processes_below(job.pid)]
        pss, rss = max(pss, sum(p for p, _ in found)), max(rss, *(r for _, r in found))
        time.sleep(PAUSE)
    return {"pss": pss, "rss": rss}


def run_job(python: Path, nr_ranks: int, command: list[str], log: Path, watch: bool) -> dict[str, float]:
    """Wall seconds, or what watch_memory finds; ends this program if the job fails."""
    everything = [str(python.with_name("mpiexec")), "-n", str(nr_ranks), str(python), *command]
    with open(log, "w") as file:
        start = time.perf_counter()
        job = subprocess.Popen(everything, cwd=ROOT, env=one_thread(), stdout=file, stderr=subprocess.STDOUT)
        try:
            found = watch_memory(job) if watch else {}
            job.wait()
        finally:
            job.terminate()
    if job.returncode:
        lines = log.read_text().strip().splitlines() or [f"exit code {job.returncode}"]
        sys.exit(f"{nr_ranks} ranks of {python}: {lines[-1]}")
    return found or {"job": time.perf_counter() - start}


def one_thread() -> dict[str, str]:
    """The environment of a process that is to use one thread."""
    names = ("OMP", "OPENBLAS", "MKL", "NUMBA")
    return os.environ | {f"{name}_NUM_THREADS": "1" for name in names} | {"HF_HUB_OFFLINE": "1"}


def run_ours(args, data: Path, nr_ranks: int, workdir: Path, watch: bool) -> dict:
    """run_job's figures, seconds of XR-Linear and its phases, and a digest of the tree's and rankers' bytes."""
    nr_splits, max_leaf_size = TREES.get(args.synthetic, DEFAULT_TREE)
    tree = [f"--config.refined_tree.nr_splits={nr_splits}", f"--config.refined_tree.max_leaf_size={max_leaf_size}"]
    command = ["-m", "xrt_jax.main", "--config=configs/xlinear.py", f"--config.data.dir={data}", *tree]
    command += [f"--workdir={workdir}"]
    found = run_job(Path(sys.executable), nr_ranks, command, workdir.with_suffix(".log"), watch)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    entry = next(entry for entry in map(json.loads, lines) if entry.get("stage") == "xr_linear")
    made = {name: [p for p in (workdir / "xr_linear" / name).rglob("*") if p.is_file()] for name in ("tree", "ranker")}
    marks = [entry["time"] - entry["seconds"], max(p.stat().st_mtime for p in made["tree"])]
    marks += [min(p.stat().st_mtime for p in made["ranker"]), entry["time"]]
    digest = hashlib.sha256()
    for path in sorted(made["tree"] + made["ranker"]):
        digest.update(str(path.relative_to(workdir)).encode() + path.read_bytes())
    phases = {} if watch else dict(zip(PHASES, np.diff(marks).tolist(), strict=True)) | {"stage": entry["seconds"]}
    return found | phases | {"digest": digest.hexdigest()}


def run_pecos(args, data: Path, nr_ranks: int, folder: Path, watch: bool) -> dict:
    """run_job's figures of PECOS's distributed trainer."""
    nr_splits, max_leaf_size = TREES.get(args.synthetic, DEFAULT_TREE)
    command = ["-m", "pecos.distributed.xmc.xlinear.train", "-x", data / "X.trn.npz", "-y", data / "Y.trn.npz"]
    command += ["-m", folder, "--threads", 1, "--nr-splits", nr_splits, "--max-leaf-size", max_leaf_size]
    return run_job(Path(args.peer_python), nr_ranks, list(map(str, command)), folder.with_suffix(".log"), watch)


def run_jobs(args, data: Path) -> dict[tuple[str, int], dict[str, float]]:
    """Medians for each side and number of ranks; ends this program unless all of ours made the same bytes."""
    jobs = [("ours", n, run_ours) for n in args.ranks]
    if args.peer_python:
        jobs += [("PECOS", n, run_pecos) for n in PECOS_RANKS if n in args.ranks]
    found, digests = defaultdict(lambda: defaultdict(list)), set()
    for repeat in range(args.repeats + 1):
        for side, n, run in jobs:
            print(f"{f'run {repeat} of {args.repeats}' if repeat else 'memory'}: {side}, {n} ranks", file=sys.stderr)
            figures = run(args, data, n, data.parent / f"{side}-{n}-{repeat}", repeat == 0)
            digests.add(figures.pop("digest", None))
            for key, value in figures.items():
                found[side, n][key].append(value)
    if len(digests - {None}) > 1:
        sys.exit("the bytes of tree and rankers depend on the number of ranks")
    return {key: {name: float(np.median(values)) for name, values in each.items()} for key, each in found.items()}


# ---------------------------------------------------------------------------- what is printed


def row(cells: list) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def jobs_table(found: dict[tuple[str, int], dict[str, float]]) -> str:
    """Markdown: a row for each side and number of ranks, ratios to the side's fewest ranks."""
    lines = [row(COLUMNS), row(["---"] + ["--:"] * (len(COLUMNS) - 1))]
    for (side, n), each in found.items():
        one = next(figures for (other, _), figures in found.items() if other == side)
        seconds = [f"{each[key]:.2f} s" if key in each else "-" for key in ("stage", *PHASES, "job")]
        stage, job = (f"{each[key] / one[key]:.3f}" if key in each else "-" for key in ("stage", "job"))
        memory = [f"{each[key] / 2**20:,.0f} MiB" for key in ("pss", "rss")]
        lines.append(row([f"{side}, {n}", seconds[0], stage, *seconds[1:], job, *memory]))
    return "\n".join(lines)


def fit_lines(parts: dict, found: dict) -> str:
    """How well the cost model and the simulation tell what was measured."""
    kinds = {"train": "training", "cluster": "clustering in sub-trees", "top": "clustering above them"}
    lines = [
        f"Cost model, {text}: {fit['pace'] * 1e9:.3g} ns an entry, R² {fit['r2']:.3f}, median error "
        f"{fit['median_error']:.0%}"
        for fit, text in ((parts["model"][key], text) for key, text in kinds.items())
    ]
    stages = measured_stages(parts)[1:]  # without reading, which is another stage of a run
    for n in sorted(n for side, n in found if side == "ours" and n <= len(available_cores())):
        told = run_all(stages, Machine(n, 1, parts["disk"], parts["disk"]), 0)["seconds"]
        seconds = found["ours", n]["stage"]
        lines.append(
            f"XR-Linear, {n} ranks: simulated {told:.2f} s, measured {seconds:.2f} s ({told / seconds - 1:+.0%})"
        )
    moved = {stage["name"]: stage["written"] + stage["gathered"] for stage in parts["stages"]}
    shared = ", ".join(f"{name} {size / 2**20:,.1f} MiB" for name, size in moved.items() if size)
    return "\n".join([*lines, f"Written for the other ranks: {shared}"])


def measured_stages(parts: dict) -> list[Stage]:
    """The stages as scaling_parts.py has found them."""
    stages = []
    for stage in parts["stages"]:
        arrays = {key: np.array(stage[key], float) for key in ("units", "longest", "own")}
        mapped = tuple((size, np.array(share)) for size, share in stage["mapped"])
        stages.append(Stage(**stage | arrays | {"mapped": mapped}))
    return stages


def simulation_table(simulated: dict) -> str:
    """Markdown of what `simulate` found."""
    head = ["set", "threads", "ranks", "makespan", "speed-up", "efficiency", "memory of the first", "of any other"]
    lines = ["Simulated, not measured:", "", row(head), row(["---"] + ["--:"] * 7)]
    for (name, threads), runs in simulated.items():
        for n, run in runs.items():
            faster = runs[1]["seconds"] / run["seconds"]
            memory = [f"{run[key] / 2**30:,.1f} GiB" for key in ("first", "others")]
            lines.append(
                row([name, threads, n, f"{run['seconds']:,.0f} s", f"{faster:.1f}", f"{faster / n:.0%}", *memory])
            )
    lines += [""]
    for (name, threads), runs in simulated.items():
        n, parts = max(runs), runs[max(runs)]["parts"]
        most = ", ".join(f"{stage} {parts[stage]:,.0f} s" for stage in sorted(parts, key=lambda s: -parts[s])[:5])
        lines.append(f"{name}, {n} ranks of {threads}: {most}")
    return "\n".join(lines)


# ---------------------------------------------------------------------------- simulation


def measure_parts(args, data: Path) -> dict:
    """What scaling_parts.py measures, in a process with one thread."""
    command = [sys.executable, Path(__file__).with_name("scaling_parts.py"), data]
    command += TREES.get(args.synthetic, DEFAULT_TREE)
    done = subprocess.run(list(map(str, command)), env=one_thread(), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def simulate(parts: dict) -> dict[tuple[str, int], dict[int, dict[str, float]]]:
    """run_all's figures for each set and number of threads, by the number of ranks."""
    found = {}
    for name, sizes in SETS.items():
        tree = draw_tree(sizes, parts["model"])
        plans = {n: plan(sizes, tree, parts["model"], n) for n in SIMULATED}
        for threads in THREADS:
            machines = {n: Machine(n, threads, HOST_DISK, DISK) for n in SIMULATED}
            found[name, threads] = {n: run_all(plans[n], machines[n], parts["base"]) for n in SIMULATED}
    return found


def assumptions(parts: dict) -> str:
    """What the simulation takes for granted, a line each."""
    model, measured = parts["model"], Sizes(*parts["sizes"])
    sizes = [
        f"{name}: {s.n / 1e6:.3g} M documents, {s.features:,} features, {s.nnz:.0f} non-zeros a row, "
        f"{s.labels / 1e6:.3g} M labels, {s.positives:.3g} a document"
        for name, s in SETS.items()
    ]
    return "\n".join([
        *sizes,
        f"A label of rank r: frequency about r^-{FREQUENCY_POWER} (at least 1); labels stand in the tree at random",
        f"Paces of one core measured on {measured.n:,} documents, {measured.labels:,} labels: training "
        f"{model['train']['pace'] * 1e9:.2g} ns, clustering {model['cluster']['pace'] * 1e9:.2g} ns an "
        "entry that is read",
        "A host a rank; threads of a rank scale perfectly but for jobs and nodes that one thread must do alone",
        f"Disk: {HOST_DISK / 1e9:.0f} GB/s for a host, {DISK / 1e9:.0f} GB/s for all; no reading while computing; "
        "TF-IDF and prediction are not in it",
        f"distributed.min_n_sub_tree: {SUB_TREES_A_RANK} a rank, at least 16. Memory counts mapped pages that are read "
        "in a stage, though the system may drop them",
        "The first rank reads the data, transposes Y, makes the problems, writes and reads back the model, alone",
    ])  # fmt: skip


def draw(simulated: dict, text: str, path: Path) -> None:
    """Makespan and memory by the number of ranks, with the assumptions below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(13, 8.2))
    colors = dict(zip(dict.fromkeys(name for name, _ in simulated), ("tab:blue", "tab:red"), strict=False))
    for (name, threads), runs in simulated.items():
        ranks, style = list(runs), {"color": colors[name], "ls": "-" if threads == max(THREADS) else "--"}
        hours = np.array([run["seconds"] for run in runs.values()]) / 3600
        label = f"{name}, {threads} thread{'s' * (threads > 1)} a rank"
        panels[0].plot(ranks, hours, marker="o", ms=4, label=label, **style)
        panels[0].plot(ranks, hours[0] / np.array(ranks), color=colors[name], lw=0.6, ls=":")
        if threads == max(THREADS):
            for key, mark, who in (("first", "s", "first rank"), ("others", "o", "largest of the others")):
                values = [run[key] / 2**30 for run in runs.values()]
                kind = "--" if key == "first" else "-"
                panels[1].plot(ranks, values, marker=mark, ms=4, color=colors[name], ls=kind, label=f"{name}, {who}")
    panels[0].set(title="Simulated makespan (dotted: ideal)", ylabel="hours")
    panels[1].set(title="Simulated memory of a rank", ylabel="GiB")
    for panel in panels:
        panel.set(xscale="log", yscale="log", xlabel="ranks", xticks=SIMULATED, xticklabels=SIMULATED)
        low, high = panel.get_ylim()
        panel.set_ylim(low, high * (high / low) ** 0.25)  # room for the legend
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, ncol=2, loc="upper center")
    figure.tight_layout(rect=(0, 0.24, 1, 1))
    figure.text(0.03, 0.02, f"SIMULATED, not measured. Assumed:\n{text}", fontsize=9, va="bottom", linespacing=1.5)
    figure.savefig(path, dpi=130)
    plt.close(figure)


# ---------------------------------------------------------------------------- the command


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Flags, checked: a wrong one is one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synthetic", choices=PRESETS, default="wiki10", help="made-up data of this size")
    parser.add_argument("--labels", type=int, metavar="N", help="the first N labels only")
    parser.add_argument("--rows", type=int, metavar="N", help="the first N rows only")
    parser.add_argument("--ranks", default="1,2,4", help="numbers of ranks")
    parser.add_argument("--repeats", type=int, default=3, help="jobs of each kind")
    parser.add_argument("--peer-python", help="python of an environment with PECOS, mpi4py and mpich")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for parts.json and scaling.png")
    parser.add_argument("--simulate-only", action="store_true", help="with DIR/parts.json of an earlier run")
    args = parser.parse_args(arguments)
    try:
        args.ranks = sorted(map(int, args.ranks.split(",")))
    except ValueError:
        parser.error(f"--ranks={args.ranks}: give numbers with commas between")
    if min(*args.ranks, args.repeats, args.labels or 1, args.rows or 1) < 1:
        parser.error("--ranks, --repeats, --labels and --rows must be at least 1")
    if args.simulate_only and not (args.out / "parts.json").is_file():
        parser.error(f"there is no {args.out / 'parts.json'}: leave out --simulate-only")
    for python in (sys.executable, *([args.peer_python] if args.peer_python else [])):
        if not args.simulate_only and not Path(python).with_name("mpiexec").is_file():
            parser.error(f"there is no mpiexec beside {python}: install mpi4py and mpich there")
    args.labels = min(args.labels or PRESETS[args.synthetic].nr_labels, PRESETS[args.synthetic].nr_labels)
    if args.peer_python:
        args.labels = equal_labels(args.labels, TREES.get(args.synthetic, DEFAULT_TREE), max(PECOS_RANKS))
    return args


def measure_here(args) -> dict:
    """Runs the jobs and the parts, prints what they tell; the parts, which are also left in args.out."""
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        data = Path(folder) / "data"
        write_data(args, data)
        load = os.getloadavg()[0]
        found = run_jobs(args, data)
        parts = measure_parts(args, data)
    (args.out / "parts.json").write_text(json.dumps(parts))
    n, d, L, nnz, positives = parts["sizes"]
    print(
        f"{processor()}, {len(available_cores())} cores, load {load:.1f} before the jobs; {args.synthetic}: {n:,} rows "
        f"× {d:,} features ({nnz:.0f} non-zeros a row), {L:,} labels ({positives:.1f} a row); one thread a rank, "
        f"medians of {args.repeats}. Bytes of tree and rankers: equal in all runs of ours. More ranks than cores show "
        f"correctness and overhead only.\n\n{jobs_table(found)}\n\n{fit_lines(parts, found)}\n"
    )
    return parts


def main() -> None:
    args = parse_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    parts = json.loads((args.out / "parts.json").read_text()) if args.simulate_only else measure_here(args)
    simulated, text = simulate(parts), assumptions(parts)
    print(f"{simulation_table(simulated)}\n\nAssumed:\n{text}")
    try:
        draw(simulated, text, args.out / "scaling.png")
    except ImportError:
        print("no plot: install matplotlib (pip install -e '.[notebooks]')", file=sys.stderr)


if __name__ == "__main__":
    main()
