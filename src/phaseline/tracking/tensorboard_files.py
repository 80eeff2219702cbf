"""Event files for TensorBoard. The only file that imports tensorboard, an extra."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SourceMetadata
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from phaseline.tracking.tracker import FollowedSession

_LENGTH = struct.Struct("<Q")
_CHECKSUM_BYTES = 4
_WRITER = "phaseline "
"""What an event says of its writer, before the record's `seq`. TensorBoard shows it nowhere."""


class TensorBoardFiles:
    """Writes one event per record, at the record's global step.

    The events that lie in the files say where to go on. What a killed process had not flushed
    is written again, and nothing twice.
    """

    def open(self, session: FollowedSession) -> int:
        """Begins one more file beside those that there are, some of them perhaps others'."""
        files = sorted(session.folder.glob("events.*"))
        last_sent = max((_seq(event) for path in files for event in _events(path)), default=-1)
        self._writer = EventFileWriter(str(session.folder))
        return last_sent

    def log(self, record: Mapping[str, Any]) -> None:
        """Writes a record's metrics and timing; samples have no place here."""
        timing = dict(record["timing"])
        time = float(timing.pop("time", 0.0))
        values = {**record["metrics"], **timing}
        summary = Summary(
            value=[Summary.Value(tag=key, simple_value=float(x)) for key, x in values.items()]
        )
        writer = SourceMetadata(writer=f"{_WRITER}{record['seq']}")
        self._writer.add_event(
            Event(
                wall_time=time, step=record["global_step"], summary=summary, source_metadata=writer
            )
        )

    def event(self, event: Mapping[str, Any]) -> None:
        """Nothing is made of it."""

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()


def _seq(event: Event) -> int:
    """The `seq` of the record that an event was made of; -1: of none, somebody else wrote it."""
    seq = event.source_metadata.writer.removeprefix(_WRITER)
    return int(seq) if seq.isdigit() else -1


def _events(path: Path) -> Iterator[Event]:
    """The whole records' events; a file that a kill cut short ends at the last whole one.

    **Source:** TFRecord: length, its checksum, data, its checksum.
    """
    with path.open("rb") as file:
        while len(header := file.read(_LENGTH.size + _CHECKSUM_BYTES)) > _LENGTH.size:
            (length,) = _LENGTH.unpack_from(header)
            data = file.read(length + _CHECKSUM_BYTES)
            if len(data) < length + _CHECKSUM_BYTES:
                return
            event = Event.FromString(data[:length])
            if event.HasField("summary"):
                yield event
