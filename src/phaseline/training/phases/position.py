"""Where training stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Unfinished(str, Enum):
    """Work at the present step that has begun and is not recorded yet."""

    NOTHING = ""
    VALIDATION = "validation"
    SAMPLES = "samples"


@dataclass(slots=True, kw_only=True)
class PhasePosition:
    """Counters of the running phase; part of every checkpoint.

    Attributes:
        phase_step: Optimizer steps of this phase that are done.
        global_step: Optimizer steps of the session that are done.
        tokens: Tokens that the session has consumed.
        skipped_steps: Steps of this phase whose update was left out.
        skipped_in_a_row: Such steps without an applied one between.
        validation_loss: The latest, or None.
        validation: What a validation at this very step measured, by name.
        best_validation: The best value so far of what `checkpoint.keep_best` names.
        unfinished: What a stop cut off at this step. It is done first when training goes on,
            so that a resumed phase records what an uninterrupted one does.
    """

    phase_step: int = 0
    global_step: int = 0
    tokens: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    validation_loss: float | None = None
    validation: dict[str, float] = field(default_factory=dict)
    best_validation: float | None = None
    unfinished: Unfinished = Unfinished.NOTHING

    def follow(self, global_step: int, tokens: int) -> None:
        """Begins a phase where the one before it ended."""
        self.global_step = global_step
        self.tokens = tokens

    def advance(self, *, tokens: int, skipped: bool) -> None:
        """Counts one optimizer step."""
        self.phase_step += 1
        self.global_step += 1
        self.tokens += tokens
        if self.validation:
            self.validation = {}
        self.skipped_steps += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0

    def state_dict(self) -> dict[str, Any]:
        """Returns the counters, as JSON values."""
        counters = {name: getattr(self, name) for name in self.__slots__}
        return {**counters, "unfinished": self.unfinished.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from saved counters."""
        for name in self.__slots__:
            setattr(self, name, state[name])
        self.unfinished = Unfinished(state["unfinished"])
