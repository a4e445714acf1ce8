"""Figures of a run as TensorBoard scalars: event files, written as soon as a figure is known."""

import os
from pathlib import Path

from xrt_jax.disk import naming_full_disk


class Scalars:
    """Writes figures by step to folder/GROUP, under the tag GROUP/NAME; a process adds a file of its own to a group.

    A group (a level, a stage) has a folder to itself since each counts its steps from 1, while the order to forget the
    steps that a killed run had been ahead of its checkpoint counts for everything in a folder.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._files = {}

    def add(self, group: str, step: int, values: dict[str, float], time: float) -> None:
        """Appends the values of a step at `time` (seconds since 1970); returns when the system has them."""
        # Imported only here: nothing but a run of XR-Transformer has figures by step.
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=f"{group}/{name}", simple_value=value) for name, value in values.items()]
        with naming_full_disk(self.folder / group):
            if group not in self._files:
                self._files[group] = _start_file(self.folder / group, step, time)
            self._files[group].write_event(Event(wall_time=time, step=step, summary=Summary(value=scalars)))
            self._files[group].flush()


def _start_file(folder: Path, step: int, time: float):
    """A new event file in the folder, which makes readers forget what older files have from `step` on."""
    # The writer itself, not SummaryWriter: that one's thread keeps figures for up to two minutes, lost by a kill.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    folder.mkdir(parents=True, exist_ok=True)
    # The name has the time in seconds: the process number keeps a quick second start from writing over the first.
    file = EventsWriter(str(folder / "events"), f".{os.getpid()}")
    file.write_event(Event(wall_time=time, step=step, session_log=SessionLog(status=SessionLog.START)))
    return file
