"""A callback that makes steps last, and fails where a test wants it.

`STEP_S` is the seconds that a step lasts besides, in the first start of a job, and
`SECOND_STEP_S` in the second; `FAIL_AT`, as `rank:step`, raises there, each time that a rank
comes by. `HOLD_AT` is a step at which the first start waits until the
next attempt has the session.
"""

from __future__ import annotations

import os
import time

from phaseline.session.layout import SessionLayout
from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.runtime import PhaseRuntime


class Moments(Callback):
    """Does what the environment says."""

    def __init__(self) -> None:
        restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        is_first = restart == 0
        variable = ("STEP_S", "SECOND_STEP_S", "")[min(restart, 2)]
        self._step_s = float(os.environ.get(variable, "0"))
        self._hold_at = int(os.environ.get("HOLD_AT", "0")) if is_first else 0
        rank, _, step = os.environ.get("FAIL_AT", "-1:0").partition(":")
        self._fail_at = (int(rank), int(step))

    def step_ended(self, runtime: PhaseRuntime) -> None:
        time.sleep(self._step_s)
        if runtime.position.phase_step == self._hold_at:
            session = runtime.store.folder.parents[3]
            following = SessionLayout(session).attempt(runtime.attempt + 1)
            while not following.adopted_file.exists():
                time.sleep(0.1)
        if (runtime.world.dp_rank, runtime.position.phase_step) == self._fail_at:
            raise RuntimeError("a fault of its own, each time at this step")
