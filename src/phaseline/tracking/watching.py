"""The display of a running session, drawn in another process from its records alone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from phaseline.errors import printable
from phaseline.session.attempts import read_outcome
from phaseline.session.layout import SessionLayout
from phaseline.session.lease import read_lease
from phaseline.session.starting import is_starting
from phaseline.session.stored_config import load_stored_config
from phaseline.tracking import metric_keys as keys
from phaseline.tracking.console import Display, PhaseBanner, Progress
from phaseline.tracking.event_tail import LOST, EventTail
from phaseline.tracking.view_tail import ViewTail

_NOTES = {
    "image_started": "attempt {attempt} has begun",
    "checkpoint_rejected": "left out: {problem}",
    "phase_validated": "{phase} is validated",
    "session_finished": "finished",
    "attempt_lost": "attempt {attempt} crashed: {reason}",
    "attempt_ended": "attempt {attempt} ended: {reason}",
}
_ENDS = ("attempt_lost", "attempt_ended")


@dataclass
class _Span:
    """What happened from a phase's start on, up to the next one's.

    Attributes:
        start: The event of the phase's start; empty if it lies before this look.
        record: The last train record.
        validation_loss: The newest of its phase.
    """

    start: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] | None = None
    validation_loss: float | None = None

    @property
    def began(self) -> float:
        """Unix time."""
        return float(self.start.get("time", 0))


class Watching:
    """Turns what is recorded since the last look into what a person at the main rank sees.

    A session that is replayed after a crash jumps back, as it does there.
    """

    def __init__(self, layout: SessionLayout, display: Display) -> None:
        """Shows nothing yet.

        Args:
            layout: The session; it may run on another machine.
            display: Where it is shown.
        """
        self._layout = layout
        self._display = display
        self._records = ViewTail(layout)
        self._events = EventTail(layout)
        self._num_steps: dict[str, int] = {}
        self._validation_losses: dict[str, float] = {}
        self._since = self._newest_attempt()
        self._last: dict[str, Any] | None = None
        self._seen = (0, -1)
        self._is_first_look = True

    def look(self, *, is_gone: bool = False) -> None:
        """Shows what is new, in the order in which it happened.

        Of each phase the newest record alone is drawn, however many there are; at the first
        look the newest phase alone.

        Args:
            is_gone: Whether the newest attempt's process is gone.
        """
        events = list(self._events.read_new(is_gone=is_gone))
        spans = [_Span(), *(_Span(event) for event in events if _is_start(event))]
        begins = [span.began for span in spans]
        for span in spans[1:]:
            self._num_steps[span.start["phase"]] = span.start["num_steps"]
        for record in self._records.read_new():
            # The newest phase that had started when it was recorded.
            idx = bisect_right(begins, record["timing"]["time"]) - 1
            self._take(record, spans[max(0, idx)])
        newest = spans[-1]
        if (
            newest.record is None
            and self._last
            and self._last["phase"] == newest.start.get("phase")
        ):
            # It goes on where an attempt before had come to.
            newest.record = self._last
            newest.validation_loss = self._validation_losses.get(self._last["phase"])
        for span in spans[-1:] if self._is_first_look else spans:
            if span.start:
                self._display.phase_started(self._banner(span.start))
            if span.record is not None:
                self._display.update(self._progress(span.record, span.validation_loss))
        self._is_first_look = False
        for event in filter(self._is_told, events):
            if event["event"] in _ENDS:
                self._display.phase_ended()
            self._display.note(_NOTES[event["event"]].format(**event))

    def _take(self, record: dict[str, Any], span: _Span) -> None:
        """Notes what a record changes in what is shown; a new attempt repeats some of them."""
        phase = record["phase"]
        if record["kind"] == "validation":
            loss = record["metrics"].get(keys.VALIDATION_LOSS.key(phase))
            if loss is not None:
                self._validation_losses[phase] = float(loss)
        place = (record["attempt"], record["seq"])
        if place <= self._seen:
            return
        self._seen = place
        if record["kind"] == "train":
            self._last = record
        if self._last is not None and self._last["phase"] == phase:
            span.record, span.validation_loss = self._last, self._validation_losses.get(phase)

    def _is_told(self, event: Mapping[str, Any]) -> bool:
        """What earlier attempts did is told no more, but which of them were lost meanwhile."""
        if event["event"] not in _NOTES or event.get("image", 0) != 0:
            return False
        since = self._since if event["event"] == LOST else self._newest_attempt()
        return bool(event["attempt"] >= since)

    @property
    def is_over(self) -> bool:
        """Whether the newest attempt has ended, by its own word or without one, for good."""
        newest = self._newest_attempt()
        return newest > 0 and is_between_attempts(self._layout) and not is_starting(self._layout)

    def _newest_attempt(self) -> int:
        return max(self._layout.attempt_numbers(), default=0)

    def _units(self) -> dict[str, str]:
        """The phases in their order, each with what it counts."""
        # Read each time: a phase may have been added to the session since.
        config = load_stored_config(self._layout)
        return {phase.name: phase.unit for phase in config.phases}

    def _banner(self, event: Mapping[str, Any]) -> PhaseBanner:
        names, phase = list(self._units()), event["phase"]
        return PhaseBanner(
            name=phase,
            idx=names.index(phase) if phase in names else 0,
            num_phases=len(names),
            num_steps=event["num_steps"],
            description=printable(str(event.get("description") or event.get("engine", ""))),
        )

    def _progress(self, record: Mapping[str, Any], validation_loss: float | None) -> Progress:
        units, phase = self._units(), record["phase"]
        names = list(units)
        values = {**record["metrics"], **record["timing"]}

        def value(metric: keys.Metric) -> float | None:
            found = values.get(metric.key(phase))
            return None if found is None else float(found)

        return Progress(
            phase=phase,
            phase_idx=names.index(phase) if phase in names else 0,
            num_phases=len(names),
            step=record["phase_step"],
            num_steps=self._num_steps.get(phase, record["phase_step"]),
            global_step=record["global_step"],
            loss=value(keys.LOSS),
            validation_loss=validation_loss,
            lr=value(keys.LR),
            grad_norm=value(keys.GRAD_NORM),
            tokens_per_s=value(keys.TOKENS_PER_S),
            mfu=value(keys.MFU),
            phase_left_s=value(keys.PHASE_LEFT_S),
            session_left_s=value(keys.SESSION_LEFT_S),
            unit=units.get(phase, "tokens"),
        )


def is_between_attempts(layout: SessionLayout) -> bool:
    """Whether no attempt runs: the newest has ended, or nobody holds the session any more."""
    newest = max(layout.attempt_numbers(), default=0)
    if newest == 0 or read_outcome(layout.attempt(newest)) is not None:
        return True
    lease = read_lease(layout)
    return lease is not None and not lease.is_held()


def _is_start(event: Mapping[str, Any]) -> bool:
    return event["event"] == "phase_started" and event.get("num_steps") is not None
