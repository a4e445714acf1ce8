"""benchmarks/ablation.py on a run of the toy set."""

import sys

import pytest
from commands import ROOT, run
from toy import arguments

sys.path.insert(0, str(ROOT / "benchmarks"))  # scripts, no package

import ablation


@pytest.fixture(scope="module")
def workdir(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation") / "run"
    found = run(
        "xrt_jax.main", *arguments(data, folder, do_fine_tune=False, xr_linear=False, encoder__truncate_length=6)
    )
    assert found.returncode == 0, found.stderr
    return folder


def rows_of(table: str) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {name: figures for name, *figures in lines}


def test_rows_that_change_nothing_repeat_the_base_and_others_do_not(workdir, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["ablation.py", str(workdir), "--held-out=0.92"])
    ablation.main()
    rows = rows_of(capsys.readouterr().out)
    assert len(rows) == 1 + len(ablation.changes(3)) + len(ablation.WEIGHTS) + 4 + 2 + 4 + len(ablation.COPIES) - 1
    base = rows["base"]
    assert rows["scores: product, l3-hinge"] == rows["negatives: tfn+man"] == base
    assert rows["costs: PECOS's for other sets"] != base and rows["negatives: tfn"] != base
    assert rows["joined: two trees"] != base
    for name in ("weight: embedding × 2", "joined: with XR-Linear"):
        assert rows[name][:3] == [""] * 3 and rows[name][3:] != base[3:]
    assert rows["features: single words"] != base != rows["features: and 3 to 5 characters"]
    of_copies = [rows[f"labels: {copies} copies of their texts"] for copies in (1, 2, 4)]
    assert all(row != base for row in of_copies) and of_copies[0] != of_copies[2]
    for name in ("pooling cls", "half the tokens", "two windows of a text"):
        assert rows[f"encoder: {name}"][3:] != base[3:]
    assert all(10 < float(value) <= 100 for row in rows.values() for value in row if value)


def test_groups_are_picked_and_a_run_that_fine_tuned_is_refused(workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["ablation.py", str(workdir), "--seeds=1", "--only=beam,weight"])
    ablation.main()
    assert {name.split(":")[0] for name in rows_of(capsys.readouterr().out)} == {"base", "beam", "weight"}
    (tmp_path / "config.json").write_text(
        (workdir / "config.json").read_text().replace('fine_tune": false', 'fine_tune": true')
    )
    monkeypatch.setattr("sys.argv", ["ablation.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="no finished run with do_fine_tune=False"):
        ablation.main()
