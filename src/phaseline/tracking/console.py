"""What a person sees while a session runs: the protocol of displays, and what they are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PhaseBanner:
    """What is said when a phase begins or goes on.

    Attributes:
        name: The phase's name.
        idx: Its place in the session, from zero.
        num_phases: Phases in the session.
        num_steps: Optimizer steps of the whole phase.
        description: One line on what it does.
    """

    name: str
    idx: int
    num_phases: int
    num_steps: int
    description: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a phase stands; None for what is not known yet.

    Attributes:
        phase: The phase's name.
        phase_idx: Its place in the session, from zero.
        num_phases: Phases in the session.
        step: Optimizer steps of the phase that are done.
        num_steps: Optimizer steps of the whole phase.
        global_step: Optimizer steps of the session that are done.
        loss: Training loss of the last step that was read, nats per target.
        validation_loss: Newest loss on held-out data.
        lr: Learning rate of that step.
        grad_norm: 2-norm of its gradient before clipping.
        tokens_per_s: Speed over all ranks, in the unit.
        mfu: Share of the devices' peak that the model's arithmetic uses.
        phase_left_s: Time to the end of the phase.
        session_left_s: Time to the end of the session.
        is_read: Whether loss, learning rate and gradient norm are of this very step.
        unit: What the phase counts: tokens, or of images and features samples.
    """

    phase: str
    phase_idx: int
    num_phases: int
    step: int
    num_steps: int
    global_step: int
    loss: float | None = None
    validation_loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    tokens_per_s: float | None = None
    mfu: float | None = None
    phase_left_s: float | None = None
    session_left_s: float | None = None
    is_read: bool = True
    unit: str = "tokens"

    @property
    def is_complete(self) -> bool:
        """Whether the phase's last step is done."""
        return self.step >= self.num_steps


class Display(Protocol):
    """Shows a session to a person. No call raises because the terminal is gone."""

    def phase_started(self, banner: PhaseBanner) -> None:
        """Says which phase begins or goes on."""

    def update(self, progress: Progress) -> None:
        """Takes the newest state; how often it is shown is the display's affair."""

    def note(self, text: str) -> None:
        """Shows a line that stays."""

    def phase_ended(self) -> None:
        """Shows for good how far the phase has come. Calling it again does nothing."""

    def close(self) -> None:
        """Shows the last state for good. Calling it again does nothing."""


class NullDisplay:
    """Shows nothing: for `off`, and for every rank but the main one."""

    def phase_started(self, banner: PhaseBanner) -> None:
        """Forgets it."""

    def update(self, progress: Progress) -> None:
        """Forgets it."""

    def note(self, text: str) -> None:
        """Forgets it."""

    def phase_ended(self) -> None:
        """Nothing was shown."""

    def close(self) -> None:
        """Nothing to end."""
