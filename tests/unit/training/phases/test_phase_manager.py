from __future__ import annotations

import itertools
import re
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from phaseline.checkpoint.manifest import list_published, verify
from phaseline.checkpoint.reader import CheckpointReader, load_engine
from phaseline.checkpoint.store import SavedReport
from phaseline.errors import AnomalyError
from phaseline.objectives.base import TokenBatch
from phaseline.objectives.causal_lm import CausalLM
from phaseline.resilience.save_timer import SaveTimer
from phaseline.resilience.stop import StopVote
from phaseline.resilience.stop_flag import StopFlag
from phaseline.tracking.metric_keys import CATALOGUE, DEVICE_PEAK_BYTES, DEVICE_RESERVED_BYTES
from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.phase_manager import PhaseEnding, TrainingPhaseManager
from phaseline.training.phases.runtime import PhaseRuntime
from phaseline.training.phases.schedule import Schedule
from unit.training.phases.phase_runtimes import RuntimeMaker, records_of, seen, weights_of


class Log(Callback):
    def __init__(self, flag: StopFlag | None = None, stop_at: int = 0) -> None:
        self.told: list[str] = []
        self._flag, self._stop_at = flag, stop_at

    def phase_started(self, runtime: PhaseRuntime) -> None:
        self.told.append(f"started {runtime.position.phase_step}")

    def step_ended(self, runtime: PhaseRuntime) -> None:
        self.told.append(f"step {runtime.position.phase_step}")
        if self._flag is not None and runtime.position.phase_step == self._stop_at:
            self._flag.set()

    def validation_ended(self, runtime: PhaseRuntime, metrics: Mapping[str, float]) -> None:
        assert metrics["only/validation/loss"] == runtime.position.validation_loss
        self.told.append(f"validated {runtime.position.phase_step}")

    def checkpoint_saved(self, runtime: PhaseRuntime, report: SavedReport, *, final: bool) -> None:
        folder = report.folder
        assert folder.parent == runtime.store.folder
        self.told.append(f"saved {folder.name}{' final' if final else ''}")

    def phase_ended(self, runtime: PhaseRuntime, *, finished: bool) -> None:
        assert not finished or runtime.position.phase_step == runtime.plan.num_steps
        self.told.append("finished" if finished else "stopped")


