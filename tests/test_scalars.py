"""What TensorBoard reads: the event files, frame by frame, against metrics.jsonl."""

import json
import struct

import numpy as np
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog

from xrt_jax.report import Report


def masked_crc(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events_in(path) -> list[Event]:
    """Every whole event of a file: length, its checksum, the message, its checksum."""
    data, events = path.read_bytes(), []
    while data:
        (size, crc_of_size), message = struct.unpack("<QI", data[:12]), data[12 : 12 + struct.unpack("<Q", data[:8])[0]]
        assert crc_of_size == masked_crc(data[:8])
        assert struct.unpack("<I", data[12 + size : 16 + size]) == (masked_crc(message),)
        events.append(Event.FromString(message))
        data = data[16 + size :]
    return events


def shown(folder) -> dict[str, list[tuple[int, float]]]:
    """tag -> (step, value) as TensorBoard shows them: a file's start takes away older points from its step on."""
    curves = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        events = events_in(path)
        assert events[0].file_version == "brain.Event:2"
        for event in events:
            if event.session_log.status == SessionLog.START:
                curves = {tag: [point for point in line if point[0] < event.step] for tag, line in curves.items()}
            for value in event.summary.value:
                curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


def logged(workdir, group: str, where) -> dict[str, list[tuple[int, float]]]:
    """The same from metrics.jsonl; `where` says which entries are of the group. The last value of a step counts."""
    curves = {}
    for line in (workdir / "metrics.jsonl").read_text("utf-8").splitlines():
        entry = json.loads(line)
        if "step" in entry and where(entry):
            for name in entry.keys() - {"time", "level", "stage", "step", "note"}:
                curves.setdefault(f"{group}/{name}", {})[entry["step"]] = float(np.float32(entry[name]))
    return {tag: sorted(line.items()) for tag, line in curves.items()}


def test_figures_by_step_are_those_of_metrics_jsonl(tmp_path):
    report = Report(tmp_path)
    with report.stage("mlm"):
        report.log({"stage": "mlm", "step": 5, "loss": 3.25})
        report.log({"stage": "mlm", "compilations": 3})
    for step in (1, 2):
        report.log({"level": 0, "step": step, "loss": 1 / step, "nr": step, "note": "no figure"})
    report.log({"level": 0, "step": 2, "P@1": 70.5})
    # The system has them already: a kill from here on takes none away.
    assert shown(tmp_path / "tensorboard/mlm") == {"mlm/loss": [(5, 3.25)]}
    found = shown(tmp_path / "tensorboard/level_0")
    assert found == logged(tmp_path, "level_0", lambda entry: entry.get("level") == 0)
    assert found.keys() == {"level_0/loss", "level_0/nr", "level_0/P@1"} and len(found["level_0/loss"]) == 2


def test_steps_done_again_after_a_kill_show_once(tmp_path, monkeypatch):
    runs = [
        [(0, 1, 0.9), (0, 2, 0.8), (0, 3, 0.7), (1, 1, 0.6), (1, 2, 0.5), (1, 3, 0.4)],
        [(1, 2, 0.51), (1, 3, 0.41), (1, 4, 0.3)],  # killed, and the checkpoint was of step 1
    ]
    for pid, figures in enumerate(runs):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        report = Report(tmp_path)
        for level, step, loss in figures:
            report.log({"level": level, "step": step, "loss": loss})
    assert len(list((tmp_path / "tensorboard/level_1").iterdir())) == 2
    for level in (0, 1):
        found = shown(tmp_path / f"tensorboard/level_{level}")
        assert found == logged(tmp_path, f"level_{level}", lambda entry, level=level: entry["level"] == level)
        steps = [step for step, _ in found[f"level_{level}/loss"]]
        assert steps == [1, 2, 3, 4][: 3 + level]
