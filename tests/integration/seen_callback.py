"""A callback that writes down what a step was trained on, and may ask for a stop."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.runtime import PhaseRuntime

SEEN_VARIABLE, STOP_VARIABLE = "SEEN_FILE", "SEEN_STOP_AT"


class Seen(Callback):
    """Writes phase, step, learning rates and samples into a file, on the main rank."""

    def step_ended(self, runtime: PhaseRuntime) -> None:
        step = runtime.position.phase_step
        if runtime.world.is_main:
            rates = sorted({group["lr"] for group in runtime.engine.param_groups})
            ids = runtime.data.sample_ids(step - 1).tolist()
            with Path(os.environ[SEEN_VARIABLE]).open("a") as file:
                file.write(json.dumps([runtime.section.name, step, rates, ids]) + "\n")
            if os.environ.get(STOP_VARIABLE) == str(step):
                os.kill(os.getpid(), signal.SIGUSR1)
