"""Turning what was measured into records."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from phaseline.distributed.guards import main_process_only
from phaseline.tracking import metric_keys as keys
from phaseline.training.phases.interval import timing_of
from phaseline.training.phases.meter import largest, spread
from phaseline.training.phases.mixins.host import PhaseHost
from phaseline.training.phases.step_metrics import StepRow

_OF_EVERY_STEP = (
    keys.LOSS,
    keys.LR,
    keys.WEIGHT_DECAY,
    keys.GRAD_NORM,
    keys.SKIPPED,
    keys.SKIPPED_STEPS,
)


class MetricsMixin(PhaseHost):
    """Reads kept metrics and writes records.

    **Needs:** step metrics, meter, recorder, position, clock, data. **Gives:** lines in the attempt's
    metrics file. **Ranks:** all. **Collectives:** `flush_metrics` only.
    """

    def flush_metrics(self) -> list[StepRow]:
        """Reads every step since the last time and records each. One collective."""
        runtime = self.runtime
        if runtime.step_metrics.is_empty:
            return []
        mine = runtime.meter.read(stall_s=runtime.store.stall_s)
        rows = runtime.step_metrics.drain(spread(mine, runtime.world))
        gauges = largest(runtime.step_metrics.beside)
        runtime.clock.update(rows[-1].phase_step, gauges)
        values = self._train_metrics(rows)
        runtime.last_metrics = values[-1]
        runtime.last_timing = timing_of(runtime, gauges, len(rows))
        self._write_steps(rows, values)
        return rows

    @main_process_only
    def record(
        self,
        kind: str,
        metrics: Mapping[str, float],
        *,
        samples: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Writes one record at the present position."""
        position = self.runtime.position
        record = self._record_at(
            kind, (position.phase_step, position.global_step, position.tokens), metrics
        )
        record["timing"] = {
            "time": time.time(),
            f"{self.runtime.section.name}/{kind}/duration_s": (
                self.runtime.meter.evaluation_so_far_s
            ),
        }
        if samples is not None:
            record["samples"] = list(samples)
        self.runtime.recorder.append([record])

    @main_process_only
    def _write_steps(self, rows: Sequence[StepRow], metrics: Sequence[Mapping[str, float]]) -> None:
        records = []
        for row, values in zip(rows, metrics, strict=True):
            counters = (row.phase_step, row.global_step, row.tokens)
            record = self._record_at("train", counters, values)
            record["sample_ids"] = row.samples
            record["timing"] = {"time": row.ended}
            records.append(record)
        # Once, as it is of all these steps: repeated it would be most of the file.
        records[-1]["timing"] |= self.runtime.last_timing
        self.runtime.recorder.append(records)

    def _train_metrics(self, rows: Sequence[StepRow]) -> list[dict[str, float]]:
        runtime = self.runtime
        loss, lr, weight_decay, grad_norm, skipped, skipped_steps = (
            metric.key(runtime.section.name) for metric in _OF_EVERY_STEP
        )
        # Constant within a phase; groups that are not decayed have 0.
        decay = max(float(group.get("weight_decay", 0.0)) for group in runtime.engine.param_groups)
        num_skipped = runtime.position.skipped_steps - sum(row.skipped for row in rows)
        prefix = f"{runtime.section.name}/train"
        found = []
        for row in rows:
            num_skipped += row.skipped
            values = {
                loss: row.loss,
                lr: row.lr,
                weight_decay: decay,
                grad_norm: row.grad_norm,
                skipped: float(row.skipped),
                skipped_steps: float(num_skipped),
                **row.metrics_of(runtime.objective, prefix),
                **self._metrics_of_sources(row),
            }
            found.append(values)
        return found

    def _metrics_of_sources(self, row: StepRow) -> dict[str, float]:
        data, phase = self.runtime.data, self.runtime.section.name
        epochs = data.epochs(row.phase_step)
        if len(epochs) == 1:
            return {keys.EPOCHS.key(phase): epochs[0]}
        metrics = {}
        for name, loss, count in zip(data.source_names, row.source_losses, epochs, strict=True):
            metrics[keys.EPOCHS_OF.key(phase, source=name)] = count
            if loss is not None:
                metrics[keys.LOSS_OF.key(phase, source=name)] = loss
        return metrics

    def _record_at(
        self, kind: str, counters: tuple[int, int, int], metrics: Mapping[str, float]
    ) -> dict[str, Any]:
        phase_step, global_step, tokens = counters
        return {
            "kind": kind,
            "phase": self.runtime.section.name,
            "phase_step": phase_step,
            "global_step": global_step,
            "tokens": tokens,
            "metrics": metrics,
        }
