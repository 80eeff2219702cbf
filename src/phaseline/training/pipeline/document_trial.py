"""Whether a model keeps documents apart that share a row, tried on the live engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from phaseline.data.batch import Batch
from phaseline.errors import ConfigurationError, EngineError, Fault
from phaseline.objectives.base import IGNORED_TARGET
from phaseline.objectives.token_loss import token_cross_entropy
from phaseline.training.phases.runtime import PhaseRuntime

_TOLERANCES = {"fp32": 1e-4, "bf16": 5e-2}
"""By how much a document's losses may differ in any case, in nats: of sums in another order."""

_MOST_ROUNDING = 4.0
"""By how much the second document's losses may differ, in differences of the first one's.

The first one's positions begin at 0 however they are counted, so what its losses differ by is
rounding: of these logits, on this device, with the kernels that it chose.
"""

_LIMITS = {"fp32": 1e-2, "bf16": 0.5}
"""Above this it is no rounding, whatever the first document says."""

_PAIRS_IN_A_ROW = 2

_MOST_SEEN = 0.1
"""Of the effect that other tokens have within a document, how much is rounding.

Source: 18 architectures of transformers 5.23, fp32 and bf16: where documents are kept apart it is
exactly 0, where they are not 1 and more.
"""


def two_documents(first: torch.Tensor, second: torch.Tensor) -> Batch:
    """A batch whose every row holds two documents.

    Args:
        first: Tokens of the first, the last of which is only a target. [rows, tokens]
        second: Tokens of the second.
    """
    return Batch(
        input_ids=torch.cat([first[:, :-1], second[:, :-1]], dim=1),
        targets=torch.cat([first[:, 1:], second[:, 1:]], dim=1),
        rows=len(first),
        position_ids=torch.cat(
            [torch.arange(part.shape[1] - 1).expand(len(part), -1) for part in (first, second)],
            dim=1,
        ),
    )


