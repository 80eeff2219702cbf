"""A batch as tensors."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from phaseline.data.batch_arrays import BatchArrays, LabelledArrays

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """Rows that go through the model at once, padded on the right.

    No attention mask is needed: attention is causal, padding comes last, and where a row holds
    several documents their positions tell them apart.

    Attributes:
        input_ids: `[batch, time]`, int64.
        targets: The token after each input, `[batch, time]`, int64; -100 where there is no loss.
        rows: Rows that are samples; the others fill the batch up and have no targets.
        position_ids: Of each input in its document, `[batch, time]`, int64; they begin again with
            each document. None where no row holds more than one, and where documents may attend
            to each other.
        source_ids: The source of each row, `[batch]`, int64; None if there is one source.
        pair_ids: Of preferences, the number of each pair in each row, among all of the phase's
            pairs on this side of the split; -1 where a row has fewer. Pair p of a row is its
            documents 2 p, the chosen answer, and 2 p + 1, the rejected. `[batch, pairs]`, int64;
            None of other shapes.
        reference_logps: Log-probabilities of both answers of each pair under a reference model,
            summed over their tokens, in nats. `[batch, pairs, 2]`, fp32; None without one.
    """

    input_ids: torch.Tensor
    targets: torch.Tensor
    rows: int
    position_ids: torch.Tensor | None = None
    source_ids: torch.Tensor | None = None
    pair_ids: torch.Tensor | None = None
    reference_logps: torch.Tensor | None = None

    @classmethod
    def from_arrays(cls, arrays: BatchArrays) -> Batch:
        """The same in tensors, which share the arrays' memory."""
        return cls(
            torch.from_numpy(arrays.inputs),
            torch.from_numpy(arrays.targets),
            arrays.num_samples,
            _tensor(arrays.positions),
            _tensor(arrays.sources),
            _tensor(arrays.pairs),
        )

    @property
    def document_ids(self) -> torch.Tensor | None:
        """Which document of its row each input belongs to, from 0; None as `position_ids`."""
        if self.position_ids is None:
            return None
        begins = self.position_ids.diff(dim=1) != 1
        return torch.nn.functional.pad(begins.cumsum(dim=1), (1, 0))

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device; itself where it already lies there.

        To a GPU the copy is queued behind the work that runs there, and nothing waits for it.
        """
        return _on(self, device) if self.input_ids.device != device else self


@dataclass(frozen=True)
class LabelledBatch:
    """Samples with a label that go through the model at once.

    Attributes:
        inputs: Images or features, `[rows, ...]`, fp32; or tokens, padded on the right,
            `[rows, time]`, int64.
        labels: The class of each row, `[rows]`, int64; -100 where the row is filler.
        rows: Rows that are samples; the others fill the batch up and have no label.
        lengths: Tokens of each row without padding, `[rows]`, int64; None of images and features.
        source_ids: The source of each row, `[rows]`, int64; None if there is one source.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    rows: int
    lengths: torch.Tensor | None = None
    source_ids: torch.Tensor | None = None

    @classmethod
    def from_arrays(cls, arrays: LabelledArrays) -> LabelledBatch:
        """The same in tensors, which share the arrays' memory."""
        return cls(
            torch.from_numpy(arrays.inputs),
            torch.from_numpy(arrays.labels),
            arrays.num_samples,
            _tensor(arrays.lengths),
            _tensor(arrays.sources),
        )

    def to(self, device: torch.device) -> LabelledBatch:
        """The same batch on a device; itself where it already lies there."""
        return _on(self, device) if self.inputs.device != device else self


AnyBatch = Batch | LabelledBatch


def build_batch(arrays: BatchArrays | LabelledArrays) -> AnyBatch:
    """The same in tensors, which share the arrays' memory."""
    if isinstance(arrays, BatchArrays):
        return Batch.from_arrays(arrays)
    return LabelledBatch.from_arrays(arrays)


def _tensor(array: NDArray[np.int64] | None) -> torch.Tensor | None:
    return None if array is None else torch.from_numpy(array)


_SomeBatch = TypeVar("_SomeBatch", Batch, LabelledBatch)


def _on(batch: _SomeBatch, device: torch.device) -> _SomeBatch:
    """The same batch with every tensor on a device."""
    moved: dict[str, Any] = {
        field.name: _moved(value, device)
        for field in fields(batch)
        if isinstance(value := getattr(batch, field.name), torch.Tensor)
    }
    return replace(batch, **moved)


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    # torch keeps the pinned copy until the device has read it.
    staged = tensor.pin_memory() if device.type == "cuda" else tensor
    return staged.to(device, non_blocking=True)
