"""Weights with adapters as weights without, and the other way round."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch

from phaseline.checkpoint.weight_readers import BLOCK_ELEMENTS, View, WeightReader
from phaseline.config.inheritance import LoraFate
from phaseline.distributed.adapter_record import (
    AdapterRecord,
    adapted_name,
    adapter_names,
    is_adapter,
    plain_name,
)

_BLOCK_ROWS = 256
"""Rows that are merged together: always the same, so that a rank's part does not matter."""


def view_without_adapters(reader: WeightReader, fate: LoraFate) -> WeightReader:
    """Weights of a model with adapters, as the model without them.

    Args:
        reader: Opened weights.
        fate: merge or drop; keep, and weights without adapters, leave them as they are.
    """
    record = reader.adapters
    if record is None or fate == "keep":
        return reader
    return _Plain(reader, record, merge=fate == "merge")


def view_with_adapters(reader: WeightReader, record: AdapterRecord, *, seed: int) -> WeightReader:
    """Weights of a model, as the same model with fresh adapters.

    Args:
        reader: Opened weights without adapters.
        record: The adapters of the model that is filled.
        seed: What their first values are drawn from.
    """
    return _Adapted(reader, record, seed)


class _Plain(View):
    """Adapters merged or left out, every parameter by the name that it has without them."""

    adapters: AdapterRecord | None = None

    def __init__(self, below: WeightReader, record: AdapterRecord, *, merge: bool) -> None:
        super().__init__(below)
        self._record = record
        self._below_name = {plain_name(name): name for name in below.shapes if not is_adapter(name)}
        self._merged = {f"{module}.weight": module for module in record.modules} if merge else {}
        self._pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: self.below.shapes[there] for name, there in self._below_name.items()}

    def stored_as(self, name: str) -> str:
        return self.below.stored_as(self._below_name[name])

    def read(self, name: str, start: int, out: torch.Tensor) -> None:
        there = self._below_name[name]
        if name not in self._merged:
            self.below.read(there, start, out)
            return
        for first in range(0, out.numel(), BLOCK_ELEMENTS):
            # In fp32 whatever `out` is, so that the sum is rounded once.
            part = torch.empty(min(BLOCK_ELEMENTS, out.numel() - first))
            self.below.read(there, start + first, part)
            self._add(self._merged[name], self.below.shapes[there], start + first, part)
            out.narrow(0, first, part.numel()).copy_(part)

    def _add(self, module: str, shape: tuple[int, ...], start: int, out: torch.Tensor) -> None:
        """Adds the adapter's share of a range, in fp64."""
        num_rows, width = shape
        a, b = self._matrices(module)
        last_row = -(-(start + out.numel()) // width)
        for block in range(start // width // _BLOCK_ROWS, -(-last_row // _BLOCK_ROWS)):
            first, end = block * _BLOCK_ROWS, min((block + 1) * _BLOCK_ROWS, num_rows)
            low, high = max(start, first * width), min(start + out.numel(), end * width)
            if low < high:
                delta = (b[first:end] @ a).mul_(self._record.scale).view(-1)
                part = out.narrow(0, low - start, high - low)
                part.copy_(part.double() + delta[low - first * width : high - first * width])

    def _matrices(self, module: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Left and right factor of what is added to a weight: [rank, width] and [rows, rank]."""
        if module not in self._pairs:
            self._pairs.clear()  # parameters are read one after the other
            a, b = (self._whole(name) for name in adapter_names(module))
            self._pairs[module] = (b.T, a.T) if self._record.modules[module] else (a, b)
        return self._pairs[module]

    def _whole(self, name: str) -> torch.Tensor:
        shape = self.below.shapes[name]
        flat = torch.empty(math.prod(shape))
        self.below.read(name, 0, flat)
        return flat.view(shape).double()


class _Adapted(View):
    """Fresh adapters: A is drawn as peft draws it, B is zero, so that nothing changes at first."""

    def __init__(self, below: WeightReader, record: AdapterRecord, seed: int) -> None:
        super().__init__(below)
        self._record = record
        self._seed = seed
        self._below_name = {name: name for name in below.shapes}
        self._fresh: dict[str, tuple[int, ...]] = {}
        for module, transposed in record.modules.items():
            for part in ("weight", "bias"):
                if f"{module}.{part}" in self._below_name:
                    self._below_name[adapted_name(module, part)] = self._below_name.pop(
                        f"{module}.{part}"
                    )
            rows, columns = below.shapes.get(f"{module}.weight", (0, 0))
            fan_in, fan_out = (rows, columns) if transposed else (columns, rows)
            a, b = adapter_names(module)
            self._fresh |= {a: (record.section.rank, fan_in), b: (fan_out, record.section.rank)}

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        taken = {name: self.below.shapes[there] for name, there in self._below_name.items()}
        return taken | self._fresh

    @property
    def buffers(self) -> Mapping[str, tuple[int, ...]]:
        # A format that does not tell them apart has parameters here, by their names there.
        known = self.below.shapes.keys()
        return {name: s for name, s in self.below.buffers.items() if name not in known} | {
            name: self.below.buffers[there]
            for name, there in self._below_name.items()
            if there in self.below.buffers
        }

    def stored_as(self, name: str) -> str:
        return name if name in self._fresh else self.below.stored_as(self._below_name[name])

    def read(self, name: str, start: int, out: torch.Tensor) -> None:
        if name not in self._fresh:
            self.below.read(self._below_name[name], start, out)
        elif ".lora_B." in name:
            out.zero_()
        else:
            out.copy_(self._draw(name).narrow(0, start, out.numel()))

    def _draw(self, name: str) -> torch.Tensor:
        """The whole of A, the same on every rank, whichever part of it that holds.

        Source: peft's `init_lora_weights=True`: Kaiming uniform with a = sqrt(5), whose bound
        is 1 / sqrt(fan_in).
        """
        shape = self._fresh[name]
        digest = hashlib.blake2b(f"{self._seed} {name}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        bound = 1 / math.sqrt(shape[1])
        return torch.empty(math.prod(shape)).uniform_(-bound, bound, generator=generator)
