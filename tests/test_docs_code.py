"""Every code block of README.md and docs/ is run: by bash and python, section by section, as a reader would paste it.

A page has a folder with what its text takes for granted (`reader`); the blocks of a section run there one after the
other in one shell, python blocks that follow each other as one script. What is long or needs other machines is put
shorter by SHORTER, which is all that differs from the page; a run that several pages have is made once. Blocks that
cannot be run stand in NOT_RUN, with a reason.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from commands import ROOT, environment
from toy import SMALL, toy_dataset, toy_split

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BIN = Path(sys.executable).parent  # python, xrt-jax, mpiexec

MADE = tempfile.TemporaryDirectory(prefix="xrt_jax-docs-")  # work directories of a session's runs

# Blocks that hold this line are not run.
NOT_RUN = {
    "tensorboard --logdir": "TensorBoard is not installed along",
    "push_to_hub": "wants the network and an account of the hub",
}
# What begins a command; nothing of the kind may stand in a text block, which is not run.
COMMAND = re.compile(r"^(\$ |make |python |xrt-jax |mpiexec |launch/\w|sbatch |tensorboard |pip |from \w+ imp|import )")


TREE = {key: SMALL[key] for key in ("refined_tree.nr_splits", "refined_tree.max_leaf_size")}
WITH_ENCODER = {key: value for key, value in SMALL.items() if not key.startswith(("encoder.name", "scratch"))}
# Fields that are set in a run, unless the page sets them, by its configuration.
SETTINGS = {
    "demo": SMALL | {"data.dir": "DIR"},  # 300 texts, and an encoder made of them
    "default": WITH_ENCODER,
    "xlinear": TREE,
    "pecos": TREE,
    "json": {},  # the file has them
}
# Configurations of data sets that are not here: their fields are shown.
NOT_HERE = ("eurlex57k", "eurlex15k_cpu", "yso30k_cpu", "eurlex_4k", "wiki10_31k")
# Runs that differ from others in a few fields; likewise.
SHOWN_RUNS = ("runs/long", "runs/my", "runs/roberta")
TRAIN = r"((?:xrt-jax train|python -m xrt_jax\.main)(?= )[^\n#>|&;]*--config=configs/(\w+)\.py[^\n#>|&;]*)"


def with_settings(found: re.Match) -> str:
    """A command that trains, with the settings of its configuration."""
    command, name = found[1].rstrip(), found[2]
    if name in NOT_HERE or command.split("--workdir=")[-1].split()[0] in SHOWN_RUNS:
        return f"{command} --print_config "
    added = {f"--config.{key}=": value for key, value in SETTINGS[name].items()}
    return " ".join([command, *(f"{flag}{value}" for flag, value in added.items() if flag not in command), ""])


# (pattern, what stands in its place), in this order.
SHORTER = [
    (r" *\\\n *", " "),  # commands on one line
    (r"^make (\w[\w-]*)", rf"make -C {ROOT} -n \1"),  # shows what it would do; the tests are one of its targets
    (r"max_steps=600,800,1200", "max_steps=3,4,5"),
    (r"truncate_length=256", "truncate_length=12"),  # of an encoder of 24 positions
    (r'pooling="mean", ', 'pooling="mean", truncate_length=24, max_steps=5, '),
    (r"(sentence-transformers|FacebookAI)/[\w.-]+", "MINILM"),
    (r"runs/wiki10_31k/bert\b", "runs/demo"),
    (r"runs/wiki10_31k/roberta\b", "./runs/demo"),
    (r"runs/wiki10_31k/xlnet\b", "runs/./demo"),
    (r"data/eurlex-4k", "DIR"),
    (r"^xrt-jax fetch ", "flags_exist xrt_jax/data/fetch.py "),  # which would download
    (r"runs/demo/data", "DIR"),  # where the demo's corpus lies
    (r"\b12345\b", "{port}"),
    (r"& *\n?done; wait\b", "& done; wait -n; wait -n"),  # a plain wait hides how the processes ended
    (r" --vectorizer=VECTORIZER_FOLDER", ""),  # there is none of PECOS's here
    (r"^python (benchmarks/(?!nearest)\w+\.py)(.*?)(#.*)?$", r"flags_exist \1\2"),
    (r"^python benchmarks/", f"python {ROOT}/benchmarks/"),
    (r"^python docs/", f"python {ROOT}/docs/"),
    (r"^sbatch --\S+ (launch/slurm\.sbatch)", r"\1"),
    (r"^(launch/\S+)", r"dry_run \1"),
    (TRAIN, with_settings),
    (r"^(xrt-jax train|python -m xrt_jax\.main) (?!.*--print_config)", "once "),
]
# What the shell knows beside: a run that several pages have is made once; flags of a benchmark or a download, and of a
# run that is only shown, must exist.
FUNCTIONS = f"""
once() {{
    for word; do [[ $word != --workdir=* ]] || workdir=${{word#*=}}; done
    made=$MADE/$(sha256sum <<< "$*" | cut -c1-16)
    if [[ -d $made ]]; then
        mkdir -p "$workdir"
        cp -r "$made/." "$workdir"
    else
        xrt-jax train "$@"
        cp -r "$workdir" "$made"
    fi
}}
flags_exist() {{
    known=$MADE/$(basename "$1").help
    [[ -s $known ]] || python {ROOT}/"$1" --help > "$known"
    for flag in "${{@:2}}"; do
        [[ $flag != --* ]] || grep -q -e "${{flag%%=*}}\\b" "$known" || {{ echo "$1 has no $flag"; exit 1; }}
    done
}}
dry_run() {{
    script=$1
    shift
    {ROOT}/"$script" --dry-run "${{@/#--hosts-file=/--hosts-file=$PWD/}}"
    while [[ $1 != --config=* ]]; do shift; done
    xrt-jax train --print_config "$@" > shown.json
}}
"""
# What a page's python takes for granted.
TAKEN_FOR_GRANTED = re.compile(r"\b(X_tst|train_texts)\b")
PYTHON = "from tests_of_docs import X, X_tst, Y, dev_labels, dev_texts, train_labels, train_texts\n"


class Block(NamedTuple):
    section: str
    line: int
    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    """Fenced blocks of a page."""
    found, section, opened = [], "", None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if opened is None and line.startswith("## "):
            section = line[3:]
        if opened is None and line.startswith("```"):
            opened, content = (number, line[3:]), []
        elif opened and line == "```":
            found.append(Block(section, *opened, "\n".join(content)))
            opened = None
        elif opened:
            content.append(line)
    assert opened is None, f"{page.name}: a block is not closed"
    return found


def shorter(text: str) -> str:
    for pattern, replacement in SHORTER:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def test_blocks_have_a_language_and_hide_no_command():
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").splitlines()
        fenced = False
        for number, line in enumerate(lines, 1):
            fenced ^= line.startswith("```")
            before = lines[number - 2] if number > 1 else ""
            is_code = not fenced and line.startswith("    ") and not before.strip()
            assert not is_code, f"{page.name}:{number}: write code between ```bash or ```python and ```"
        for block in blocks_of(page):
            assert block.language in ("bash", "python", "text"), f"{page.name}:{block.line}: {block.language!r}"
            hidden = [line for line in block.text.splitlines() if block.language == "text" and COMMAND.match(line)]
            assert not hidden, f"{page.name}:{block.line}: {hidden[0]}"


def test_what_is_not_run_is_there():
    code = "\n".join(block.text for page in PAGES for block in blocks_of(page))
    assert all(text in code for text in NOT_RUN)


# ---------------------------------------------------------------------------- what a reader has


GIVEN = """
from scipy.sparse import csr_matrix
from toy import toy_split
from xrt_jax.data.tfidf import fit_tfidf, transform

trn, dev = toy_split(200, 0), toy_split(30, 1)
names_of = lambda Y: [[f"label {j}" for j in Y[i].indices] for i in range(Y.shape[0])]
train_texts, train_labels, dev_texts, dev_labels = trn.texts, names_of(trn.Y), dev.texts, names_of(dev.Y)
tfidf, X = fit_tfidf(trn.texts)
Y, X_tst = trn.Y, transform(tfidf, dev.texts)
"""


def write_table(path: Path, n: int, seed: int) -> None:
    """A table of toy texts with the columns title and subjects."""
    split = toy_split(n, seed)
    labels = ["|".join(f"label {label}" for label in row.indices) for row in split.Y]
    rows = [f"{text},{of_text}" for text, of_text in zip(split.texts, labels, strict=True)]
    path.write_text("\n".join(["title,subjects", *rows]) + "\n")


def write_json_lines(path: Path, n: int, seed: int) -> None:
    split = toy_split(n, seed)
    rows = [{"text": t, "labels": [f"l{j}" for j in row.indices]} for t, row in zip(split.texts, split.Y, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(folder: Path, script: str) -> subprocess.CompletedProcess:
    """Runs a bash script in a folder, with this repository's commands in the path."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        script = script.replace("{port}", str(free.getsockname()[1]))
    paths = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{folder}"}
    paths["MADE"] = MADE.name
    command = ["bash", "-euo", "pipefail", "-c", FUNCTIONS + script]
    return subprocess.run(command, cwd=folder, env=environment() | paths, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with the runs that pages on trained models start from, as the pages on training make them."""
    folder = tmp_path_factory.mktemp("trained")
    toy_dataset(folder / "DIR")
    done = run(folder, shorter("xrt-jax train --config=configs/demo.py --workdir=runs/demo"))
    assert done.returncode == 0, done.stderr
    done = run(folder, shorter("xrt-jax train --config=configs/xlinear.py --config.data.dir=DIR --workdir=runs/books"))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def reader(trained, tmp_path):
    """The folder of a page's reader, with the files that the pages name."""
    write_table(tmp_path / "books.csv", 300, 0)
    write_table(tmp_path / "new.csv", 20, 1)
    write_table(tmp_path / "test.csv", 40, 2)
    write_json_lines(tmp_path / "books.jsonl", 200, 0)
    write_json_lines(tmp_path / "test.jsonl", 20, 1)
    for name in ("texts.txt", "TITLES"):
        (tmp_path / name).write_text("\n".join(toy_split(20, 3).texts) + "\n")
    (tmp_path / "hosts").write_text("a\nb\n")
    (tmp_path / "params.json").write_text('{"train_params": {"hlm_args": {"model_chain": {"Cp": 2.0}}}}')
    (tmp_path / "xtransformer.json").write_text('{"train_params": {"matcher_params_chain": {"batch_size": 4}}}')
    (tmp_path / "tests_of_docs.py").write_text(GIVEN)
    shutil.copytree(trained / "DIR", tmp_path / "DIR")
    shutil.copytree(trained / "runs/demo/model/encoder", tmp_path / "MINILM")
    (tmp_path / "TREE").symlink_to(ROOT)
    return tmp_path


def script_of(blocks: list[Block]) -> str:
    """A section's blocks as one bash script."""
    parts, last = [], ""
    for block in blocks:
        where = f"line {block.line}"
        if any(text in block.text for text in NOT_RUN) or block.language == "text":
            continue
        if block.language == last == "python":
            parts.insert(-1, block.text + "\n")
        elif block.language == "python":
            parts += [f"echo @ {where}\npython - << 'END_OF_BLOCK'\n", f"{block.text}\n", "END_OF_BLOCK\n"]
        else:
            parts.append(f"echo @ {where}\n{block.text}\n")
        last = block.language
    script = "".join(parts)
    return script.replace("END_OF_BLOCK'\n", f"END_OF_BLOCK'\n{PYTHON}") if TAKEN_FOR_GRANTED.search(script) else script


ON_TRAINED_MODELS = ("predict.md", "python.md", "algorithm.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page, reader, trained):
    if page.name in ON_TRAINED_MODELS:
        shutil.copytree(trained / "runs", reader / "runs")
        for name in ("a", "b"):
            shutil.copytree(trained / "runs/books", reader / "runs" / name)
    blocks = blocks_of(page)
    for section in dict.fromkeys(block.section for block in blocks):
        script = shorter(script_of([block for block in blocks if block.section == section]))
        done = run(reader, script)
        told = f"{page.name}, {section}, status {done.returncode}\n{script}\n"
        told += f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        assert done.returncode == 0, told
        for line in script.splitlines():
            if not line.startswith(("dry_run", "flags_exist")) and "--print_config" not in line:
                for path in re.findall(r"--(?:out|output|workdir)=(\S+)", line):
                    assert (reader / path).exists(), f"{path} was not made: {told}"
