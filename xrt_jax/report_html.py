"""report.html of a run: curves, metrics, times, tree and examples on one page that needs no other file."""

from html import escape
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from xrt_jax.disk import replace_file
from xrt_jax.metrics import by_frequency, ranked_labels

NR_EXAMPLES = 10
COLORS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#475569")
STYLE = """\
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1e293b}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #cbd5e1;padding-bottom:.2rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.15rem .7rem;text-align:right}
th{font-weight:600;border-bottom:1px solid #94a3b8}td:first-child,th:first-child{text-align:left}
svg{max-width:100%;height:auto}.row{display:flex;flex-wrap:wrap;gap:1rem}.note{color:#64748b;font-size:.9rem}
.hit{color:#047857;font-weight:600}.missed{color:#b91c1c}.text{background:#f1f5f9;padding:.5rem .8rem;border-radius:4px}
"""


# ---- drawing --------------------------------------------------------------------------------------------------------


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that cover low to high."""
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / 4
    size = 10.0 ** np.floor(np.log10(raw))
    step = size * next(m for m in (1, 2, 5, 10) if m * size >= raw)
    return [step * i for i in range(int(np.floor(low / step)), int(np.ceil(high / step)) + 1)]


def line_chart(title: str, series: dict[str, list[tuple[float, float]]], x_label: str) -> str:
    """SVG with a line through the points (x, y) of each series."""
    points = np.array([point for line in series.values() for point in line], dtype=float)
    x_ticks, y_ticks = (_ticks(axis.min(), axis.max()) for axis in points.T)
    left, right, top, bottom = 50, 420, 26, 190

    def at(x, y) -> tuple[float, float]:
        across, up = ((v - ticks[0]) / (ticks[-1] - ticks[0]) for v, ticks in ((x, x_ticks), (y, y_ticks)))
        return left + across * (right - left), bottom - up * (bottom - top)

    parts = [f'<text x="{left}" y="14" font-weight="600">{escape(title)}</text>']
    for x in x_ticks:
        parts.append(f'<text x="{at(x, 0)[0]:.1f}" y="{bottom + 16}" text-anchor="middle">{x:g}</text>')
    for y in y_ticks:
        height = at(x_ticks[0], y)[1]
        parts.append(f'<line x1="{left}" x2="{right}" y1="{height:.1f}" y2="{height:.1f}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{left - 6}" y="{height + 4:.1f}" text-anchor="end">{y:g}</text>')
    parts.append(f'<text x="{right}" y="{bottom + 32}" text-anchor="end">{escape(x_label)}</text>')
    for number, (name, line) in enumerate(series.items()):
        color = COLORS[number % len(COLORS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>' for x, y in (at(*p) for p in line)]
        parts.append(f'<text x="{right + 8}" y="{top + 10 + 16 * number}" fill="{color}">{escape(name)}</text>')
    return f'<svg viewBox="0 0 540 230" width="440" font-size="12">{"".join(parts)}</svg>'


def bar_chart(bars: dict[str, float], unit: str) -> str:
    """SVG with a bar for each name."""
    longest, parts = max(bars.values(), default=0) or 1, []
    for row, (name, value) in enumerate(bars.items()):
        y, width = 20 * row, 360 * value / longest
        parts.append(f'<text x="150" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="158" y="{y + 3}" width="{width:.1f}" height="14" fill="{COLORS[0]}"/>')
        parts.append(f'<text x="{164 + width:.1f}" y="{y + 14}">{value:,.3g} {unit}</text>')
    height = 20 * len(bars)
    return f'<svg viewBox="0 0 620 {height}" width="620" font-size="12">{"".join(parts)}</svg>'


def table(head: list[str], rows: list[list[str]]) -> str:
    """An HTML table of plain texts."""
    cells = lambda tag, row: "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)  # noqa: E731
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', head)}</tr>{body}</table>"


# ---- sections -------------------------------------------------------------------------------------------------------


def _curves(entries: list[dict]) -> str:
    """A chart for each quantity that was logged a step, with a line a level."""
    charts = []
    for key, title in (("loss", "training loss"), ("P@1", "validation P@1, percent")):
        series: dict[str, dict[float, float]] = {}
        for entry in entries:
            if key in entry and "level" in entry:  # after an interruption, the last value of a step counts
                series.setdefault(f"level {entry['level']}", {})[entry["step"]] = entry[key]
        if series:
            lines = {name: sorted(points.items()) for name, points in series.items()}
            charts.append(line_chart(title, lines, "update of the level"))
    return f'<h2>Fine-tuning</h2><div class="row">{"".join(charts)}</div>' if charts else ""


def _metrics(metrics: dict[str, dict]) -> str:
    charts, rows = [], []
    for key, letter in (("prec", "P"), ("recall", "R")):
        lines = {name: [(k, 100 * v) for k, v in enumerate(found[key], 1)] for name, found in metrics.items()}
        charts.append(line_chart(f"{letter}@k on the test split, percent", lines, "k"))
        rows += [[f"{letter} {name}", *(f"{y:.2f}" for _, y in line)] for name, line in lines.items()]
    nr_k = len(rows[0]) - 1
    head = ["percent", *(f"@{k}" for k in range(1, nr_k + 1))]
    return f'<h2>Test metrics</h2>{table(head, rows)}<div class="row">{"".join(charts)}</div>'


def _frequencies(Y_trn, Y_tst, predictions: dict) -> str:
    parts = []
    for name, P in predictions.items():
        groups = by_frequency(Y_trn, Y_tst, P, k=5)
        rows = [
            [f"{g['least']:,} – {g['most']:,}", *(f"{g[key]:,}" for key in ("labels", "true"))]
            + [_percent(g[key]) for key in ("prec", "recall")]
            for g in groups
        ]
        head = ["training documents", "labels", "true in test", "precision@5", "recall@5"]
        parts.append(f"<div><h3>{escape(name)}</h3>{table(head, rows)}</div>")
    note = (
        "Labels by how many training documents have them, in ten groups of equal size, rare ones first. Precision: of "
        "the group's labels among the best five, the share that is right; recall: of its true labels, the share found."
    )
    return f'<h2>By label frequency</h2><p class="note">{note}</p><div class="row">{"".join(parts)}</div>'


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.2f}"


def _tree(levels: list[int]) -> str:
    sizes = [1, *levels]
    rows = [[str(t), f"{below:,}", f"{below / above:,.1f}"] for t, (above, below) in enumerate(pairwise(sizes))]
    return f"<h2>Label tree</h2>{table(['level', 'nodes', 'children a node'], rows)}"


def _examples(Y_tst, P, names: list[str], texts: list[str] | None, seed: int) -> str:
    rng = np.random.default_rng(seed)
    rows, parts = np.sort(rng.permutation(Y_tst.shape[0])[:NR_EXAMPLES]), []
    best = ranked_labels(P, 10)
    for row in rows:
        true = set(Y_tst.indices[Y_tst.indptr[row] : Y_tst.indptr[row + 1]])
        ranked = [label for label in best[row] if label >= 0]
        shown = [f'<span class="{"hit" if label in true else ""}">{escape(names[label])}</span>' for label in ranked]
        missed = [f'<span class="missed">{escape(names[label])}</span>' for label in sorted(true - set(ranked))]
        text = f'<p class="text">{escape(texts[row][:600])}</p>' if texts else ""
        parts.append(f"<h3>Document {row}</h3>{text}<p>{', '.join(shown)}</p>")
        parts.append(f'<p class="note">Not among these ten: {", ".join(missed)}</p>' if missed else "")
    note = f"{len(rows)} test documents drawn at random with the ten best labels; right ones are green."
    return f'<h2>Examples</h2><p class="note">{note}</p>{"".join(parts)}'


def write_report(
    path: str | Path,
    *,
    title: str,
    entries: list[dict],
    seconds: dict[str, float],
    metrics: dict[str, dict],
    predictions: dict[str, csr_matrix],
    Y_trn: csr_matrix,
    Y_tst: csr_matrix,
    names: list[str],
    texts: list[str] | None,
    levels: list[int],
    seed: int,
) -> None:
    """Writes the page.

    Args:
        path: the file.
        title: heading.
        entries: lines of metrics.jsonl.
        seconds: a stage.
        metrics: name of a ranking -> what precision_recall found.
        predictions: name of a ranking -> scores [n, L] of the test split; the last one's are shown as examples.
        Y_trn, Y_tst: labels.
        names: of the labels.
        texts: of the test split, None where there are none.
        levels: nodes of the ranker's tree, top first.
        seed: of the examples.
    """
    n, L = Y_trn.shape
    summary = f"{n:,} training and {Y_tst.shape[0]:,} test documents, {L:,} labels, {Y_trn.nnz / n:.2f} a document"
    sections = [
        _metrics(metrics),
        _curves(entries),
        _frequencies(Y_trn, Y_tst, predictions),
        f"<h2>Time</h2>{bar_chart(seconds, 's')}",
        _tree(levels),
        _examples(Y_tst, list(predictions.values())[-1], names, texts, seed),
    ]
    write_page(path, title, f"<p>{summary}</p>{''.join(sections)}")


def write_page(path: str | Path, title: str, body: str) -> None:
    """Writes an HTML page of its own, under a heading."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    page = f'<html lang="en"><head>{head}</head><body><h1>{escape(title)}</h1>{body}</body></html>'
    with replace_file(path) as tmp:
        tmp.write_text(f"<!doctype html>{page}\n", "utf-8")
