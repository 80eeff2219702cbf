"""A metric of the user's that fails between two steps."""

from __future__ import annotations

from typing import Any

import pytest

from phaseline.checkpoint.manifest import list_published, verify
from phaseline.errors import ConfigurationError
from phaseline.training.phases.phase_manager import PhaseEnding, TrainingPhaseManager
from phaseline.training.phases.runtime import PhaseRuntime
from unit.training.phases.phase_runtimes import (
    CountedUnits,
    RuntimeMaker,
    SeenDisplay,
    bare,
    finish_from,
    records_of,
)


def make(maker: RuntimeMaker, failing: str = "", **evaluate: Any) -> PhaseRuntime:
    runtime = maker.make(evaluate={"every": "4 steps", **evaluate}, checkpoint={"every": None})
    runtime.metrics = (CountedUnits(failing),)
    return runtime


@pytest.mark.parametrize(
    ("failing", "error"),
    [
        ("sums", ZeroDivisionError),
        ("metrics", ZeroDivisionError),
        ("name", ConfigurationError),
    ],
)
def test_no_step_is_lost_and_the_validation_is_done_again(
    maker: RuntimeMaker, failing: str, error: type[Exception]
) -> None:
    whole, failed, resumed = make(maker), make(maker, failing), make(maker)
    assert TrainingPhaseManager(runtime=whole).run() is PhaseEnding.FINISHED
    with pytest.raises(error):
        TrainingPhaseManager(runtime=failed).run()
    [folder] = list_published(failed.store.folder)
    saved = verify(folder)
    assert (saved.phase_step, saved.final) == (4, False)
    assert isinstance(failed.display, SeenDisplay)
    assert failed.display.notes[-1] == "only: a metric of the validation failed; step 4 is saved"
    finish_from(folder, resumed, whole)
    recorded = [*records_of(failed), *records_of(resumed)]
    assert list(map(bare, recorded)) == list(map(bare, records_of(whole)))


def test_start_that_trains_nothing_leaves_no_checkpoint(maker: RuntimeMaker) -> None:
    """Else each start of a job would count as progress, and none would be the last."""
    failed = make(maker, "sums", at_start=True)
    with pytest.raises(ZeroDivisionError):
        TrainingPhaseManager(runtime=failed).run()
    assert list_published(failed.store.folder) == []
