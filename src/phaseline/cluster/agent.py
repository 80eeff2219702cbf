"""The process that hosts torch's agent: `accelerate launch`, with its own words kept apart.

What the agent says of ranks that failed is some thirty lines that the session's own record
says in one. The ranks inherit this process's standard error, so that a display can draw on
the terminal. So the agent's lines leave it at the level of Python, for a pipe that the
launcher reads.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from types import ModuleType

AGENT_VARIABLE = "PHASELINE_AGENT_FD"
"""Names the descriptor that the agent's lines go to."""

_RUNNER = "deepspeed.launcher.runner"


class _RunnerOnDemand(ModuleType):
    """Stands for DeepSpeed's launcher, whose import costs as much as the rest of this process.

    `accelerate launch` imports one constant from it, which it uses only where DeepSpeed
    itself starts the other machines. Asked for anything else, the real module is imported.
    """

    def __getattr__(self, name: str) -> object:
        if name == "DEEPSPEED_ENVIRONMENT_NAME":
            return os.environ.get("DS_ENV_FILE", ".deepspeed_env")
        if name.startswith("__"):  # What the import system asks every module.
            raise AttributeError(name)
        sys.modules.pop(_RUNNER, None)
        return getattr(importlib.import_module(_RUNNER), name)


def main() -> None:
    """Runs `accelerate launch` with this process's arguments."""
    descriptor = os.environ.pop(AGENT_VARIABLE, "")
    if descriptor:
        os.set_inheritable(int(descriptor), False)
        # Before anything is imported: loggers keep the stream that they find.
        sys.stderr = os.fdopen(
            int(descriptor), "w", buffering=1, encoding="utf-8", errors="backslashreplace"
        )
    sys.modules[_RUNNER] = _RunnerOnDemand(_RUNNER)
    runpy.run_module("accelerate.commands.launch", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
