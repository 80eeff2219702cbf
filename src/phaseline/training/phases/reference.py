"""The reference that an objective on preferences is held against, as it is given to batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import torch

from phaseline.data.batch import AnyBatch, Batch
from phaseline.data.encoded_chunk import Split
from phaseline.distributed.engines import Engine
from phaseline.models.lora import adapters_off
from phaseline.objectives.preferences import answer_logps
from phaseline.training.phases.reference_files import ReferenceFiles

_WHAT_IT_TAKES = "only rows of preferences are held against a reference"


class Reference(Protocol):
    """Gives batches the reference's log-probabilities, as an objective asks for them."""

    @property
    def is_ready(self) -> bool:
        """Whether it can give any; else `ReferencePass` comes first."""

    def attach(self, batch: AnyBatch, side: Split) -> AnyBatch:
        """The batch with what the objective needs. **Ranks:** all, as many calls on each.

        Args:
            batch: On the world's device.
            side: Which side of the split its pairs are numbered on.
        """


class NoReference:
    """Of an objective that asks for none."""

    is_ready = True

    def attach(self, batch: AnyBatch, side: Split) -> AnyBatch:  # noqa: ARG002 - nothing to look up
        """The batch as it is."""
        return batch


class FrozenReference:
    """A second model beside the one that is trained, whole on every rank."""

    is_ready = True

    def __init__(self, model: torch.nn.Module) -> None:
        """Takes the model: frozen, in evaluation mode, on the world's device."""
        self._model = model

    def attach(self, batch: AnyBatch, side: Split) -> AnyBatch:  # noqa: ARG002 - it knows any pair
        """The batch with what the model says of it."""
        assert isinstance(batch, Batch), _WHAT_IT_TAKES
        with torch.no_grad():
            return replace(batch, reference_logps=answer_logps(self._model, batch))


class BaseReference:
    """The model that is trained, without its adapters."""

    is_ready = True

    def __init__(self, engine: Engine) -> None:
        """Takes the engine of a phase with adapters, which trains nothing besides."""
        self._engine = engine

    def attach(self, batch: AnyBatch, side: Split) -> AnyBatch:  # noqa: ARG002 - it knows any pair
        """The batch with what the model says of it, in evaluation mode; the mode is put back."""
        assert isinstance(batch, Batch), _WHAT_IT_TAKES
        model = self._engine.model
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad(), adapters_off(self._engine.module):
                return replace(batch, reference_logps=answer_logps(model, batch))
        finally:
            model.train(was_training)


class StoredReference:
    """Log-probabilities that were measured before, looked up by the numbers of the pairs."""

    def __init__(self, files: ReferenceFiles, device: torch.device) -> None:
        """Reads nothing yet.

        Args:
            files: Where they are kept.
            device: Where batches lie.
        """
        self._files = files
        self._device = device
        self._tables: dict[Split, torch.Tensor] = {}

    @property
    def is_ready(self) -> bool:
        """Whether it has the numbers."""
        return bool(self._tables)

    def load(self) -> bool:
        """Takes the numbers from the files; False: they are not there.

        Raises:
            DataError: A file holds something else.
        """
        found = self._files.read() or {}
        self.fill({side: torch.from_numpy(table) for side, table in found.items()})
        return self.is_ready

    def publish(self) -> None:
        """Keeps the numbers for who goes on with the phase later. **Ranks:** main."""
        self._files.publish({side: table.cpu().numpy() for side, table in self._tables.items()})

    def fill(self, tables: Mapping[Split, torch.Tensor]) -> None:
        """Takes the numbers of each side: of every pair chosen and rejected. `[pairs, 2]`, fp32"""
        self._tables = {side: table.to(self._device) for side, table in tables.items()}

    def attach(self, batch: AnyBatch, side: Split) -> AnyBatch:
        """The batch with the numbers of its pairs; nothing is read from the device."""
        assert isinstance(batch, Batch), _WHAT_IT_TAKES
        assert batch.pair_ids is not None
        # Where there is no pair any number will do: its loss is left out.
        found = self._tables[side][batch.pair_ids.clamp(min=0)]
        return replace(batch, reference_logps=found)
