import os

import pytest

from xrt_jax import disk


def test_replace_file_keeps_the_old_one_on_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), disk.replace_file(path) as tmp:
        tmp.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    with disk.replace_file(path) as tmp:
        tmp.write_text("new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_replace_folder_keeps_the_old_one_on_error(tmp_path):
    path = tmp_path / "f"
    with disk.replace_folder(path) as tmp:
        (tmp / "x").write_text("1")
    with pytest.raises(RuntimeError), disk.replace_folder(path) as tmp:
        raise RuntimeError
    assert (path / "x").read_text() == "1"
    with disk.replace_folder(path) as tmp:
        (tmp / "y").write_text("2")
    assert [p.name for p in path.iterdir()] == ["y"]
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_json_round_trip_and_a_clear_error(tmp_path):
    disk.write_json(tmp_path / "a.json", {"é": [1, None]})
    assert disk.read_json(tmp_path / "a.json") == {"é": [1, None]}
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(ValueError, match=r"b\.json is not JSON"):
        disk.read_json(tmp_path / "b.json")


def test_compiled_code_is_forgotten_when_a_source_of_it_changes(tmp_path):
    source, other = tmp_path / "a.py", tmp_path / "room/b.py"
    compiled, foreign = tmp_path / "room/__pycache__/b.f.nbi", tmp_path / "room/__pycache__/b.pyc"
    compiled.parent.mkdir(parents=True)
    for path in (source, other, compiled, foreign):
        path.write_text("import numba" if path is source else "")
    disk.forget_stale_code(tmp_path)
    assert not compiled.exists() and foreign.exists()
    compiled.write_text("")
    os.utime(other, ns=(0, other.stat().st_mtime_ns + 10**9))  # no compiled code comes from there
    disk.forget_stale_code(tmp_path)
    assert compiled.exists()
    os.utime(source, ns=(0, source.stat().st_mtime_ns + 10**9))
    disk.forget_stale_code(tmp_path)
    assert not compiled.exists()