def pairs_in_rows(batch: Batch) -> Batch:
    """Rows of several pairs of answers where there is room, as those of a phase have.

    Args:
        batch: Rows of two documents. The last of several rows stays as it is and has one pair,
            less than the others.
    """
    num_rows, length = batch.input_ids.shape
    pair_ids = torch.zeros(num_rows, _PAIRS_IN_A_ROW, dtype=torch.int64)
    num_documents = 2 * _PAIRS_IN_A_ROW
    if length < num_documents:
        return replace(batch, pair_ids=pair_ids[:, :1])
    shortest, inputs = length // num_documents, torch.arange(length)
    positions = inputs - shortest * (inputs // shortest).clamp(max=num_documents - 1)
    positions = positions.repeat(num_rows, 1)
    if num_rows > 1:
        assert batch.position_ids is not None
        positions[-1], pair_ids[-1, 1:] = batch.position_ids[-1], -1
    return replace(batch, position_ids=positions, pair_ids=pair_ids)


class DocumentTrial:
    """Runs rows of two documents each: their losses must be those that they have apart."""

    def __init__(self, runtime: PhaseRuntime, teacher: torch.nn.Module | None = None) -> None:
        """Takes a phase's runtime; its weights may be any.

        Args:
            runtime: Of the phase.
            teacher: The model that is tried instead of the one that is trained.
        """
        self._runtime = runtime
        self._teacher = teacher
        self._length = runtime.section.data.tokens_per_row
        self._half = self._length // 2
        # The same on every rank, so that all come to the same end.
        self._generator = torch.Generator().manual_seed(0)

    def run(self) -> None:
        """Compares losses, in evaluation mode. **Ranks:** all; as many forwards on each.

        Raises:
            EngineError: Losses are not finite.
            ConfigurationError: The model sees documents that it should not, or positions that
                do not begin again.
        """
        self._runtime.engine.model.eval()
        first, other = self._document(self._half), self._document(self._half)
        second = self._document(self._length - self._half)
        with torch.no_grad():
            packed = self._losses(two_documents(first, second))
            seen = self._changed(packed, two_documents(other, second))
            joined = self._losses(_as_one(two_documents(first, second)))
            effect = self._changed(joined, _as_one(two_documents(other, second)))
            apart = torch.cat([self._alone(first), self._alone(second)], dim=1)
        if not (packed.isfinite().all() and apart.isfinite().all()):
            raise EngineError(
                f"phase {self._runtime.section.name}: losses of random tokens are not finite before "
                "the first step, so the weights that it begins with are not, or their precision "
                "cannot hold what they give. Look at inherit.weights and engine.precision."
            )
        if seen > _MOST_SEEN * effect:
            raise self._fault(
                f"lets it see the document before it: with other tokens there, its losses change "
                f"by {seen:.2g}, and by {effect:.2g} if they belong to it"
            )
        self._require_equal(packed, apart)

    def _require_equal(self, packed: torch.Tensor, apart: torch.Tensor) -> None:
        """Raises if documents have other losses in one row than apart. [rows, tokens] both"""
        precision = self._runtime.section.engine.precision
        limit, differences = _LIMITS[precision], (packed - apart).abs()
        first = float(differences[:, : self._half].max())
        second = float(differences[:, self._half :].max())
        allowed = min(limit, max(_TOLERANCES[precision], _MOST_ROUNDING * first))
        if not first <= limit:
            raise self._fault(
                f"gives even the first of them other losses than alone, by {first:.2g} where "
                f"{limit:g} is allowed"
            )
        if not second <= allowed:
            raise self._fault(
                f"gives it other losses than alone, by {second:.2g} where {allowed:.2g} is "
                "allowed: its positions do not begin again"
            )

    def _document(self, num_inputs: int) -> torch.Tensor:
        shape = (self._runtime.layout.micro_size, num_inputs + 1)
        vocab_size = self._runtime.data.tokenizer.vocab_size
        return torch.randint(vocab_size, shape, generator=self._generator)

    def _alone(self, document: torch.Tensor) -> torch.Tensor:
        """Losses of one document in rows as long as those of two."""
        num_inputs = document.shape[1] - 1
        num_padding = (0, self._length - num_inputs)
        pad = torch.nn.functional.pad
        pad_id = self._runtime.data.tokenizer.pad_id
        inputs = pad(document[:, :-1], num_padding, value=pad_id)
        targets = pad(document[:, 1:], num_padding, value=IGNORED_TARGET)
        return self._losses(Batch(inputs, targets, len(document)))[:, :num_inputs]

    def _changed(self, losses: torch.Tensor, batch: Batch) -> float:
        """By how much the second document's losses are others in this batch."""
        return float((losses - self._losses(batch))[:, self._half :].abs().max())

    def _losses(self, batch: Batch) -> torch.Tensor:
        runtime = self._runtime
        batch = batch.to(runtime.world.device)
        objective, model = runtime.objective, runtime.engine.model
        if self._teacher is not None:
            return token_cross_entropy(self._teacher, batch)
        if objective.normaliser == "tokens" and objective.cross_entropy == "loss":
            return objective.losses(model, batch).values
        values: Callable[[torch.nn.Module, Batch], torch.Tensor] = getattr(
            objective, "position_values", token_cross_entropy
        )
        return values(model, batch)

    def _fault(self, problem: str) -> ConfigurationError:
        runtime = self._runtime
        who, model = "model", runtime.engine.module
        if self._teacher is not None:
            who, model = "teacher", getattr(self._teacher, "module", self._teacher)
        kind = type(model).__name__
        setting, way_out = (
            "data.packing",
            (
                "Set data.separate_documents to false to let documents see each other, or "
                "data.packing to false."
            ),
        )
        if runtime.objective.normaliser == "pairs":
            setting = "objective"
            way_out = "Both answers of a pair share a sequence, so take a model that does."
        return ConfigurationError(
            [
                Fault(
                    f"phases[{runtime.phase_idx}].{setting}",
                    "",
                    f"puts several documents into one sequence, but the {who}, a {kind}, does not "
                    f"keep them apart: it {problem}",
                    f"{way_out} A model of your own keeps them apart by the `position_ids` or "
                    "`document_ids` that its forward takes.",
                )
            ]
        )


def _as_one(batch: Batch) -> Batch:
    """The same tokens as one document."""
    return Batch(batch.input_ids, batch.targets, batch.rows)
