"""The training loop and the validation loop of one phase."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum

import torch

from phaseline.checkpoint.retention import Best
from phaseline.checkpoint.store import SavedPosition, SavedReport
from phaseline.config.sections import SamplesSection
from phaseline.errors import AnomalyError, CheckpointError
from phaseline.session.committed import CommittedLines
from phaseline.session.second_press import LEAVE_HINT
from phaseline.training.phases.held_out import HeldOutTotals
from phaseline.training.phases.mixins import ComponentSetupMixin, MetricsMixin, ProgressMixin
from phaseline.training.phases.position import Unfinished
from phaseline.training.phases.reference import StoredReference
from phaseline.training.phases.reference_pass import ReferencePass
from phaseline.training.phases.sampling import Sampler
from phaseline.training.phases.step_metrics import sums_of


class PhaseEnding(Enum):
    """How a phase's run in this process ended."""

    FINISHED = "finished"
    STOPPED = "stopped"


class TrainingPhaseManager(ComponentSetupMixin, MetricsMixin, ProgressMixin):
    """Trains one phase from where its position stands, and knows of no other phase.

    Every method runs on all ranks.
    """

    def run(self) -> PhaseEnding:
        """Trains until the phase is finished, or until the ranks agree to stop.

        Either way, everything is saved when it returns.

        Raises:
            AnomalyError: Updates were skipped too often in a row.
            CheckpointError: State could not be saved.
        """
        runtime = self.runtime
        self.announce_phase()
        runtime.clock.update(runtime.position.phase_step)
        runtime.callbacks.phase_started(runtime)
        ending = self._train()
        if ending is PhaseEnding.FINISHED:
            ending = self._finish()
        runtime.stop.close()
        if ending is PhaseEnding.STOPPED:
            self._show_stop()
        self.save(final=ending is PhaseEnding.FINISHED)
        self._report_saves(runtime.store.wait())
        runtime.callbacks.phase_ended(runtime, finished=ending is PhaseEnding.FINISHED)
        return ending

    def _show_stop(self) -> None:
        """Shows the step that is saved, which is not the one that was last read."""
        runtime = self.runtime
        self.flush_metrics()
        self.show_progress()
        hint = f"; Ctrl-C {LEAVE_HINT}, without it" if runtime.stop.is_by_hand else ""
        self.say(f"{runtime.section.name}: saving at step {runtime.position.phase_step:,}{hint}")

    def _train(self) -> PhaseEnding:
        runtime = self.runtime
        plan, position = runtime.plan, runtime.position
        if not runtime.reference.is_ready and not self._measure_reference():
            return PhaseEnding.STOPPED
        if self._is_validation_left() and self.validate() is None:
            return PhaseEnding.STOPPED
        self.begin_training()
        runtime.stop.begin()
        start = position.phase_step
        while position.phase_step < plan.num_steps:
            self.train_step()
            self.collect_saves()
            step = position.phase_step
            is_last = step == plan.num_steps
            if plan.reading.due_early(step, since=start):
                self.flush_metrics()
                self.show_progress()
            elif runtime.clock.is_silent():
                self.show_progress()
            is_best = False
            if plan.validation.due(step) and not is_last:
                if self.validate(between_steps=True) is None:
                    return PhaseEnding.STOPPED
                is_best = self._is_best()
                self.begin_training()
                runtime.stop.begin()
            if runtime.stop.agreed() and not is_last:
                return PhaseEnding.STOPPED
            is_due = is_best or plan.checkpoint.due(step) or runtime.stop.save_is_due()
            if is_due and not is_last:
                self.save(final=False)
        if position.phase_step > start:
            self._save_before_end()
        return PhaseEnding.FINISHED

    def train_step(self) -> None:
        """One optimizer step: fetch, forward, backward, set the learning rate, step, report."""
        runtime = self.runtime
        engine, position, world = runtime.engine, runtime.position, runtime.world
        runtime.callbacks.step_began(runtime)
        step = position.phase_step
        num_units = runtime.data.unit_counts(step, runtime.objective.normaliser).tolist()
        # The engine averages over ranks; the loss is a sum over units, as targets, divided once
        # by the units of the whole global batch. So neither ranks nor ragged rows weigh in.
        scale = world.dp_world_size / sum(num_units)
        num_micro_steps = runtime.layout.accumulation_steps
        sums: list[torch.Tensor] = []
        for micro_step in range(num_micro_steps):
            batch = self.fetch(step, micro_step)
            self.seed_micro_step(step, micro_step)
            engine.begin_micro_step(is_last=micro_step == num_micro_steps - 1)
            losses = runtime.objective.losses(engine.model, batch)
            loss = losses.values.sum()
            engine.backward(loss * scale)
            sums.append(sums_of(loss, losses, batch.source_ids, len(num_units)))
        lr = runtime.plan.learning_rate(step + 1)
        for group in engine.param_groups:
            group["lr"] = lr
        report = engine.step()
        position.advance(tokens=runtime.plan.tokens_per_step, skipped=report.skipped)
        runtime.step_metrics.add(
            sum(sums[1:], sums[0]),
            num_units=num_units,
            lr=lr,
            report=report,
            counters=(position.phase_step, position.global_step, position.tokens),
            samples=runtime.data.samples_digest(step) if self.is_main else "",
        )
        runtime.callbacks.step_ended(runtime)
        if report.skipped:
            self._require_progress()

    def _measure_reference(self) -> bool:
        """What the policy says before it is trained; False: the ranks agreed to stop."""
        runtime = self.runtime
        assert isinstance(runtime.reference, StoredReference)
        assert runtime.position.phase_step == 0
        counts = [sum(runtime.data.num_pairs(side)) for side in ("train", "held_out")]
        self.say(
            f"{runtime.section.name}: measuring the reference on {counts[0]:,} pairs that are "
            f"trained on and {counts[1]:,} that are held out, once"
        )
        self.begin_evaluation()
        tables = ReferencePass(runtime).run()
        if tables is None:
            return False
        runtime.reference.fill(tables)
        if self.is_main:
            runtime.reference.publish()
        return True

    def _is_validation_left(self) -> bool:
        """Whether held-out data is looked at before the next step: at the start, or again.

        What is left after the last step is `_finish`'s.
        """
        position, evaluate = self.runtime.position, self.runtime.section.evaluate
        is_due = evaluate.at_start and position.phase_step == 0
        is_before_a_step = position.phase_step < self.runtime.plan.num_steps
        return is_before_a_step and (is_due or position.unfinished is Unfinished.VALIDATION)

    def validate(self, *, between_steps: bool = False) -> dict[str, float] | None:
        """Looks at all held-out data once, records the losses and returns them.

        None: the ranks agreed to stop. Then nothing is recorded, and the position says that
        it is to be done again.

        Args:
            between_steps: Whether steps may be lost: if a metric of the user's fails, they are
                saved, and what it raised is raised then.
        """
        runtime = self.runtime
        self.flush_metrics()
        self.begin_evaluation()
        runtime.position.unfinished = Unfinished.VALIDATION
        runtime.stop.begin()
        world, held_out = runtime.world, runtime.data.held_out
        position, evaluate = runtime.position, runtime.section.evaluate
        micro_size = evaluate.micro_size or runtime.section.batch.micro_size
        totals = HeldOutTotals.of(runtime)
        with torch.no_grad():
            for idx in range(held_out.num_batches(world.dp_world_size, micro_size)):
                if runtime.stop.agreed():
                    return None
                totals.look(runtime.engine.model, self.fetch_held_out(idx, micro_size))
        prefix = f"{runtime.section.name}/validation"
        try:
            metrics = totals.metrics(prefix, world)
        except Exception:
            if between_steps and totals.metric_has_failed:
                self._save_before_failure()
            raise
        position.validation_loss = metrics[f"{prefix}/loss"]
        position.unfinished = Unfinished.NOTHING
        position.validation = {
            key.removeprefix(f"{prefix}/"): value
            for key, value in metrics.items()
            if math.isfinite(value)
        }
        self._note_best()
        self.record("validation", metrics)
        runtime.callbacks.validation_ended(runtime, metrics)
        shown = ", ".join(
            f"{key.rpartition('/')[2].replace('_', ' ')} {value:.4f}"
            for key, value in metrics.items()
        )
        self.say(f"{runtime.section.name} step {position.phase_step}: validation {shown}")
        return metrics

    def _save_before_end(self) -> None:
        """Publishes the last step before user code may fail in the last validation or samples."""
        self.save(final=False, before_end=True)
        self._report_saves(self.runtime.store.wait())

    def _save_before_failure(self) -> None:
        """Saves what is whole on every rank; the validation is done again by the next start."""
        name, step = self.runtime.section.name, self.runtime.position.phase_step
        try:
            self.save(final=False)
            self._report_saves(self.runtime.store.wait())
        except CheckpointError as error:
            self.say(f"{name}: step {step:,} could not be saved: {error}")
            return
        self.say(f"{name}: a metric of the validation failed; step {step:,} is saved")

    def save(self, *, final: bool, before_end: bool = False) -> None:
        """Saves everything that is needed to go on from here; it is written behind the loop.

        Args:
            final: Whether the phase is finished.
            before_end: Whether its steps are, and nothing else.
        """
        runtime = self.runtime
        self.flush_metrics()
        runtime.stop.note_saved()
        position = runtime.position
        runtime.store.save(
            runtime.engine,
            SavedPosition(
                phase=runtime.section.name,
                phase_step=position.phase_step,
                global_step=position.global_step,
                tokens=position.tokens,
                final=final,
                committed=(
                    *runtime.committed,
                    CommittedLines(runtime.attempt, *runtime.recorder.written),
                ),
                validation=position.validation,
            ),
            {"stateful": runtime.stateful.state_dict()},
            before_end=before_end,
            # The manifest counts these lines, so they must outlive a reboot that it outlives.
            before_publishing=runtime.recorder.sync,
        )
        if not runtime.section.checkpoint.asynchronous:
            self._report_saves(runtime.store.wait())

    def collect_saves(self) -> None:
        """Takes note of what was published since the last step edge; waits for nothing."""
        self._report_saves(self.runtime.store.collect())

    def _report_saves(self, reports: Sequence[SavedReport]) -> None:
        for report in reports:
            self.runtime.callbacks.checkpoint_saved(
                self.runtime, report, final=report.position.final
            )
            if report.problem is not None:
                self.say(f"{report.folder.name} is saved, but {report.problem}")

    def _note_best(self) -> None:
        section, position = self.runtime.section.checkpoint.keep_best, self.runtime.position
        value = None if section is None else position.validation.get(section.metric)
        if section is None or value is None:
            return
        if Best(section.metric, section.mode).is_better(value, position.best_validation):
            position.best_validation = value

    def _is_best(self) -> bool:
        """Whether the validation at this step was the best so far, by what is kept."""
        section, position = self.runtime.section.checkpoint.keep_best, self.runtime.position
        if section is None or position.best_validation is None:
            return False
        return position.validation.get(section.metric) == position.best_validation

    def _finish(self) -> PhaseEnding:
        """What a phase does once after its last step, before its last checkpoint."""
        runtime = self.runtime
        position, section = runtime.position, runtime.section.evaluate.samples
        # It was looked at where a checkpoint's step has become the last one.
        is_validated = position.unfinished is Unfinished.SAMPLES or bool(position.validation)
        is_cut_off = position.unfinished is Unfinished.VALIDATION
        if (is_cut_off or not is_validated) and self.validate() is None:
            return PhaseEnding.STOPPED
        if section is not None and not self._write_samples(section):
            return PhaseEnding.STOPPED
        position.unfinished = Unfinished.NOTHING
        self.show_progress()
        self.show_epochs()
        return PhaseEnding.FINISHED

    def _write_samples(self, section: SamplesSection) -> bool:
        """Records what the model writes; False: the ranks agreed to stop, nothing is recorded."""
        runtime = self.runtime
        self.begin_evaluation()
        runtime.position.unfinished = Unfinished.SAMPLES
        runtime.stop.begin()
        written = Sampler(runtime, section).run()
        if written is None:
            return False
        metrics, samples = written
        self.record("samples", metrics, samples=samples)
        key = f"{runtime.section.name}/samples/python_valid_frac"
        if key in metrics:
            self.say(
                f"{runtime.section.name}: {metrics[key]:.0%} of {len(samples)} generated "
                "functions parse"
            )
        return True

    def _require_progress(self) -> None:
        position, limit = self.runtime.position, self.runtime.resilience.max_skipped_steps
        self.say(f"step {position.global_step}: the gradient is not finite, update left out")
        if position.skipped_in_a_row >= limit:
            self.flush_metrics()
            raise AnomalyError(
                f"{self.runtime.section.name} step {position.phase_step}: the gradient was not "
                f"finite {position.skipped_in_a_row} times in a row "
                f"(resilience.max_skipped_steps is {limit}). The last checkpoint is kept; lower "
                "optimizer.lr, lengthen schedule.warmup or set optimizer.clip_norm."
            )
