from __future__ import annotations

import json
from pathlib import Path

import pytest

from phaseline.config.tracking_section import ProfileSection
from phaseline.resilience.stop_flag import StopFlag
from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.phase_manager import TrainingPhaseManager
from phaseline.training.phases.profiling import PhaseProfiler
from phaseline.training.phases.runtime import PhaseRuntime
from unit.training.phases.phase_runtimes import RuntimeMaker, records_of, seen

STEM = "only-steps-3-4-rank-00000"


def _profiler(folder: Path, steps: str = "3-4") -> PhaseProfiler:
    return PhaseProfiler(ProfileSection(steps=steps), folder)


def _num_optimizer_steps(folder: Path, stem: str = STEM) -> int:
    trace = json.loads((folder / f"{stem}.trace.json").read_text())
    names = [event.get("name", "") for event in trace["traceEvents"]]
    return sum(name.startswith("Optimizer.step#") for name in names)


def test_profiler_writes_a_trace_and_a_snapshot_of_the_steps(
    maker: RuntimeMaker, tmp_path: Path
) -> None:
    folder = tmp_path / "profile"
    runtime = maker.make(callbacks=[_profiler(folder)])
    TrainingPhaseManager(runtime=runtime).run()
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{STEM}.memory.json",
        f"{STEM}.trace.json",
    ]
    assert _num_optimizer_steps(folder) == 2
    snapshot = json.loads((folder / f"{STEM}.memory.json").read_text())
    weight = runtime.engine.module.get_parameter("head.weight")
    kinds = {item["tensor"]: item["count"] for item in snapshot["tensors"]}
    # The weight and its two moments.
    assert kinds[f"float32 {list(weight.shape)}"] >= 3
    assert snapshot["total_bytes"] == sum(item["bytes"] for item in snapshot["tensors"])


def test_profiler_writes_what_there_is_when_the_phase_is_stopped_and_goes_on_when_resumed(
    maker: RuntimeMaker, tmp_path: Path
) -> None:
    flag = StopFlag()

    class StopAtThree(Callback):
        def step_ended(self, runtime: PhaseRuntime) -> None:
            if runtime.position.phase_step == 3:
                flag.set()

    first = maker.make(callbacks=[_profiler(tmp_path / "a", "2-5"), StopAtThree()], stop_flag=flag)
    TrainingPhaseManager(runtime=first).run()
    stem = STEM.replace("3-4", "2-5")
    assert _num_optimizer_steps(tmp_path / "a", stem) == 2
    second = maker.make(callbacks=[_profiler(tmp_path / "b", "2-5")])
    second.position.load_state_dict(first.position.state_dict())
    TrainingPhaseManager(runtime=second).run()
    assert _num_optimizer_steps(tmp_path / "b", stem) == 2


def test_profiler_only_says_so_when_nothing_can_be_written(
    maker: RuntimeMaker, tmp_path: Path
) -> None:
    (tmp_path / "profile").write_text("in the way")
    runtime = maker.make(callbacks=[_profiler(tmp_path / "profile")])
    TrainingPhaseManager(runtime=runtime).run()
    assert any("could not be written" in note for note in seen(runtime).notes)
    assert sum(record["kind"] == "train" for record in records_of(runtime)) == 6


@pytest.mark.parametrize("steps", ["0-3", "4-3", "3", "a-b", "3-"])
def test_profiled_steps_are_refused_when_they_are_no_range(steps: str) -> None:
    with pytest.raises(ValueError, match="it must be as '100-110', first to last, from step 1"):
        ProfileSection(steps=steps)


def test_profiler_leaves_out_the_validation_before_its_first_step(
    maker: RuntimeMaker, tmp_path: Path
) -> None:
    begun: list[bool] = []
    profiler = _profiler(tmp_path / "profile", "1-2")

    class SeeValidation(Callback):
        def validation_ended(self, runtime: PhaseRuntime, metrics: object) -> None:
            del runtime, metrics
            begun.append(profiler._profiler is not None)

    runtime = maker.make(callbacks=[profiler, SeeValidation()], evaluate={"at_start": True})
    TrainingPhaseManager(runtime=runtime).run()
    assert begun[0] is False
    assert _num_optimizer_steps(tmp_path / "profile", "only-steps-1-2-rank-00000") == 2
