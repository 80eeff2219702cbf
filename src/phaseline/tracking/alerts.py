"""Which events of a session somebody may want to be woken for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from phaseline.errors import ExitCode
from phaseline.tracking.event_tail import LOST

Level = Literal["INFO", "WARN", "ERROR"]

_TITLES: dict[ExitCode, tuple[str, Level]] = {
    ExitCode.FINISHED: ("finished", "INFO"),
    ExitCode.STOPPED: ("stopped, everything saved", "INFO"),
    ExitCode.GATE: ("stopped by a gate", "WARN"),
    ExitCode.NO_PROGRESS: ("given up: no progress", "ERROR"),
}


@dataclass(frozen=True)
class Alert:
    """One alert.

    Attributes:
        key: Names it for good, so that nobody is told twice.
        title: A few words.
        text: What happened.
        level: How bad it is.
    """

    key: str
    title: str
    text: str
    level: Level


def alert_of(event: Mapping[str, Any], session_name: str) -> Alert | None:
    """The alert that an event is worth; None if none."""
    attempt = event["attempt"]
    level: Level
    if event["event"] == LOST:
        title, level = "crashed", "ERROR"
    elif event["event"] == "attempt_ended":
        title, level = _TITLES.get(ExitCode(event["code"]), ("failed", "ERROR"))
    else:
        return None
    return Alert(
        key=f"alert {attempt} {event['event']}",
        title=f"{session_name}: {title}",
        text=f"attempt {attempt}: {event['reason']}",
        level=level,
    )
