"""Embeddings of a smaller vocabulary as those of a larger one."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch

from phaseline.checkpoint.tensor_files import UnusableWeightsError
from phaseline.checkpoint.weight_readers import BLOCK_ELEMENTS, View, WeightReader
from phaseline.distributed.engines.base import whole_shape


def view_grown(reader: WeightReader, module: torch.nn.Module) -> WeightReader:
    """Weights whose embeddings have as many rows as a model's, where they have fewer.

    A row that is added is the mean of those that are there: a token that was never seen begins
    as the average of all, and not as noise that the output layer would favour or shun.

    Args:
        reader: Opened weights, by the names of the model.
        module: The bare model; its parameters may lie on the meta device, or in parts.

    Raises:
        UnusableWeightsError: The weights have more rows than the model.
    """
    wanted: dict[str, tuple[int, ...]] = {}
    for name, shape in _vocabulary_shapes(module).items():
        there = reader.shapes.get(name)
        if there is None or len(there) != len(shape) or there[1:] != shape[1:]:
            continue
        if there[0] > shape[0]:
            raise UnusableWeightsError(
                f"has {there[0]} rows in {name}, where the model has {shape[0]}: embeddings can "
                "grow, but which rows should go cannot be known",
                f"Set model.config.vocab_size to {there[0]}, or take other weights.",
            )
        if there[0] < shape[0]:
            wanted[name] = shape
    return _Grown(reader, wanted) if wanted else reader


def grown_rows(reader: WeightReader) -> tuple[int, int] | None:
    """How many rows embeddings had and have now; None if nothing was added."""
    view: Any = reader
    while isinstance(view, View):
        if isinstance(view, _Grown):
            name = next(iter(view.grown))
            return view.below.shapes[name][0], view.grown[name][0]
        view = view.below
    return None


class _Grown(View):
    """Some tensors have more rows here than they have below."""

    def __init__(self, below: WeightReader, grown: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(below)
        self.grown = dict(grown)
        self._means: dict[str, torch.Tensor] = {}

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {**self.below.shapes, **self.grown}

    def read(self, name: str, start: int, out: torch.Tensor) -> None:
        if name not in self.grown:
            self.below.read(name, start, out)
            return
        old = math.prod(self.below.shapes[name])
        num_old = max(0, min(out.numel(), old - start))
        if num_old:
            self.below.read(name, start, out.narrow(0, 0, num_old))
        if num_old < out.numel():
            mean = self._mean(name)
            first = start + num_old
            idx = torch.arange(first, start + out.numel()).remainder_(mean.numel())
            out.narrow(0, num_old, out.numel() - num_old).copy_(mean[idx])

    def _mean(self, name: str) -> torch.Tensor:
        """The mean row, summed in fp64 in blocks of one size, so that every rank gets its bits."""
        stored = self.below.stored_as(name)
        if stored not in self._means:
            num_rows, *rest = self.below.shapes[name]
            width = math.prod(rest)
            rows_per_block = max(1, BLOCK_ELEMENTS // width)
            total = torch.zeros(width, dtype=torch.float64)
            for first in range(0, num_rows, rows_per_block):
                size = min(rows_per_block, num_rows - first)
                block = torch.empty(size * width)
                self.below.read(name, first * width, block)
                total += block.view(size, width).double().sum(0)
            self._means[stored] = (total / num_rows).float()
        return self._means[stored]


def _vocabulary_shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Tensors with a row per token, by every name that they have."""
    owners: Collection[Any] = [
        getattr(module, method, lambda: None)()
        for method in ("get_input_embeddings", "get_output_embeddings")
    ]
    held = {id(p) for owner in owners if owner is not None for p in owner.parameters()}
    return {
        name: whole_shape(parameter)
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if id(parameter) in held
    }