class Poisoned(CausalLM):
    """Losses that are not finite at some calls."""

    def __init__(self, calls: set[int]) -> None:
        self._calls, self._count = calls, itertools.count()

    def token_losses(self, model: torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
        losses = super().token_losses(model, batch)
        return losses * float("nan") if next(self._count) in self._calls else losses


def test_phase_does_everything_in_its_order_when_it_finishes(maker: RuntimeMaker) -> None:
    log = Log()
    runtime = maker.make(
        callbacks=[log],
        evaluate={"every": "2 steps", "at_start": True},
        checkpoint={"every": "3 steps", "asynchronous": False},
    )
    assert TrainingPhaseManager(runtime=runtime).run() is PhaseEnding.FINISHED
    assert log.told == [
        "started 0", "validated 0", "step 1", "step 2", "validated 2", "step 3",
        "saved step-00000003.a0002", "step 4", "validated 4", "step 5", "step 6",
        "saved step-00000006-trained.a0002", "validated 6",
        "saved step-00000006.a0002 final", "finished",
    ]  # fmt: skip
    assert [(r["kind"], r["phase_step"]) for r in records_of(runtime)] == [
        ("validation", 0), ("train", 1), ("train", 2), ("validation", 2), ("train", 3),
        ("train", 4), ("validation", 4), ("train", 5), ("train", 6), ("validation", 6),
    ]  # fmt: skip


def test_phase_saves_by_the_clock_and_is_trained_to_the_same_bits(maker: RuntimeMaker) -> None:
    whole = maker.make(checkpoint={"every": None})
    TrainingPhaseManager(runtime=whole).run()
    log = Log()
    runtime = maker.make(callbacks=[log], checkpoint={"every": "2 minutes", "asynchronous": False})
    assert (runtime.plan.checkpoint_s, runtime.plan.checkpoint.every) == (120.0, None)
    # A minute passes from one step to the next.
    clock = itertools.count(step=30).__next__
    runtime.stop = StopVote(StopFlag(), runtime.world, SaveTimer(120, clock=clock))
    TrainingPhaseManager(runtime=runtime).run()
    saved = [line for line in log.told if line.startswith("saved")]
    assert saved == [
        "saved step-00000004.a0002",
        "saved step-00000006-trained.a0002",
        "saved step-00000006.a0002 final",
    ]
    assert torch.equal(weights_of(runtime), weights_of(whole))


def test_phase_records_every_step_with_its_learning_rate_and_counters(maker: RuntimeMaker) -> None:
    runtime = maker.make()
    runtime.position.global_step, runtime.position.tokens = 50, 1000
    TrainingPhaseManager(runtime=runtime).run()
    train = [record for record in records_of(runtime) if record["kind"] == "train"]
    rates = [record["metrics"]["only/train/lr"] for record in train]
    assert rates == [runtime.plan.learning_rate(update) for update in range(1, 7)]
    assert rates[-1] == 0.01 * 0.1
    assert [record["global_step"] for record in train] == [51, 52, 53, 54, 55, 56]
    assert [record["tokens"] for record in train] == [1000 + 128 * n for n in range(1, 7)]
    losses = [record["metrics"]["only/train/loss"] for record in train]
    assert losses[-1] < losses[0]


def test_phase_saves_and_ends_when_it_is_asked_to_stop_and_goes_on_bit_for_bit(
    maker: RuntimeMaker,
) -> None:
    whole = maker.make()
    TrainingPhaseManager(runtime=whole).run()

    flag = StopFlag()
    log = Log(flag, stop_at=3)
    runtime = maker.make(callbacks=[log], stop_flag=flag)
    assert TrainingPhaseManager(runtime=runtime).run() is PhaseEnding.STOPPED
    assert log.told[-2:] == ["saved step-00000003.a0002", "stopped"]
    [folder] = list_published(runtime.store.folder)
    manifest = verify(folder)
    assert (manifest.final, manifest.phase_step) == (False, 3)
    assert [(part.attempt, part.lines) for part in manifest.committed] == [(1, 3), (2, 3)]
    # The screen ends at the step that is saved, though metrics were last read at another one.
    assert seen(runtime).progress[-1].step == 3
    assert seen(runtime).notes[-1] == "only: saving at step 3"

    resumed = resume(folder, maker.make())
    assert TrainingPhaseManager(runtime=resumed).run() is PhaseEnding.FINISHED
    assert torch.equal(weights_of(resumed), weights_of(whole))
    first, rest = records_of(runtime), records_of(resumed)
    assert [_bare(r) for r in first + rest] == [_bare(r) for r in records_of(whole)]


def test_phase_says_that_a_second_press_leaves_at_once_when_ctrl_c_stops_it(
    maker: RuntimeMaker,
) -> None:
    flag = StopFlag()
    flag.set(signal.SIGINT)
    runtime = maker.make(stop_flag=flag)
    assert TrainingPhaseManager(runtime=runtime).run() is PhaseEnding.STOPPED
    [note] = [note for note in seen(runtime).notes if "saving" in note]
    assert note == "only: saving at step 1; Ctrl-C twice in 2 s leaves at once, without it"


def test_phase_shows_its_first_step_and_then_slow_ones_between_readings(
    maker: RuntimeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = maker.make(duration="8 steps")
    runtime.plan = replace(runtime.plan, reading=Schedule(100))
    monkeypatch.setattr(runtime.clock, "is_silent", lambda: runtime.position.phase_step == 5)
    TrainingPhaseManager(runtime=runtime).run()
    shown = [(one.step, one.is_read) for one in seen(runtime).progress]
    assert shown == [(1, True), (2, True), (4, True), (5, False), (8, True), (8, True)]


@pytest.mark.parametrize("micro_size", [1, 2, 8])
def test_losses_do_not_depend_on_the_micro_batch(maker: RuntimeMaker, micro_size: int) -> None:
    def losses(size: int) -> list[float]:
        runtime = maker.make(dropout=0.0, batch={"global_size": 8, "micro_size": size})
        TrainingPhaseManager(runtime=runtime).run()
        return [r["metrics"].get("only/train/loss", 0.0) for r in records_of(runtime)]

    assert losses(micro_size) == pytest.approx(losses(4), rel=1e-5)


def test_order_of_bases_does_not_matter(maker: RuntimeMaker) -> None:
    body = {
        name: value
        for name, value in vars(TrainingPhaseManager).items()
        if name not in ("__dict__", "__weakref__")
    }
    found: list[torch.Tensor] = []
    for bases in itertools.permutations(TrainingPhaseManager.__bases__):
        permuted: type[TrainingPhaseManager] = type("Permuted", bases, dict(body))
        runtime = maker.make(duration="3 steps")
        assert permuted(runtime=runtime).run() is PhaseEnding.FINISHED
        found.append(weights_of(runtime))
    assert len(found) == 6
    assert all(torch.equal(weights, found[0]) for weights in found)


def test_step_is_left_out_and_recorded_when_its_gradient_is_not_finite(
    maker: RuntimeMaker,
) -> None:
    runtime = maker.make(objective=Poisoned({2}))  # the first micro-step of the second step
    assert TrainingPhaseManager(runtime=runtime).run() is PhaseEnding.FINISHED
    assert runtime.position.skipped_steps == 1
    train = [
        r["metrics"]["only/train/skipped"] for r in records_of(runtime) if r["kind"] == "train"
    ]
    assert train == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert bool(torch.isfinite(weights_of(runtime)).all())


def test_phase_is_stopped_when_updates_are_left_out_too_often_in_a_row(
    maker: RuntimeMaker,
) -> None:
    runtime = maker.make(objective=Poisoned(set(range(4, 100))), checkpoint={"every": "1 steps"})
    with pytest.raises(AnomalyError, match=r"only step 5: .* 3 times in a row .*max_skipped_steps"):
        TrainingPhaseManager(runtime=runtime).run()
    assert len(records_of(runtime)) == 5
    assert sum("not finite, update left out" in note for note in seen(runtime).notes) == 3
    assert bool(torch.isfinite(weights_of(runtime)).all())


def test_validation_changes_nothing_that_is_trained(maker: RuntimeMaker) -> None:
    often = maker.make(evaluate={"every": "1 steps", "at_start": True})
    never = maker.make()
    for runtime in (often, never):
        TrainingPhaseManager(runtime=runtime).run()
    assert torch.equal(weights_of(often), weights_of(never))


def test_validation_is_the_same_whatever_its_micro_size(maker: RuntimeMaker) -> None:
    def validate(micro_size: int) -> dict[str, float]:
        runtime = maker.make(evaluate={"micro_size": micro_size, "position_ranges": ["4-7"]})
        metrics = TrainingPhaseManager(runtime=runtime).validate()
        assert metrics is not None
        assert runtime.position.validation_loss == metrics["only/validation/loss"]
        return metrics

    first, second = validate(1), validate(7)
    assert list(first) == [
        "only/validation/loss",
        "only/validation/perplexity",
        "only/validation/bits_per_byte",
        "only/validation/loss_at_4_to_7",
    ]
    assert first == pytest.approx(second, rel=1e-6)


def resume(folder: Path, runtime: PhaseRuntime) -> PhaseRuntime:
    """The runtime, going on from a checkpoint."""
    with CheckpointReader(folder) as reader:
        load_engine(reader, runtime.engine, dp_rank=0)
        runtime.stateful.load_state_dict(reader.state["stateful"])
    return runtime


def _bare(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "timing"}


def test_losses_and_epochs_are_recorded_for_each_source_of_a_mixture(maker: RuntimeMaker) -> None:
    sources = [
        {"source": "text_files", "arguments": {"paths": ["corpus/0*.txt"]}, "weight": 3},
        {"source": "text_files", "arguments": {"paths": ["corpus/1*.txt"]}, "weight": 1},
    ]
    data = {"sources": sources, "sequence_length": 16, "held_out_frac": 0.3}
    runtime = maker.make(data=data, evaluate={"at_start": True})
    TrainingPhaseManager(runtime=runtime).run()
    records = records_of(runtime)
    names = ("text_files_0", "text_files_1")
    for record in (record for record in records if record["kind"] == "train"):
        metrics, step = record["metrics"], record["phase_step"]
        counts = runtime.data.unit_counts(step - 1, "tokens")
        parts = [metrics[f"only/train/loss_{name}"] for name in names]
        mean = sum(loss * count for loss, count in zip(parts, counts, strict=True)) / counts.sum()
        assert metrics["only/train/loss"] == pytest.approx(mean, rel=1e-6)
        epochs = [metrics[f"only/train/epochs_{name}"] for name in names]
        assert epochs == runtime.data.epochs(step)
    validations = [record["metrics"] for record in records if record["kind"] == "validation"]
    assert len(validations) == 2
    assert all(f"only/validation/loss_{name}" in found for found in validations for name in names)
    last = runtime.data.epochs(6)
    assert f"only: {last[0]:.2f} epochs of text_files_0, {last[1]:.2f} epochs of text_files_1" in (
        seen(runtime).notes
    )


def test_phase_records_only_metrics_that_the_catalogue_describes(maker: RuntimeMaker) -> None:
    runtime = maker.make(
        evaluate={"every": "2 steps", "position_ranges": ["0-3"]},
        checkpoint={"every": "2 steps"},
    )
    TrainingPhaseManager(runtime=runtime).run()
    found: dict[bool, set[str]] = {False: set(), True: set()}
    for record in records_of(runtime):
        found[False] |= set(record["metrics"])
        found[True] |= set(record["timing"]) - {"time"}
    on_gpus = {DEVICE_PEAK_BYTES, DEVICE_RESERVED_BYTES}
    for is_timing, recorded in found.items():
        described = {
            metric.key("only")
            for metric in CATALOGUE
            if metric.is_timing is is_timing
            and metric not in on_gpus
            and metric.group != "samples"
            and "SOURCE" not in metric.name
            and not metric.objective
        }
        assert {re.sub(r"at_\d+_to_\d+", "at_A_to_B", key) for key in recorded} == described
