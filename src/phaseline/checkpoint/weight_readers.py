"""Weights that lie in files, read a range at a time."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Protocol

import torch

from phaseline.checkpoint.foreign import ForeignWeights
from phaseline.checkpoint.reader import WEIGHT, CheckpointReader, persistent_buffers
from phaseline.checkpoint.tensor_files import ITEM_BYTES, StoredTensor, UnusableWeightsError
from phaseline.distributed.adapter_record import AdapterRecord

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_FLOATING = ("F64", "F32", "F16", "BF16")
BLOCK_ELEMENTS = 1 << 24
"""How much is converted at a time, so that a large tensor needs no second copy of itself."""


class WeightReader(Protocol):
    """Opened weights; parameters and buffers by the names that they have there."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Parameters, by every name that they have."""

    @property
    def buffers(self) -> Mapping[str, tuple[int, ...]]:
        """What may be a buffer. A format that does not tell them apart has all tensors here."""

    def stored_as(self, name: str) -> str:
        """The one name of a tensor that may have several."""

    def read(self, name: str, start: int, out: torch.Tensor) -> None:
        """Fills a flat tensor with elements of a parameter from `start` on. [numel]"""

    def read_buffers(self, module: torch.nn.Module) -> None:
        """Gives a module's persistent buffers their values."""

    @property
    def adapters(self) -> AdapterRecord | None:
        """The adapters that they are of, if they are of a model with some."""


OpenedWeights = AbstractContextManager[WeightReader]


def open_weights(weights: ForeignWeights, *, buffers_of: int = 0) -> OpenedWeights:
    """Opens weights for reading.

    Args:
        weights: What was found at a path.
        buffers_of: The rank whose buffers are read from a checkpoint. A phase that goes on from
            another of its session takes its own; weights of another session are rank 0's.
    """
    if weights.checkpoint is not None:
        return CheckpointWeights(weights.checkpoint, buffers_of=buffers_of)
    return _TensorFiles(weights.tensors)


class View:
    """Weights that are read through others; what a view does not change passes through."""

    def __init__(self, below: WeightReader) -> None:
        """Takes opened weights."""
        self.below = below

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Parameters, by every name that they have."""
        return self.below.shapes

    @property
    def buffers(self) -> Mapping[str, tuple[int, ...]]:
        """What may be a buffer."""
        return self.below.buffers

    @property
    def adapters(self) -> AdapterRecord | None:
        """The adapters that they are of."""
        return self.below.adapters

    def stored_as(self, name: str) -> str:
        """The one name of a tensor that may have several."""
        return self.below.stored_as(name)

    def read(self, name: str, start: int, out: torch.Tensor) -> None:
        """Fills a flat tensor. [numel]"""
        self.below.read(name, start, out)

    def read_buffers(self, module: torch.nn.Module) -> None:
        """Gives a module's persistent buffers their values."""
        self.below.read_buffers(module)


class _TensorFiles:
    """Safetensors files, read by offset: a range of a matrix costs no more than the range."""

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._tensors = tensors
        self._files: dict[Path, BufferedReader] = {}
        self._stack = ExitStack()
        self.shapes = self.buffers = {name: t.shape for name, t in tensors.items()}

    adapters: AdapterRecord | None = None

    def __enter__(self) -> WeightReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._files.clear()

    def stored_as(self, name: str) -> str:
        return name

    def read(self, name: str, start: int, out: torch.Tensor) -> None:
        tensor = self._tensors[name]
        if tensor.dtype not in _FLOATING:
            raise UnusableWeightsError(
                f"holds {name} as {tensor.dtype}, which no weight is trained in",
                "Name weights in F32, BF16, F16 or F64, not quantised ones.",
            )
        for first in range(0, out.numel(), BLOCK_ELEMENTS):
            part = out.narrow(0, first, min(BLOCK_ELEMENTS, out.numel() - first))
            part.copy_(self._block(tensor, start + first, part.numel()))

    def read_buffers(self, module: torch.nn.Module) -> None:
        for name, buffer in persistent_buffers(module).items():
            tensor = self._tensors[name]
            buffer.copy_(self._block(tensor, 0, tensor.numel).view(tensor.shape))

    def _block(self, tensor: StoredTensor, start: int, numel: int) -> torch.Tensor:
        dtype = _DTYPES.get(tensor.dtype)
        if dtype is None:
            raise UnusableWeightsError(
                f"holds tensors of the type {tensor.dtype}", "Name weights that can be trained."
            )
        if numel == 0:
            return torch.empty(0, dtype=dtype)
        file = self._files.get(tensor.file)
        if file is None:
            file = self._stack.enter_context(tensor.file.open("rb"))
            self._files[tensor.file] = file
        data = bytearray(numel * ITEM_BYTES[tensor.dtype])
        file.seek(tensor.offset + start * ITEM_BYTES[tensor.dtype])
        if file.readinto(data) != len(data):
            raise UnusableWeightsError(
                f"holds {tensor.file.name}, which became shorter", "Leave it alone meanwhile."
            )
        return torch.frombuffer(data, dtype=dtype)


class CheckpointWeights:
    """A checkpoint of a session, with every name that tied parameters have."""

    def __init__(self, folder: Path, *, buffers_of: int = 0) -> None:
        """Reads the indexes. The folder must have been verified.

        Args:
            folder: A published checkpoint.
            buffers_of: The rank whose buffers are read.
        """
        self._reader = CheckpointReader(folder)
        self._buffers_of = buffers_of
        described = self._reader.model
        lora = described.get("lora")
        self.adapters = None if lora is None else AdapterRecord.from_json(lora)
        tied: list[list[str]] = described["tied"]
        self._saved_as = {name: name for name in self._reader.parameters}
        for names in tied:
            saved = next(name for name in names if name in self._reader.parameters)
            self._saved_as |= dict.fromkeys(names, saved)
        self.shapes = {
            name: tuple(self._reader.parameters[saved]["shape"])
            for name, saved in self._saved_as.items()
        }
        self.buffers: dict[str, tuple[int, ...]] = {}

    def __enter__(self) -> WeightReader:
        self._reader.__enter__()
        self.buffers = self._reader.buffer_shapes()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reader.__exit__(kind, error, trace)

    def stored_as(self, name: str) -> str:
        """The name that it was saved under."""
        return self._saved_as[name]

    def read(self, name: str, start: int, out: torch.Tensor) -> None:
        """Fills a flat tensor. [numel]"""
        self._reader.read(f"{WEIGHT}/{self._saved_as[name]}", start, out)

    def read_buffers(self, module: torch.nn.Module) -> None:
        """Gives a module's persistent buffers the values of one rank."""
        self._reader.read_buffers(module, self._buffers_of)
