"""The weights of a language model as those of its trunk under another head."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch

from phaseline.checkpoint.weight_readers import View, WeightReader


def view_with_head(
    reader: WeightReader,
    head: Mapping[str, tuple[int, ...]],
    *,
    trunk: str,
    std: float,
    seed: int,
) -> WeightReader:
    """Weights with a fresh head in place of the one that they have; as they are if it is theirs.

    Args:
        reader: Opened weights.
        head: The parameters of the head that is wanted.
        trunk: What the names of all others begin with.
        std: Standard deviation of the fresh values, whose mean is 0.
        seed: Decides them, the same on every rank.
    """
    if head.keys() <= reader.shapes.keys():
        return reader
    return _NewHead(reader, head, f"{trunk}.", std, seed)


def has_new_head(reader: WeightReader) -> bool:
    """Whether a head was made for these weights."""
    view: WeightReader = reader
    while isinstance(view, View):
        if isinstance(view, _NewHead):
            return True
        view = view.below
    return False


class _NewHead(View):
    """What is not of the trunk is left out, and the head takes its place."""

    def __init__(
        self,
        below: WeightReader,
        head: Mapping[str, tuple[int, ...]],
        trunk: str,
        std: float,
        seed: int,
    ) -> None:
        super().__init__(below)
        self._head = dict(head)
        self._trunk = trunk
        self._std = std
        self._seed = seed

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {**self._of_trunk(self.below.shapes), **self._head}

    @property
    def buffers(self) -> Mapping[str, tuple[int, ...]]:
        return self._of_trunk(self.below.buffers)

    def stored_as(self, name: str) -> str:
        return name if name in self._head else self.below.stored_as(name)

    def read(self, name: str, start: int, out: torch.Tensor) -> None:
        if name not in self._head:
            self.below.read(name, start, out)
            return
        digest = hashlib.blake2b(f"{self._seed} {name}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        whole = torch.empty(math.prod(self._head[name])).normal_(0, self._std, generator=generator)
        out.copy_(whole.narrow(0, start, out.numel()))

    def _of_trunk(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, shape in shapes.items() if name.startswith(self._trunk)}
