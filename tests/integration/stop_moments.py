"""A callback that sends its own rank, and no other, a stop signal at a chosen moment.

`STOP_AT` says when and to which rank, as `rank:moment`; without it nothing happens. Whatever
is put in the way of the package is taken away again by `undo`, for sessions that follow in the
same process.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from phaseline.data import cache
from phaseline.data.sources.protocol import Document
from phaseline.training.phases import held_out, phase_manager, sampling
from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.runtime import PhaseRuntime
from phaseline.training.pipeline.validation import PhaseValidation

VARIABLE = "STOP_AT"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
_SLOW_BATCH_S = 0.25
"""Makes a held-out batch last as long as a real one, so that votes are due between them."""


class Moment(NamedTuple):
    """What a stop at a moment must leave.

    Attributes:
        phase: The phase whose checkpoint it saves; empty: nothing has been trained yet.
        step: The earliest step that it may be saved at.
        unfinished: What it cut off; empty: whatever the next vote finds at hand.
    """

    phase: str
    step: int
    unfinished: str = ""


MOMENTS = {
    "start-up": Moment("", 0),
    "preparing": Moment("", 0),
    "waiting for data": Moment("", 0),
    "trial": Moment("", 0),
    "first step": Moment("first", 1),
    "accumulation": Moment("first", 3),
    "validation in between": Moment("first", 4, "validation"),
    "saving": Moment("first", 6),
    "last step": Moment("first", 8, "validation"),
    "last validation": Moment("first", 8, "validation"),
    "phase edge": Moment("first", 8),
    "validation at the start": Moment("second", 0, "validation"),
    "generation": Moment("second", 4, "samples"),
    "last save": Moment("second", 4),
}

UNPREPARED = ("preparing", "waiting for data")
"""Moments that come only where data is not prepared yet."""

_undo: list[Callable[[], None]] = []


def undo() -> None:
    """Takes away everything that was put in the way."""
    while _undo:
        _undo.pop()()


def send() -> None:
    """Sends this process a signal, another one at each moment."""
    number = list(MOMENTS).index(_moment()[1])
    os.kill(os.getpid(), SIGNALS[number % len(SIGNALS)])


class SlowTexts:
    """Texts that take their time, so that one rank prepares while the other waits for it."""

    shape: Literal["text"] = "text"

    def __init__(self, num_documents: int) -> None:
        self._num_documents = num_documents
        if _moment()[1] == "waiting for data":
            # Whichever rank has to wait.
            _at_call(cache, "_wait_for_lock", 1, send)

    def fingerprint(self) -> str:
        return f"slow-texts-{self._num_documents}"

    def samples(self) -> Iterator[Document]:
        for idx in range(self._num_documents):
            if idx == 20 and _moment()[1] == "preparing":
                send()
            time.sleep(0.02)
            words = " ".join(f"word{idx * word % 13}" for word in range(60))
            yield Document(f"{idx:03}", words)


class StopAt(Callback):
    """Asks for a stop as `STOP_AT` says."""

    def __init__(self) -> None:
        rank, self._name = _moment()
        self._is_here = os.environ["RANK"] == rank
        if self._is_here and self._name == "trial":
            _at_call(PhaseValidation, "_train_worst_batch", 1, send)

    def phase_started(self, runtime: PhaseRuntime) -> None:
        if self._name == "validation at the start" and runtime.section.name == "second":
            self._ask_in_validation()
        if not self._is_here:
            return
        if self._name == "accumulation":
            # The second micro-step of the third step.
            manager = phase_manager.TrainingPhaseManager
            _at_call(manager, "seed_micro_step", 2 * runtime.layout.accumulation_steps + 2, send)
        if self._name == "generation":
            _at_call(sampling, "generate", 1, send)

    def step_ended(self, runtime: PhaseRuntime) -> None:
        at = (runtime.section.name, runtime.position.phase_step)
        if (self._name, at) in (
            ("validation in between", ("first", 4)),
            ("last validation", ("first", 8)),
        ):
            self._ask_in_validation()
        if not self._is_here:
            return
        if (self._name, at) in (("first step", ("first", 1)), ("last step", ("first", 8))):
            send()
        if (self._name, at) in (("saving", ("first", 6)), ("last save", ("second", 4))):
            _at_call(os, "fsync", 2, send)

    def phase_ended(self, runtime: PhaseRuntime, *, finished: bool) -> None:
        if self._is_here and (self._name, runtime.section.name) == ("phase edge", "first"):
            assert finished
            send()

    def _ask_in_validation(self) -> None:
        """Between the second held-out batch and the third; every rank's batches are slow."""
        _before_each_call(held_out.HeldOutTotals, "add", lambda: time.sleep(_SLOW_BATCH_S))
        if self._is_here:
            _at_call(held_out.HeldOutTotals, "add", 2, send)


def _moment() -> tuple[str, str]:
    rank, _, name = os.environ.get(VARIABLE, "-1:").partition(":")
    return rank, name


def _at_call(owner: Any, name: str, number: int, act: Callable[[], None]) -> None:
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            act()

    _before_each_call(owner, name, count)


def _before_each_call(owner: Any, name: str, act: Callable[[], None]) -> None:
    original = getattr(owner, name)

    def acting(*args: Any, **kwargs: Any) -> Any:
        act()
        return original(*args, **kwargs)

    setattr(owner, name, acting)
    _undo.append(lambda: setattr(owner, name, original))
