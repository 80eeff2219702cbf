"""Turning what was measured into records."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from phaseline.data.batch import Batch
from phaseline.distributed.guards import main_process_only
from phaseline.training.phases.mixins.host import PhaseHost
from phaseline.training.phases.step_metrics import StepRow


class MetricsMixin(PhaseHost):
    """Reads kept metrics and writes records.

    **Needs:** step metrics, recorder, position, clock, data. **Gives:** lines in the attempt's
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

    def loss_by_source(
        self, loss: torch.Tensor, token_losses: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        """Returns the summed loss of each source, detached; of a single one it is `loss`.

        Args:
            loss: The sum of all. Scalar.
            token_losses: Loss of every target. [batch, sequence]
            batch: The batch that they belong to.
        """
        if batch.source_ids is None:
            return loss.detach()
        sources = torch.arange(len(self.runtime.data.source_names), device=loss.device)
        is_of_source = batch.source_ids == sources.unsqueeze(1)
        return torch.where(is_of_source, token_losses.detach().sum(dim=1), 0.0).sum(dim=1)

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
                **self._metrics_of_sources(prefix, row),
            }
            for row in rows
        ]

    def _metrics_of_sources(self, prefix: str, row: StepRow) -> dict[str, float]:
        data = self.runtime.data
        epochs = data.epochs(row.phase_step)
        if len(epochs) == 1:
            return {f"{prefix}/epochs": epochs[0]}
        metrics = {}
        for name, loss, count in zip(data.source_names, row.source_losses, epochs, strict=True):
            metrics[f"{prefix}/epochs_{name}"] = count
            if loss is not None:
                metrics[f"{prefix}/loss_{name}"] = loss
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
