"""Losses on held-out data, every example once, whatever the batch size and the ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from phaseline.data.batch import AnyBatch, Batch
from phaseline.distributed.world import World
from phaseline.objectives.base import IGNORED_TARGET, Losses, Objective
from phaseline.objectives.validation_metric import LogitsTap, Seen, ValidationMetric
from phaseline.training.phases.held_out_metrics import HeldOutMetrics
from phaseline.training.phases.runtime import PhaseRuntime

_ALWAYS = ("loss", "perplexity", "bits_per_byte", "duration_s")
_MOST_EXPONENT = 700.0  # of what a float holds


class HeldOutTotals:
    """Sums over units, as targets, on the device; the means are taken once, over all ranks."""

    def __init__(
        self,
        objective: Objective,
        token_bytes: torch.Tensor,
        position_ranges: Sequence[str],
        source_names: Sequence[str],
        device: torch.device,
        metrics: Sequence[ValidationMetric] = (),
    ) -> None:
        """Starts at zero.

        Args:
            objective: What the losses are of.
            token_bytes: Bytes that each token stands for. [vocabulary], int
            position_ranges: As `512-1023`; their losses are also reported alone. Positions are
                those that the model sees: where documents are kept apart, in the document.
            source_names: Of each source; if there are several, their losses are also reported.
            device: Where batches lie.
            metrics: The user's own.
        """
        self._metrics = HeldOutMetrics(metrics)
        self._objective = objective
        self._counts_tokens = objective.normaliser == "tokens"
        self._token_bytes = token_bytes.to(device=device, dtype=torch.float64)
        self._source_keys = [f"loss_{name}" for name in source_names if len(source_names) > 1]
        self._range_keys = [f"loss_at_{item.replace('-', '_to_')}" for item in position_ranges]
        self._bounds = [
            (int(first), int(last) + 1)
            for first, last in (item.split("-") for item in position_ranges)
        ]
        num_parts = 1 + len(self._source_keys) + len(self._bounds)
        num_sums = 1 + len(objective.measures) + 2 * num_parts + self._metrics.num_sums
        self._totals = torch.zeros(num_sums, dtype=torch.float64, device=device)

    @classmethod
    def of(cls, runtime: PhaseRuntime) -> HeldOutTotals:
        """For a validation of a phase."""
        return cls(
            runtime.objective,
            torch.as_tensor(runtime.data.token_bytes),
            runtime.section.evaluate.position_ranges,
            runtime.data.source_names,
            runtime.world.device,
            runtime.metrics,
        )

    @property
    def names_of_parts(self) -> list[str]:
        """What is reported of sources and ranges that have units."""
        return [*self._source_keys, *self._range_keys]

    @property
    def metric_has_failed(self) -> bool:
        """Whether a metric of the user's failed on some rank; known on all of them alike."""
        return self._metrics.has_failed

    def look(self, model: torch.nn.Module, batch: AnyBatch) -> None:
        """Runs a model on a batch and counts it.

        Args:
            model: As the objective takes it, in evaluation mode.
            batch: The batch, on the device.
        """
        if not self._metrics.needs_logits:
            self.add(self._objective.losses(model, batch), batch)
            return
        tap = LogitsTap(model)
        self.add(self._objective.losses(tap, batch), batch, tap.logits)

    def add(self, losses: Losses, batch: AnyBatch, logits: torch.Tensor | None = None) -> None:
        """Counts one batch.

        Args:
            losses: What the objective made of it.
            batch: The batch.
            logits: Of the model, if a metric needs them. [rows, sequence, vocabulary]
        """
        is_unit = losses.is_unit
        if is_unit is None:
            assert isinstance(batch, Batch), "only losses of tokens leave out which are units"
            is_unit = batch.targets != IGNORED_TARGET
        values = losses.values.double()
        num_bytes = torch.zeros((), device=values.device)
        if self._counts_tokens and isinstance(batch, Batch):
            num_bytes = (self._token_bytes[batch.targets.clamp(min=0)] * is_unit).sum()
        sums = [num_bytes, *(() if losses.measures is None else losses.measures)]
        for part in (is_unit, *self._parts(batch, is_unit)):
            sums += [(values * part).sum(), part.sum()]
        sums += self._metrics.sums(Seen(batch, losses, is_unit, logits))
        self._totals += torch.stack([value.double() for value in sums])

    def metrics(self, prefix: str, world: World) -> dict[str, float]:
        """Returns the means over all ranks, under `prefix/`. **Ranks:** all. Collectives.

        Raises:
            Exception: What a metric of the user's raised on this rank.
            ConfigurationError: A metric of the user's reports a name that is taken.
            LostRankError: One failed on another rank.
        """
        totals = world.all_reduce_sum(self._totals.clone()).cpu().tolist()
        names = self._objective.measures
        own = len(totals) - self._metrics.num_sums
        num_bytes, measures, rest = (
            totals[0],
            totals[1 : 1 + len(names)],
            totals[1 + len(names) : own],
        )
        loss, num_units, *parts = rest
        mean = loss / num_units if num_units else math.nan
        found = {f"{prefix}/loss": mean}
        if num_units:
            sums = {"loss": loss, **dict(zip(names, measures, strict=True))}
            found |= self._of_tokens(prefix, sums, num_units, num_bytes)
            reported = self._objective.metrics({name: sums[name] / num_units for name in sums})
            found |= {f"{prefix}/{name}": value for name, value in reported.items()}
        keys = self.names_of_parts
        for key, part_loss, part_units in zip(keys, parts[::2], parts[1::2], strict=True):
            if part_units:
                found[f"{prefix}/{key}"] = part_loss / part_units
        taken = {*_ALWAYS, *keys, *(key.removeprefix(f"{prefix}/") for key in found)}
        reported = self._metrics.metrics(totals[own:] if num_units else None, taken, world)
        return found | {f"{prefix}/{name}": value for name, value in reported.items()}

    def _of_tokens(
        self, prefix: str, sums: Mapping[str, float], num_units: float, num_bytes: float
    ) -> dict[str, float]:
        """What the cross entropy of tokens says in other words."""
        if not self._counts_tokens:
            return {}
        entropy = sums[self._objective.cross_entropy]
        mean = entropy / num_units
        perplexity = math.exp(mean) if mean < _MOST_EXPONENT else math.inf
        found = {f"{prefix}/perplexity": perplexity}
        if num_bytes:
            found[f"{prefix}/bits_per_byte"] = entropy / math.log(2) / num_bytes
        return found

    def _parts(self, batch: AnyBatch, counted: torch.Tensor) -> Iterator[torch.Tensor]:
        """Which units count in each part that is reported alone. [rows, units]"""
        if self._source_keys:
            assert batch.source_ids is not None
            for source_idx in range(len(self._source_keys)):
                yield counted & (batch.source_ids == source_idx).unsqueeze(1)
        if not self._bounds:
            return
        positions = batch.position_ids if isinstance(batch, Batch) else None
        if positions is None:
            positions = torch.arange(counted.shape[1], device=counted.device)
        for first, end in self._bounds:
            yield counted & (positions >= first) & (positions < end)
