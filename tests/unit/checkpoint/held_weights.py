"""Weights that lie in memory, for what looks at weights through others."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from phaseline.checkpoint.weight_readers import WeightReader
from phaseline.distributed.adapter_record import AdapterRecord


class Held:
    """Weights in memory."""

    def __init__(
        self, tensors: Mapping[str, torch.Tensor], adapters: AdapterRecord | None = None
    ) -> None:
        self.tensors, self.adapters = tensors, adapters
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.buffers: dict[str, tuple[int, ...]] = {}

    def stored_as(self, name: str) -> str:
        return name

    def read(self, name: str, start: int, out: torch.Tensor) -> None:
        out.copy_(self.tensors[name].flatten().narrow(0, start, out.numel()))

    def read_buffers(self, module: torch.nn.Module) -> None:
        raise AssertionError(f"no buffers here for {module}")


def whole(reader: WeightReader, name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    found = torch.empty(reader.shapes[name], dtype=dtype)
    reader.read(name, 0, found.view(-1))
    return found
