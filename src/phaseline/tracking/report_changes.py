"""What a report tells of settings that changed between two starts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from phaseline.session.layout import AttemptLayout
from phaseline.session.records import read_events

_PHASE = re.compile(r"phases\[(\d{1,6})\]", re.ASCII)
_ACCEPTED = "settings_accepted"
_LONGEST = 120


@dataclass(frozen=True, slots=True)
class ChangeStory:
    """One setting that an attempt went on with other than the one before.

    Attributes:
        attempt: The attempt that began with the new value.
        first_step: Global step of the first step that was trained with it; None: none was.
        path: The setting, as `phases[0].optimizer.lr`.
        old: Its value before, as JSON.
        new: Its value since.
        is_accepted: Whether somebody had to accept it, since it changes numbers.
    """

    attempt: int
    first_step: int | None
    path: str
    old: str
    new: str
    is_accepted: bool

    @property
    def phase_idx(self) -> int | None:
        """The phase that it is a setting of; None: it is none of a phase."""
        match = _PHASE.match(self.path)
        return None if match is None else int(match[1])

    @property
    def setting(self) -> str:
        """The path inside its phase, or the whole one."""
        match = _PHASE.match(self.path)
        return self.path if match is None else self.path[match.end() + 1 :] or "phase"


def read_changes(attempt: AttemptLayout, first_step: int | None) -> Iterator[ChangeStory]:
    """Yields what an attempt recorded of changed settings.

    Args:
        attempt: The attempt.
        first_step: Global step of its first train record.
    """
    for event in read_events(attempt.events_file):
        if event["event"] in ("settings_changed", _ACCEPTED):
            for one in event["changes"]:
                yield ChangeStory(
                    attempt=attempt.number,
                    first_step=first_step,
                    path=one["path"],
                    old=_text(one.get("old")),
                    new=_text(one.get("new")),
                    is_accepted=event["event"] == _ACCEPTED,
                )


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
