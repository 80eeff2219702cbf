"""Each mixin with a host of four lines."""

from __future__ import annotations

import random

import pytest
import torch

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
    assert torch.equal(batch.input_ids, expected.input_ids)
    assert torch.equal(batch.targets, expected.targets)


def add_steps(runtime: PhaseRuntime, count: int) -> None:
    for _ in range(count):
        runtime.position.advance(tokens=128, skipped=False)
        position = runtime.position
        runtime.step_metrics.add(
            torch.tensor(256.0),
            num_targets=[128],
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
        "kind", "phase", "phase_step", "global_step", "tokens", "metrics", "timing",
    }  # fmt: skip
    assert (second["kind"], second["phase"], second["phase_step"]) == ("train", "only", 2)
    assert (second["global_step"], second["tokens"]) == (2, 256)
    assert second["metrics"] == {
        "only/train/loss": 2.0,
        "only/train/lr": 0.5,
        "only/train/grad_norm": 1.5,
        "only/train/skipped": 0.0,
        "only/train/epochs": pytest.approx(runtime.data.epochs(2)[0]),
    }
    assert runtime.last_metrics == second["metrics"]
    assert set(second["timing"]) == {"time", "only/train/tokens_per_s"}


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
