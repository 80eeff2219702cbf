from __future__ import annotations

from pathlib import Path

import pytest

from phaseline.session.sweep import SweepTrial


def test_trial_is_what_the_agent_says() -> None:
    trial = SweepTrial.of({"WANDB_SWEEP_ID": "sw1", "WANDB_RUN_ID": "r1"})
    assert trial == SweepTrial("r1")
    assert trial.session_dir(Path("runs/mine")) == Path("runs/mine-r1")


@pytest.mark.parametrize("name", ["WANDB_SWEEP_ID", "WANDB_RUN_ID"])
def test_trial_needs_both_a_sweep_and_a_run(name: str) -> None:
    assert SweepTrial.of({name: "x"}) is None
