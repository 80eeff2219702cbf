"""The weights of a language model, or of a bare body, as those of its body under a fresh head."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import torch

from phaseline.checkpoint.tensor_files import UnusableWeightsError
from phaseline.checkpoint.weight_readers import View, WeightReader
from phaseline.distributed.adapter_record import is_adapter, plain_name
from phaseline.distributed.engines.base import whole_shape
from phaseline.distributed.trunk import trunk_prefix

_USUAL_RANGE = 0.02


def view_with_fresh_head(
    reader: WeightReader, module: torch.nn.Module, *, seed: int
) -> WeightReader:
    """Weights with the head of a model of transformers, where they have none of it.

    The head that they have instead, as that of a language model, is passed over. Weights with
    this head are left as they are, and so are those of a model of one's own.

    Args:
        reader: Opened weights, with adapters or without.
        module: The bare model; its parameters may lie on the meta device, or in parts.
        seed: Of what is drawn.

    Raises:
        UnusableWeightsError: The head would be drawn and never trained.
    """
    body = trunk_prefix(module)
    if not body:
        return reader
    head = {
        plain_name(name): parameter
        for name, parameter in module.named_parameters()
        if not name.startswith(body) and not is_adapter(name)
    }
    if not head or not head.keys().isdisjoint(map(plain_name, reader.shapes)):
        return reader
    frozen = [name for name, parameter in head.items() if not parameter.requires_grad]
    if frozen:
        raise UnusableWeightsError(
            f"has no {frozen[0]}, which would be drawn at random, and this phase does not train it",
            f"Add {frozen[0].rpartition('.')[0]!r} to trainable.train.",
        )
    shapes = {name: whole_shape(parameter) for name, parameter in head.items()}
    return _FreshHead(reader, shapes, body, _range_of(module), seed)


def fresh_names(reader: WeightReader) -> list[str]:
    """What was drawn and not read, by name."""
    view: Any = reader
    while isinstance(view, View):
        if isinstance(view, _FreshHead):
            return list(view.fresh)
        view = view.below
    return []


def _range_of(module: torch.nn.Module) -> float:
    value = getattr(getattr(module, "config", None), "initializer_range", None)
    return float(value) if isinstance(value, (int, float)) else _USUAL_RANGE


class _FreshHead(View):
    """The body is read, the head is drawn: matrices as transformers draws them, the rest is 0."""

    def __init__(
        self,
        below: WeightReader,
        fresh: Mapping[str, tuple[int, ...]],
        body: str,
        deviation: float,
        seed: int,
    ) -> None:
        super().__init__(below)
        self.fresh = dict(fresh)
        self._body = body
        self._deviation = deviation
        self._seed = seed

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._of_body(self.below.shapes) | self.fresh

    @property
    def buffers(self) -> Mapping[str, tuple[int, ...]]:
        return self._of_body(self.below.buffers)

    def stored_as(self, name: str) -> str:
        return name if name in self.fresh else self.below.stored_as(name)

    def read(self, name: str, start: int, out: torch.Tensor) -> None:
        if name not in self.fresh:
            self.below.read(name, start, out)
        elif len(self.fresh[name]) == 1:
            out.zero_()
        else:
            out.copy_(self._draw(name).narrow(0, start, out.numel()))

    def _of_body(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, shape in shapes.items() if name.startswith(self._body)}

    def _draw(self, name: str) -> torch.Tensor:
        """The whole of it, the same on every rank, whichever part of it that holds."""
        digest = hashlib.blake2b(f"{self._seed} {name}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        flat = torch.empty(math.prod(self.fresh[name]))
        return flat.normal_(0.0, self._deviation, generator=generator)
