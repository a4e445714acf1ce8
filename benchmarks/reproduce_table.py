"""The Markdown tables of benchmarks/reproduce.py, out of the JSON files of its rows."""

from collections import defaultdict
from pathlib import Path
from textwrap import wrap

import numpy as np

from xrt_jax.disk import read_json, replace_file

# Rows in the order of the table, and what they are called there.
ROWS = {
    "knn": "TF-IDF, 15 nearest neighbours",
    "xlinear": "XR-Linear, PECOS's defaults",
    "xlinear-pecos": "– PECOS",
    "xlinear-omikuji": "– omikuji, one tree",
    "xlinear-tuned": "XR-Linear, settings of the rankers below",
    "xrt-plain": "XR-Transformer, not fine-tuned",
    "xrt-plain-pecos": "– PECOS",
    "xrt": "XR-Transformer",
    "xrt-pecos": "– PECOS",
    "xrt-text": "XR-Transformer, text only",
    "xrt-text-pecos": "– PECOS",
}
AFTER = {"xrt-text": "xrt", "xrt-text-pecos": "xrt-pecos"}  # rows that take the encoder of another one
METRICS = ("P@1", "P@3", "P@5", "nDCG@5", "PSP@1", "PSP@3", "PSP@5", "R@10")
COLUMNS = ("", "seed", *METRICS, "training", "a query", "queries/s", "memory")

NOTE = """\
Percent on the test split, computed from predictions by `xrt_jax.metrics`; propensities with A 0.55 and B 1.5. Training:
wall time without reading the data and TF-IDF; with a +, beside that of the fine-tuned row whose encoder is taken. A
query: median of one at a time; linear rows are asked with features, XR-Transformer with texts (TF-IDF, tokens, encoder,
ranker). Queries/s: the test split in one call (omikuji: a row a call); XR-Transformer's includes what jax compiles.
Memory: peak of the process that trains. "Text only" ranks by the embedding without TF-IDF. omikuji has no seeds: its
seeds are repetitions. It trains without the texts that have no feature. Where a set has no validation split,
XR-Transformer and XR-Linear with its settings hold out `data.dev_size` training texts, and the other rows train on them
too. Where the configuration has `data.label_texts`, the rows of XR-Transformer, PECOS's too, and of XR-Linear with its
settings train on the labels' names as well. PECOS's fine-tuning starts its first head at random, has no rate for heads
of their own, pads to one length, takes BERT's pooler as the embedding, and knows neither a share of the fine-tuned
weights nor hinges steeper than l4."""

PUBLISHED = {
    "eurlex57k": """\
### Published elsewhere, not measured here

| EURLEX57K, the same split | P@1 | P@5 | RP@5 | nDCG@5 | time |
|---|--:|--:|--:|--:|--:|
| Kim-CNN, LibMultiLabel | 90.78 | 66.87 | 77.53 | 80.35 | 30 min |
| CNN-LWAN, LibMultiLabel | 89.82 | 67.31 | 78.03 | 80.54 | 2 h |
| BiGRU-LWAN, LibMultiLabel | 90.73 | 67.08 | 77.75 | 80.60 | 3 h 20 min |
| BERT-BASE-LWAN, LibMultiLabel | 89.98 | 67.85 | 78.47 | 80.98 | 9 h |
| BERT-BASE, Chalkidis et al. 2019 | – | 68.7 | 79.6 | 82.3 | – |

Sources: LibMultiLabel, `example_config/EUR-Lex-57k/README.md` (models chosen by RP@5 on the validation split; it names
no hardware); Chalkidis et al., *Large-Scale Multi-Label Text Classification on EU Legislation* (ACL 2019), as Papers
with Code lists it. The documents and labels are those of the table above, the text is not: theirs is prepared by
LibMultiLabel or by the paper's own code, ours is title, header, recitals and main body without attachments, of which
the encoder reads the first `encoder.truncate_length` tokens and TF-IDF all. RP@5 divides by the number of true labels
where that is below 5; P@5 does not.""",
}


# ---------------------------------------------------------------------------- reading


def read_rows(out: Path) -> list[dict]:
    """All rows that have been measured, in the order of the table."""
    rows = [read_json(path) for path in (out / "rows").glob("*.json")]
    return sorted(rows, key=lambda row: (row["set"], list(ROWS).index(row["row"]), row["seed"]))


