"""Callbacks that stop a session between two phases, and that weigh the process."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.runtime import PhaseRuntime

STOP_VARIABLE = "STOP_AT_EDGE_OF"
MEMORY_VARIABLE = "RESIDENT_MEMORY_FILE"


class StopAtEdge(Callback):
    """Asks for a stop when the phase that `STOP_AT_EDGE_OF` names has ended."""

    def phase_ended(self, runtime: PhaseRuntime, *, finished: bool) -> None:
        if os.environ.get(STOP_VARIABLE) == runtime.section.name:
            assert finished
            os.kill(os.getpid(), signal.SIGUSR1)


class ResidentMemory(Callback):
    """Writes to `RESIDENT_MEMORY_FILE` what the process weighs when each phase starts.

    Engines differ in size, so it is weighed before the phase has one, and with it as well.
    """

    def __init__(self) -> None:
        self.before_bytes = _resident_bytes()

    def phase_started(self, runtime: PhaseRuntime) -> None:
        record = {
            "phase": runtime.section.name,
            "before_bytes": self.before_bytes,
            "with_engine_bytes": _resident_bytes(),
        }
        with Path(os.environ[MEMORY_VARIABLE]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def _resident_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024
