"""A phase that is stopped between two steps' work, and goes on as if it had not been."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from phaseline.checkpoint.manifest import list_published, verify
from phaseline.objectives.base import TokenBatch
from phaseline.objectives.causal_lm import CausalLM
from phaseline.resilience.stop_flag import StopFlag
from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.phase_manager import PhaseEnding, TrainingPhaseManager
from phaseline.training.phases.position import Unfinished
from phaseline.training.phases.runtime import PhaseRuntime
from unit.training.phases.phase_runtimes import RuntimeMaker, finish_from, records_of

PHASE: dict[str, Any] = {
    "evaluate": {
        "every": "2 steps",
        "at_start": True,
        "micro_size": 1,
        "samples": {"prompts": ["word1", "word2", "word3"], "temperature": 1.0},
    }
}
NUM_HELD_OUT = 5
"""Held-out batches, at least."""


class Asking(Callback):
    """Sets a flag when a phase reaches a moment."""

    def __init__(self, flag: StopFlag, moment: str) -> None:
        self._flag, self._moment = flag, moment

    def phase_started(self, runtime: PhaseRuntime) -> None:
        assert runtime.position.phase_step == 0
        self._reach("start")

    def step_ended(self, runtime: PhaseRuntime) -> None:
        self._reach(f"step {runtime.position.phase_step}")

    def validation_ended(self, runtime: PhaseRuntime, metrics: Mapping[str, float]) -> None:
        assert metrics
        self._reach(f"validated {runtime.position.phase_step}")

    def _reach(self, moment: str) -> None:
        if moment == self._moment:
            self._flag.set()


class AskingObjective(CausalLM):
    """Sets a flag at one of its calls in evaluation mode."""

    def __init__(self, flag: StopFlag, call: int) -> None:
        self._flag, self._calls_left = flag, call

    def token_losses(self, model: torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
        self._calls_left -= not model.training
        if self._calls_left == 0:
            self._flag.set()
        return super().token_losses(model, batch)


def write(inputs: torch.Tensor, **arguments: Any) -> torch.Tensor:
    """Stands in for the model's own `generate`: draws tokens, until it is told to end."""
    [is_cut] = arguments["stopping_criteria"]
    for _ in range(6):
        inputs = torch.cat([inputs, torch.randint(97, 123, (1, 1))], dim=1)
        if bool(is_cut(inputs, None)):
            break
    return inputs


def make(maker: RuntimeMaker, **arguments: Any) -> PhaseRuntime:
    runtime = maker.make(**arguments, **PHASE)
    module: Any = runtime.engine.module
    module.generate, module.config = write, SimpleNamespace()
    assert runtime.data.held_out.num_batches(1, 1) >= NUM_HELD_OUT
    return runtime


def records(*runtimes: PhaseRuntime) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in record.items() if key != "timing"}
        for runtime in runtimes
        for record in records_of(runtime)
    ]


def require_same_end_when_resumed(maker: RuntimeMaker, stopped: PhaseRuntime) -> None:
    """A phase that goes on from where one was stopped ends as one that ran through."""
    whole, resumed = make(maker), make(maker)
    assert TrainingPhaseManager(runtime=whole).run() is PhaseEnding.FINISHED
    [folder] = list_published(stopped.store.folder)
    assert not verify(folder).final
    finish_from(folder, resumed, whole)
    assert resumed.position.unfinished is Unfinished.NOTHING
    assert records(stopped, resumed) == records(whole)
    [sampled] = resumed.samples_folder.iterdir()
    assert sampled.read_bytes() == (whole.samples_folder / sampled.name).read_bytes()


@pytest.mark.parametrize(
    ("moment", "step", "unfinished"),
    [
        ("start", 0, Unfinished.VALIDATION),
        ("validated 0", 1, Unfinished.NOTHING),
        ("step 2", 2, Unfinished.VALIDATION),
        ("validated 2", 2, Unfinished.NOTHING),
        ("step 3", 3, Unfinished.NOTHING),
        ("step 6", 6, Unfinished.VALIDATION),
        ("validated 6", 6, Unfinished.SAMPLES),
    ],
)
def test_phase_saves_where_it_is_when_it_is_asked_to_stop_and_goes_on_bit_for_bit(
    maker: RuntimeMaker, moment: str, step: int, unfinished: Unfinished
) -> None:
    flag = StopFlag()
    runtime = make(maker, callbacks=[Asking(flag, moment)], stop_flag=flag)
    assert TrainingPhaseManager(runtime=runtime).run() is PhaseEnding.STOPPED
    assert (runtime.position.phase_step, runtime.position.unfinished) == (step, unfinished)
    require_same_end_when_resumed(maker, runtime)


@pytest.mark.parametrize("call", [1, NUM_HELD_OUT - 1, NUM_HELD_OUT + 60])
def test_validation_is_left_between_two_batches_and_records_nothing(
    maker: RuntimeMaker, call: int
) -> None:
    flag = StopFlag()
    runtime = make(maker, objective=AskingObjective(flag, call), stop_flag=flag)
    assert TrainingPhaseManager(runtime=runtime).run() is PhaseEnding.STOPPED
    assert runtime.position.unfinished is Unfinished.VALIDATION
    require_same_end_when_resumed(maker, runtime)


def test_samples_are_left_in_the_middle_of_one_and_nothing_of_them_is_kept(
    maker: RuntimeMaker,
) -> None:
    flag = StopFlag()
    runtime = make(maker, stop_flag=flag)
    lengths: list[int] = []

    def write_and_ask(inputs: torch.Tensor, **arguments: Any) -> torch.Tensor:
        if lengths:
            flag.set()
        written = write(inputs, **arguments)
        lengths.append(written.shape[1] - inputs.shape[1])
        return written

    module: Any = runtime.engine.module
    module.generate = write_and_ask
    assert TrainingPhaseManager(runtime=runtime).run() is PhaseEnding.STOPPED
    assert runtime.position.unfinished is Unfinished.SAMPLES
    assert lengths == [6, 1]
    assert not runtime.samples_folder.exists()
    require_same_end_when_resumed(maker, runtime)


def test_phase_ends_without_samples_when_they_were_taken_out_while_it_was_stopped(
    maker: RuntimeMaker,
) -> None:
    runtime = maker.make()
    runtime.position.phase_step = 6
    runtime.position.unfinished = Unfinished.SAMPLES
    assert TrainingPhaseManager(runtime=runtime).run() is PhaseEnding.FINISHED
    assert runtime.position.unfinished is Unfinished.NOTHING
    assert records(runtime) == []
