"""Being one trial of a wandb sweep, whose agent says so in the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SweepTrial:
    """One trial.

    Attributes:
        run_id: The id that the agent gave to the trial's run.
    """

    run_id: str

    @classmethod
    def of(cls, variables: Mapping[str, str] = os.environ) -> SweepTrial | None:
        """The trial that this process belongs to; None outside of sweeps.

        Args:
            variables: The environment. Without a sweep a run id there is somebody else's.
        """
        run_id = variables.get("WANDB_RUN_ID", "")
        return cls(run_id) if variables.get("WANDB_SWEEP_ID") and run_id else None

    def session_dir(self, usual: Path) -> Path:
        """A directory of the trial's own, beside the session's usual one."""
        return usual.with_name(f"{usual.name}-{self.run_id}")
