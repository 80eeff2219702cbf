"""The end of a phase, where user code fails after the last step."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from phaseline.checkpoint.manifest import list_published, verify
from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.phase_manager import PhaseEnding, TrainingPhaseManager
from phaseline.training.phases.runtime import PhaseRuntime
from unit.training.phases.phase_runtimes import (
    CountedUnits,
    RuntimeMaker,
    bare,
    finish_from,
    records_of,
)

SAMPLES = {"prompts": ["word1", "word2"], "max_new_tokens": 3, "temperature": 1.0}


class Fragile(Callback):
    def __init__(self, *, fails: bool) -> None:
        self._fails = fails

    def validation_ended(self, runtime: PhaseRuntime, metrics: Mapping[str, float]) -> None:
        if self._fails:
            raise ZeroDivisionError(f"at step {runtime.position.phase_step} of {metrics}")


def make(maker: RuntimeMaker, failing: str = "") -> PhaseRuntime:
    runtime = maker.make(
        callbacks=[Fragile(fails=failing == "callback")],
        evaluate={"samples": SAMPLES},
        checkpoint={"every": "4 steps"},
    )
    runtime.metrics = (CountedUnits("sums" if failing == "metric" else ""),)

    def write(inputs: torch.Tensor, **_: Any) -> torch.Tensor:
        if failing == "samples":
            raise ZeroDivisionError("a sample")
        return torch.cat([inputs, torch.randint(97, 123, (1, 3))], dim=1)

    module: Any = runtime.engine.module
    module.generate, module.config = write, SimpleNamespace()
    return runtime


@pytest.mark.parametrize("failing", ["metric", "callback", "samples"])
def test_no_step_is_lost_when_user_code_fails_after_the_last_one(
    maker: RuntimeMaker, failing: str
) -> None:
    whole, failed, resumed = make(maker), make(maker, failing), make(maker)
    assert TrainingPhaseManager(runtime=whole).run() is PhaseEnding.FINISHED
    with pytest.raises(ZeroDivisionError):
        TrainingPhaseManager(runtime=failed).run()
    folder = list_published(failed.store.folder)[-1]
    saved = verify(folder)
    assert folder.name == "step-00000006-trained.a0002"
    assert (saved.phase_step, saved.final, dict(saved.validation)) == (6, False, {})
    finish_from(folder, resumed, whole)
    [published] = list_published(resumed.store.folder)
    assert verify(published).final
    # What was recorded after the saved step is not committed with it.
    [committed] = [part.lines for part in saved.committed if part.attempt == failed.attempt]
    recorded = [*records_of(failed)[:committed], *records_of(resumed)]
    assert list(map(bare, recorded)) == list(map(bare, records_of(whole)))


def test_phase_that_ends_keeps_one_checkpoint_of_its_last_step(maker: RuntimeMaker) -> None:
    runtime = make(maker)
    assert TrainingPhaseManager(runtime=runtime).run() is PhaseEnding.FINISHED
    names = [path.name for path in list_published(runtime.store.folder)]
    assert names == ["step-00000004.a0002", "step-00000006.a0002"]
