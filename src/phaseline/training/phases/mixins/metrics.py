"""Turning what was measured into records."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from phaseline.distributed.guards import main_process_only
from phaseline.training.phases.mixins.host import PhaseHost
from phaseline.training.phases.step_metrics import StepRow


class MetricsMixin(PhaseHost):
    """Reads kept metrics and writes records.

    **Needs:** step metrics, recorder, position, clock. **Gives:** lines in the attempt's
    metrics file. **Ranks:** all. **Collectives:** `flush_metrics` only.
    """

    def flush_metrics(self) -> list[StepRow]:
        """Reads every step since the last time and records each. One collective."""
        runtime = self.runtime
        rows = runtime.step_metrics.drain()
        if rows:
            runtime.clock.update(rows[-1].phase_step)
            values = self._train_metrics(rows)
            runtime.last_metrics = values[-1]
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
        record["timing"] = {"time": time.time()}
        if samples is not None:
            record["samples"] = list(samples)
        self.runtime.recorder.append([record])

    @main_process_only
    def _write_steps(self, rows: Sequence[StepRow], metrics: Sequence[Mapping[str, float]]) -> None:
        speed_key = f"{self.runtime.section.name}/train/tokens_per_s"
        speed = self.runtime.clock.tokens_per_s
        records = []
        for row, values in zip(rows, metrics, strict=True):
            counters = (row.phase_step, row.global_step, row.tokens)
            record = self._record_at("train", counters, values)
            record["timing"] = {"time": row.ended, speed_key: speed}
            records.append(record)
        self.runtime.recorder.append(records)

    def _train_metrics(self, rows: Sequence[StepRow]) -> list[dict[str, float]]:
        prefix = f"{self.runtime.section.name}/train"
        loss, lr, grad_norm, skipped = (
            f"{prefix}/{name}" for name in ("loss", "lr", "grad_norm", "skipped")
        )
        return [
            {
                loss: row.loss,
                lr: row.lr,
                grad_norm: row.grad_norm,
                skipped: float(row.skipped),
            }
            for row in rows
        ]

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
