"""The page of a run: what is drawn of given figures, and that texts cannot break it."""

from html.parser import HTMLParser

import numpy as np
from scipy.sparse import csr_matrix

from xrt_jax.metrics import precision_recall
from xrt_jax.report_html import _ticks, bar_chart, line_chart, write_report

VOID = {"meta", "circle", "line", "rect", "polyline"}


class Balance(HTMLParser):
    """Collects open tags; each must be closed in turn."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_ticks_are_round_and_cover_the_range():
    for low, high in ((0, 1), (0.013, 0.017), (-3, 250), (5, 5), (61.2, 64.9)):
        ticks = _ticks(low, high)
        assert ticks[0] <= low and ticks[-1] >= high - 1e-9 and len(ticks) <= 8
        step = ticks[1] - ticks[0]
        assert round(step / 10 ** np.floor(np.log10(step) + 1e-9)) in (1, 2, 5)


def test_points_lie_where_they_belong():
    chart = line_chart("t", {"a": [(0, 0.0), (4, 8.0)]}, "x")
    assert 'points="50.0,190.0 420.0,26.0"' in chart
    assert 'width="360.0"' in bar_chart({"slow": 2.0, "fast": 1.0}, "s")
    assert 'width="180.0"' in bar_chart({"slow": 2.0, "fast": 1.0}, "s")
    bar_chart({}, "s")


def test_a_page_is_whole_whatever_the_texts(tmp_path):
    rng = np.random.default_rng(0)
    Y = csr_matrix((rng.random((30, 12)) < 0.2).astype(np.float32))
    P = csr_matrix(rng.random((30, 12)) * (rng.random((30, 12)) < 0.5))
    names = [f"<b>label & {i}</b>" for i in range(12)]
    entries = [{"level": 0, "step": 1, "loss": 0.5}, {"level": 0, "step": 1, "loss": 0.7}, {}, {"stage": "x"}]
    write_report(
        tmp_path / "r.html",
        title="</title>",
        entries=entries,
        seconds={"data": 0.5, "<x>": 0.0},
        metrics={"m": precision_recall(Y, P, 10)},
        predictions={"m": P},
        Y_trn=Y,
        Y_tst=Y,
        names=names,
        texts=["<script>alert(1)</script>"] * 30,
        levels=[3, 12],
        seed=0,
    )
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "<script" not in page and "<b>" not in page
    parser = Balance()
    parser.feed(page)
    assert not parser.open
    text = " ".join(parser.text)
    assert "<b>label & 3</b>" in text and "training loss" in text and text.count("Document ") == 10
    assert "validation P@1" not in text
