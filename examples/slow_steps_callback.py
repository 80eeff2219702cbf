"""A callback that keeps a state: how many steps took much longer than usual.

session: {name: watched}
model:
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
           num_attention_heads: 2, max_position_embeddings: 32}
phases:
  - name: watched
    objective: causal_lm
    duration: 20 steps
    data: {source: python_stdlib, arguments: {packages: [json]}, sequence_length: 32}
    batch: {global_size: 8, micro_size: 8}
    optimizer: {lr: 1e-2}
    engine: {kind: plain}
    callbacks: ["slow_steps_callback:SlowSteps"]
"""

from __future__ import annotations

import time
from typing import Any

from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.runtime import PhaseRuntime

_SLOW = 3.0


class SlowSteps(Callback):
    """Counts steps and slow steps. What it counted is saved with checkpoints and comes back."""

    def __init__(self) -> None:
        """Begins at nothing; called once per phase and process image."""
        self.num_steps = self.num_slow = 0
        self._usual_s = 0.0
        self._last: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON. No clock: a resumed run has another."""
        return {"num_steps": self.num_steps, "num_slow": self.num_slow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what a checkpoint kept."""
        self.num_steps, self.num_slow = state["num_steps"], state["num_slow"]

    def step_ended(self, runtime: PhaseRuntime) -> None:
        """Reads the clock, and nothing from the device: that would hold the loop up."""
        now = time.monotonic()
        self.num_steps += 1
        if self._last is not None:
            took_s = now - self._last
            if self._usual_s and took_s > _SLOW * self._usual_s:
                self.num_slow += 1
            self._usual_s = 0.9 * (self._usual_s or took_s) + 0.1 * took_s
        self._last = now

    def phase_ended(self, runtime: PhaseRuntime, *, finished: bool) -> None:
        """Says what it saw, on one rank."""
        if runtime.world.is_main:
            name = runtime.section.name
            runtime.display.note(f"{name}: {self.num_slow} of {self.num_steps} steps were slow")
