"""A metric of the user's that fails between two steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from phaseline.checkpoint.manifest import list_published, verify
from phaseline.checkpoint.reader import CheckpointReader, load_engine
from phaseline.errors import ConfigurationError
from phaseline.objectives.validation_metric import Seen
from phaseline.training.phases.phase_manager import PhaseEnding, TrainingPhaseManager
from phaseline.training.phases.runtime import PhaseRuntime
from unit.training.phases.phase_runtimes import RuntimeMaker, SeenDisplay, records_of, weights_of


class Count:
    """Counts units; where it is told to, it fails."""

    name, measures, needs_logits = "units", ("count",), False

    def __init__(self, failing: str) -> None:
        self._failing = failing

    def sums(self, seen: Seen) -> torch.Tensor:
        if self._failing == "sums":
            raise ZeroDivisionError("no units")
        return seen.is_unit.sum().view(1)

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        if self._failing == "metrics":
            raise ZeroDivisionError("no units")
        return {"perplexity" if self._failing == "name" else "units": sums["count"]}


def make(maker: RuntimeMaker, failing: str = "", **evaluate: Any) -> PhaseRuntime:
    runtime = maker.make(evaluate={"every": "4 steps", **evaluate}, checkpoint={"every": None})
    runtime.metrics = (Count(failing),)
    return runtime


def bare(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "timing"}


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
    with CheckpointReader(folder) as reader:
        load_engine(reader, resumed.engine, dp_rank=0)
        resumed.stateful.load_state_dict(reader.state["stateful"])
    assert TrainingPhaseManager(runtime=resumed).run() is PhaseEnding.FINISHED
    assert torch.equal(weights_of(resumed), weights_of(whole))
    assert resumed.position == whole.position
    recorded = [*records_of(failed), *records_of(resumed)]
    assert list(map(bare, recorded)) == list(map(bare, records_of(whole)))


def test_start_that_trains_nothing_leaves_no_checkpoint(maker: RuntimeMaker) -> None:
    """Else each start of a job would count as progress, and none would be the last."""
    failed = make(maker, "sums", at_start=True)
    with pytest.raises(ZeroDivisionError):
        TrainingPhaseManager(runtime=failed).run()
    assert list_published(failed.store.folder) == []
