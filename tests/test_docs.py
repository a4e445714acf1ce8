"""README and docs/ tell of what is there: fields, defaults, files, functions, commands, messages. No jax is needed."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest

from xrt_jax.cli import COMMANDS
from xrt_jax.config import flatten
from xrt_jax.default_config import get_config

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("xrt_jax", "configs", "docs", "tests", "launch", "benchmarks")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def fields_of(text: str) -> dict[str, str]:
    """{"matcher.loss": default as the page has it}: the tables below headings that name a section, or several."""
    found, sections = {}, None
    for line in text.splitlines():
        if line.startswith("#"):
            sections = re.findall(r"`(\w+)`", line) or [""]
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| `") and len(cells) == 4:
            (field,), defaults = re.findall(r"`(\w+)`", cells[0]), re.findall(r"`([^`]*)`", cells[1])
            defaults *= len(sections) if len(defaults) == 1 else 1
            for section, default in zip(sections, defaults, strict=True):
                key = f"{section}.{field}".removeprefix(".")
                assert key not in found, f"{key} is listed twice"
                found[key] = default
    return found


def test_config_page_lists_every_field_with_its_default():
    fields = {key: json.dumps(value) for key, value in flatten(get_config()).items()}
    assert fields_of((ROOT / "docs" / "config.md").read_text(encoding="utf-8")) == fields


def test_tables_of_fields_are_read():
    rows = [
        "### `a`, `b`: two",
        "| field | default | meaning | PECOS |",
        "| `x` | `1`, `2` | it | `y` |",
        "| `z` | `[3]` | it | |",
    ]
    text = "\n".join(rows)
    assert fields_of(text) == {"a.x": "1", "b.x": "2", "a.z": "[3]", "b.z": "[3]"}


@every_page
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def anchors(page: Path) -> list[str]:
    """What the headings of a page are called in links to them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@every_page
def test_paths_and_functions_in_backticks_exist(page):
    text = page.read_text(encoding="utf-8")
    for path, name in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)(?::(\w+))?[^`\n]*`", text):
        assert (ROOT / path).exists(), path
        if path.startswith("xrt_jax/") and name:
            assert name in names_in(ROOT / path), f"{path}:{name}"
    for path, names in re.findall(r"`(xrt_jax/[\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", text):  # `file`: `name`, `name`
        for name in re.findall(r"\w+", names):
            assert name in names_in(ROOT / path), f"{path}: {name}"


@cache
def names_in(path: Path) -> set[str]:
    """Functions and classes at the top of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@every_page
def test_flags_are_fields(page):
    for key in re.findall(r"--config\.([a-zA-Z_][\w.]*\w)", page.read_text(encoding="utf-8")):
        assert key in flatten(get_config()), key


@every_page
def test_fields_in_backticks_are_fields(page):
    fields = flatten(get_config())
    sections = {key.partition(".")[0] for key in fields if "." in key}
    for section, field in re.findall(r"`(\w+)\.(\w+)`", page.read_text(encoding="utf-8")):
        if section in sections:
            assert f"{section}.{field}" in fields, f"{section}.{field}"


@every_page
def test_commands_exist(page):
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"python -m (xrt_jax[\w.]*\w)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module
    blocks = re.findall(r"^```.*?^```$|`xrt-jax [^`]*`", text, re.MULTILINE | re.DOTALL)
    for command in re.findall(r"\bxrt-jax +([a-z][a-z-]*)", "\n".join(blocks)):
        assert command in COMMANDS, command


def test_lines_are_short():
    for page in PAGES:  # a row of a table cannot be broken
        lines = page.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if len(line) > 120 and not line.startswith("|")], page.name


@cache
def messages() -> str:
    """All strings of the code, one a line, with … for what is formatted in."""
    found = []
    for path in sorted((ROOT / "xrt_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
                found.append(node.value)
    return "\n".join(re.sub("…[…]+", "…", line) for line in found)


def test_messages_of_troubleshooting_are_those_of_the_code():
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### `+ ?(.*?) ?`+$", text, re.MULTILINE)
    assert len(headings) > 25
    missing = [heading for heading in headings if heading not in messages()]
    assert not missing
