"""What a session file says about recording, showing and profiling."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from phaseline.config.bounds import Seconds, Steps, Tflops
from phaseline.config.section import Section
from phaseline.config.tree import found_text

_RANGE = re.compile(r"([0-9]{1,12})-([0-9]{1,12})")


class ProfileSection(Section):
    """Which steps of a phase are profiled."""

    steps: str = Field(
        examples=["100-110"],
        description="First and last step of the phase. Every rank writes a trace and a snapshot of "
        "its memory to the attempt's profile/; these steps are slower.",
    )

    @field_validator("steps")
    @classmethod
    def _steps_are_a_range(cls, value: str) -> str:
        match = _RANGE.fullmatch(value)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(
                f"is {found_text(value)}; it must be as '100-110', first to last, from step 1"
            )
        return value

    @property
    def bounds(self) -> tuple[int, int]:
        """The first and the last step."""
        first, last = self.steps.split("-")
        return int(first), int(last)


class WandbSection(Section):
    """The wandb run that the session feeds."""

    mode: Literal["offline", "online", "disabled"] = Field("offline", description="As wandb's own.")
    project: str = Field("phaseline", description="Project the run belongs to.")
    entity: str | None = Field(
        None, examples=["my-team"], description="Team or user; null: wandb's default."
    )
    group: str | None = Field(None, examples=["ablations"], description="Group of runs.")
    tags: tuple[str, ...] = Field((), examples=["[baseline]"], description="Tags of the run.")
    alerts: bool = Field(True, description="Alert when an attempt crashes, is stopped or finishes.")
    artifacts: tuple[Literal["checkpoints", "exports"], ...] = Field(
        (),
        examples=["[exports]"],
        description="What is also uploaded: the last checkpoint of each phase, the exports.",
    )


class TrackingSection(Section):
    """What is recorded and shown."""

    interval_steps: Steps = Field(
        10,
        description="Steps between two readings of the metrics, of which there are more right "
        "after a start; every step is recorded.",
    )
    console: Literal["auto", "rich", "plain", "off"] = Field(
        "auto", description="auto: rich on a terminal, else one plain line per interval."
    )
    plain_interval_s: Seconds = Field(10.0, description="Least seconds between plain lines.")
    peak_tflops: Tflops | None = Field(
        None,
        examples=["989.5"],
        description="TFLOP/s that one device can do at most in the engine's precision, for MFU; "
        "null: from the table of GPUs, and no MFU where it has no figure.",
    )
    wandb: WandbSection = WandbSection()
    tensorboard: bool = Field(
        False, description="Also write event files to <session>/tensorboard, for TensorBoard."
    )
    trackers: tuple[str, ...] = Field(
        (),
        examples=["[my_package.trackers:Mine]"],
        description="Trackers of your own, each `module:attribute`, fed the same records.",
    )
