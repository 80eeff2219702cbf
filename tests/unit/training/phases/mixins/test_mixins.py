"""Each mixin with a host of four lines."""

from __future__ import annotations

import random
import time

import pytest
import torch

from phaseline.data.batch import Batch
from phaseline.distributed.engines import StepReport
from phaseline.training.phases.mixins import ComponentSetupMixin, MetricsMixin, ProgressMixin
from phaseline.training.phases.mixins.host import PhaseHost
from phaseline.training.phases.runtime import PhaseRuntime
from unit.training.phases.phase_runtimes import RuntimeMaker, records_of, seen


class Setup(ComponentSetupMixin):
    """Only this mixin."""


class Metrics(MetricsMixin):
    """Only this mixin."""


class Shown(ProgressMixin):
    """Only this mixin."""


@pytest.fixture
def runtime(maker: RuntimeMaker) -> PhaseRuntime:
    return maker.make()


@pytest.mark.parametrize("host", [PhaseHost, Setup, Metrics, Shown])
def test_host_is_refused_without_a_runtime(host: type[PhaseHost]) -> None:
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'runtime'"):
        host()  # type: ignore[call-arg]  # the point


def test_component_setup_changes_modes(runtime: PhaseRuntime) -> None:
    host = Setup(runtime=runtime)
    host.begin_evaluation()
    assert not runtime.engine.module.training
    host.begin_training()
    assert runtime.engine.module.training


def test_component_setup_seeds_every_micro_step_by_its_position(runtime: PhaseRuntime) -> None:
    host = Setup(runtime=runtime)

    def draw(step: int, micro_step: int) -> tuple[float, float]:
        host.seed_micro_step(step, micro_step)
        return random.random(), float(torch.rand(()))

    positions = [(0, 0), (0, 1), (1, 0)]
    first = [draw(*position) for position in positions]
    assert first == [draw(*position) for position in positions]
    assert len(set(first)) == 3
    runtime.phase_idx = 1
    assert draw(0, 0) not in first


def test_component_setup_fetches_the_micro_batch_of_a_position(runtime: PhaseRuntime) -> None:
    batch = Setup(runtime=runtime).fetch(3, 1)
    expected = runtime.data.micro_batch(3, 1, 0)
    assert isinstance(batch, Batch)
    assert isinstance(expected, Batch)
    assert torch.equal(batch.input_ids, expected.input_ids)
    assert torch.equal(batch.targets, expected.targets)


def add_steps(runtime: PhaseRuntime, count: int) -> None:
    for _ in range(count):
        runtime.position.advance(tokens=128, skipped=False)
        position = runtime.position
        runtime.step_metrics.add(
            torch.tensor(256.0),
            num_units=[128],
            lr=0.5,
            report=StepReport(1.5, False),
            counters=(position.phase_step, position.global_step, position.tokens),
        )


def test_metrics_flush_writes_every_step_once(runtime: PhaseRuntime) -> None:
    host = Metrics(runtime=runtime)
    add_steps(runtime, 2)
    assert [row.phase_step for row in host.flush_metrics()] == [1, 2]
    assert host.flush_metrics() == []
    first, second = records_of(runtime)
    assert set(first) == {
        "kind", "phase", "phase_step", "global_step", "tokens", "sample_ids", "metrics", "timing",
    }  # fmt: skip
    assert (second["kind"], second["phase"], second["phase_step"]) == ("train", "only", 2)
    assert (second["global_step"], second["tokens"]) == (2, 256)
    assert second["metrics"] == {
        "only/train/loss": 2.0,
        "only/train/lr": 0.5,
        "only/train/weight_decay": 0.1,
        "only/train/grad_norm": 1.5,
        "only/train/skipped": 0.0,
        "only/train/epochs": pytest.approx(runtime.data.epochs(2)[0]),
        "only/train/skipped_steps": 0.0,
    }
    assert runtime.last_metrics == second["metrics"]
    assert set(first["timing"]) == {"time"}
    assert {"time": second["timing"]["time"], **runtime.last_timing} == second["timing"]
    assert "only/train/data_wait_s" in second["timing"]


