"""The display of a running session, drawn in another process from its records alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from phaseline.errors import printable
from phaseline.session.attempts import read_outcome
from phaseline.session.layout import SessionLayout
from phaseline.session.lease import read_lease
from phaseline.session.stored_config import load_stored_config
from phaseline.tracking import metric_keys as keys
from phaseline.tracking.console import Display, PhaseBanner, Progress
from phaseline.tracking.event_tail import LOST, EventTail
from phaseline.tracking.view_tail import ViewTail

_NOTES = {
    "checkpoint_rejected": "left out: {problem}",
    "phase_validated": "{phase} is validated",
    "session_finished": "finished",
    "attempt_lost": "attempt {attempt} crashed: {reason}",
    "attempt_ended": "attempt {attempt} ended: {reason}",
}


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

    def look(self, *, is_gone: bool = False) -> None:
        """Shows what is new. The newest record alone is drawn, however many there are.

        Args:
            is_gone: Whether the newest attempt's process is gone.
        """
        banners: dict[str, PhaseBanner] = {}
        notes = []
        for event in self._events.read_new(is_gone=is_gone):
            if event["event"] == "phase_started" and event.get("num_steps") is not None:
                banners[event["phase"]] = self._banner(event)
            elif self._is_told(event):
                notes.append(_NOTES[event["event"]].format(**event))
        newest = None
        for record in self._records.read_new():
            if record["kind"] == "train":
                newest = record
            elif record["kind"] == "validation":
                loss = record["metrics"].get(keys.VALIDATION_LOSS.key(record["phase"]))
                if loss is not None:
                    self._validation_losses[record["phase"]] = float(loss)
        for name in list(banners)[-1:]:
            self._display.phase_started(banners[name])
        if newest is not None:
            self._display.update(self._progress(newest))
        for note in notes:
            self._display.note(note)

    def _is_told(self, event: Mapping[str, Any]) -> bool:
        """What earlier attempts did is told no more, but which of them were lost meanwhile."""
        since = self._since if event["event"] == LOST else self._newest_attempt()
        return event["event"] in _NOTES and event["attempt"] >= since

    @property
    def is_over(self) -> bool:
        """Whether the newest attempt has ended, by its own word or without one."""
        newest = self._newest_attempt()
        if newest == 0:
            return False
        attempt = self._layout.attempt(newest)
        return read_outcome(attempt) is not None or self.is_gone

    @property
    def is_gone(self) -> bool:
        """Whether nobody holds the session that an attempt began: it failed, or was killed."""
        lease = read_lease(self._layout)
        return lease is not None and not lease.is_held()

    def _newest_attempt(self) -> int:
        return max(self._layout.attempt_numbers(), default=0)

    def _names(self) -> Iterator[str]:
        # Read each time: a phase may have been added to the session since.
        config = load_stored_config(self._layout)
        return (phase.name for phase in config.phases)

    def _banner(self, event: Mapping[str, Any]) -> PhaseBanner:
        names, phase = list(self._names()), event["phase"]
        self._num_steps[phase] = event["num_steps"]
        return PhaseBanner(
            name=phase,
            idx=names.index(phase) if phase in names else 0,
            num_phases=len(names),
            num_steps=event["num_steps"],
            description=printable(str(event.get("description") or event.get("engine", ""))),
        )

    def _progress(self, record: Mapping[str, Any]) -> Progress:
        names, phase = list(self._names()), record["phase"]
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
            validation_loss=self._validation_losses.get(phase),
            lr=value(keys.LR),
            grad_norm=value(keys.GRAD_NORM),
            tokens_per_s=value(keys.TOKENS_PER_S),
            mfu=value(keys.MFU),
            phase_left_s=value(keys.PHASE_LEFT_S),
            session_left_s=value(keys.SESSION_LEFT_S),
        )