def mean(rows: list[dict]) -> dict:
    """The mean of the rows of some seeds; memory is the largest."""
    keys = ("train", "p50", "texts_per_second")
    figures = {key: None if rows[0][key] is None else float(np.mean([row[key] for row in rows])) for key in keys}
    metrics = {name: float(np.mean([row["metrics"][name] for row in rows])) for name in METRICS}
    figures |= {"memory": max(row["memory"] for row in rows), "is_resumed": any(row["is_resumed"] for row in rows)}
    return rows[0] | figures | {"metrics": metrics}


# ---------------------------------------------------------------------------- writing


def duration(seconds: float | None) -> str:
    """2.5 ms, 12.3 s, 245 s, 12 min or 2 h 5 min."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 600:
        return f"{seconds:.3g} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def table_row(row: dict, name: str, seed: str) -> str:
    """One line of a table."""
    train = f"{'+ ' if row['row'] in AFTER else ''}{duration(row['train'])}{'*' if row['is_resumed'] else ''}"
    memory = f"{row['memory'] / 2**30:.2f} GiB{'*' if row['is_resumed'] else ''}"
    metrics = [f"{row['metrics'][key]:.2f}" for key in METRICS]
    cells = [name, seed, *metrics, train, duration(row["p50"]), f"{row['texts_per_second']:,.0f}", memory]
    return f"| {' | '.join(cells)} |"


def row_lines(name: str, rows: list[dict]) -> list[str]:
    """The mean and each seed of a row."""
    seeds = [table_row(row, "", str(row["seed"])) for row in rows]
    if len(rows) == 1:
        return [table_row(rows[0], name, str(rows[0]["seed"]))]
    return [table_row(mean(rows), name, f"mean of {len(rows)}"), *seeds]


def provenance(rows: list[dict]) -> list[str]:
    """Machine, commit and command of the rows, a line for all that have the same."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["machine"], row["commit"], row["command"]].append(f"{row['row']} {row['seed']}")
    lines = (
        f"{'All rows' if len(groups) == 1 else ', '.join(names)}: {machine}; commit {commit}; `{command}`"
        for (machine, commit, command), names in groups.items()
    )
    return ["\n".join(wrap(line, 120, break_on_hyphens=False, break_long_words=False)) for line in lines]


def set_section(name: str, title: str, about: dict, rows: list[dict], left_out: dict[str, str]) -> str:
    """The section of a set: its table, where it comes from, and what is missing; left_out: "row seed" -> reason."""
    sizes = f"{about['trn']:,} / {about['tst']:,} documents, {about['labels']:,} labels, {about['features']:,} features"
    lines = [f"## {title}", "", sizes + "."]
    if "tfidf_seconds" in about:
        lines[-1] += f" TF-IDF: {duration(about['tfidf_seconds'])} to fit, {duration(about['tfidf_p50'])} a text."
    lines += ["", f"| {' | '.join(COLUMNS)} |", f"|---|{'--:|' * (len(COLUMNS) - 1)}"]
    for row, called in ROWS.items():
        of_row = [found for found in rows if found["row"] == row]
        lines += row_lines(called, of_row) if of_row else []
    if any(row["is_resumed"] for row in rows):
        lines += ["", "\\* broken off and gone on with: lost time is not counted, memory is that of the last start."]
    lines += [line for paragraph in provenance(rows) for line in ("", paragraph)]
    if left_out:
        lines += ["", "Left out:", "", *(f"- {which}: {reason}" for which, reason in left_out.items())]
    if name in PUBLISHED:
        lines += ["", PUBLISHED[name]]
    return "\n".join(lines) + "\n"


def write_table(out: Path, titles: dict[str, str], left_out: dict[str, dict[str, str]]) -> Path:
    """Writes OUT/results.md of the sets that have been prepared, and returns its path.

    Args:
        out: folder of rows/ and features/.
        titles: heading of each set.
        left_out: of each set, "row seed" -> reason.
    """
    rows, sections = read_rows(out), []
    for name, title in titles.items():
        about = out / "features" / name / "about.json"
        if about.is_file():
            of_set = [row for row in rows if row["set"] == name]
            sections.append(set_section(name, title, read_json(about), of_set, left_out.get(name, {})))
        else:
            reasons = sorted(set(left_out.get(name, {}).values())) or ["not measured yet"]
            sections.append(f"## {title}\n\nLeft out: {'; '.join(reasons)}\n")
    path = out / "results.md"
    with replace_file(path) as tmp:
        tmp.write_text("\n".join([f"# Results\n\n{NOTE}\n", *sections]), encoding="utf-8")
    return path