def test_metrics_count_the_skipped_steps_of_the_phase_up_to_each_step(
    runtime: PhaseRuntime,
) -> None:
    runtime.position.skipped_steps = 4
    for skipped in (False, True, False, True):
        runtime.position.advance(tokens=128, skipped=skipped)
        runtime.step_metrics.add(
            torch.tensor(1.0),
            num_units=[1],
            lr=0.5,
            report=StepReport(1.0, skipped),
            counters=(runtime.position.phase_step, 0, 0),
        )
    Metrics(runtime=runtime).flush_metrics()
    counts = [r["metrics"]["only/train/skipped_steps"] for r in records_of(runtime)]
    assert counts == [4, 5, 5, 6]


def test_metrics_time_the_steps_without_what_went_elsewhere(
    runtime: PhaseRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = [100.0]
    for clock in ("monotonic", "perf_counter"):
        monkeypatch.setattr(time, clock, lambda: moment[0])
    setup, host = Setup(runtime=runtime), Metrics(runtime=runtime)
    runtime.clock.update(0)
    setup.begin_evaluation()
    moment[0] += 5
    setup.begin_training()
    moment[0] += 2
    runtime.meter.data_wait_s += 0.5
    add_steps(runtime, 4)
    host.flush_metrics()
    timing = runtime.last_timing
    host_bytes = timing.pop("only/memory/host_bytes")
    assert host_bytes > 1e6
    # 4 steps of 8 rows and 128 tokens in 2 s; an evaluation of 5 s before them and one more at
    # the end, behind 2 steps.
    assert timing == {
        "only/train/step_s": 0.5,
        "only/train/tokens_per_s": 256.0,
        "only/train/tokens_per_s_per_device": 256.0,
        "only/train/samples_per_s": 16.0,
        "only/train/mfu": pytest.approx(256 * 1e6 / 1e12),
        "only/train/data_wait_s": 0.125,
        "only/train/save_stall_s": 0.0,
        "only/train/save_stall_frac": 0.0,
        "only/train/evaluation_s": 5.0,
        "only/train/phase_left_s": 6.0,
        "only/train/session_left_s": 6.0,
    }


def test_metrics_record_what_an_evaluation_took(
    runtime: PhaseRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: moment[0])
    Setup(runtime=runtime).begin_evaluation()
    moment[0] += 7
    Metrics(runtime=runtime).record("validation", {})
    [record] = records_of(runtime)
    assert record["timing"]["only/validation/duration_s"] == 7


def test_metrics_record_stands_at_the_present_position(runtime: PhaseRuntime) -> None:
    host = Metrics(runtime=runtime)
    runtime.position.advance(tokens=128, skipped=False)
    host.record("validation", {"only/validation/loss": 1.0})
    host.record("samples", {"only/samples/count": 1.0}, samples=[{"prompt": "a"}])
    validation, samples = records_of(runtime)
    assert (validation["kind"], validation["phase_step"], validation["tokens"]) == (
        "validation", 1, 128,
    )  # fmt: skip
    assert "samples" not in validation
    assert samples["samples"] == [{"prompt": "a"}]


def test_metrics_write_nothing_when_on_another_rank(runtime: PhaseRuntime) -> None:
    class Elsewhere(MetricsMixin):
        is_main = False

    host = Elsewhere(runtime=runtime)
    add_steps(runtime, 1)
    host.record("validation", {})
    assert len(host.flush_metrics()) == 1
    assert records_of(runtime) == []


def test_progress_announces_the_phase_and_shows_where_it_stands(runtime: PhaseRuntime) -> None:
    host = Shown(runtime=runtime)
    host.announce_phase()
    [banner] = seen(runtime).banners
    assert (banner.name, banner.idx, banner.num_phases, banner.num_steps) == ("only", 0, 1, 6)
    assert banner.description == "causal_lm, plain, 8 x 16 tokens a step on 1 rank(s)"
    host.show_progress()
    runtime.position.advance(tokens=128, skipped=False)
    runtime.last_metrics = {"only/train/loss": 2.0, "only/train/lr": 0.5}
    host.show_progress()
    before, after = seen(runtime).progress
    assert (before.step, before.loss, before.tokens_per_s) == (0, None, None)
    assert (after.step, after.num_steps, after.loss, after.lr) == (1, 6, 2.0, 0.5)
    host.say("a word")
    assert seen(runtime).notes == ["a word"]


def test_progress_shows_nothing_when_on_another_rank(runtime: PhaseRuntime) -> None:
    class Elsewhere(ProgressMixin):
        is_main = False

    host = Elsewhere(runtime=runtime)
    host.announce_phase()
    host.show_progress()
    host.say("a word")
    display = seen(runtime)
    assert (display.banners, display.progress, display.notes) == ([], [], [])
