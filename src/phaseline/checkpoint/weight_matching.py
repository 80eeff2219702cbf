"""Holding weights against a model, and taking them into an engine: on every rank its own part."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from phaseline.checkpoint.reader import persistent_buffers
from phaseline.checkpoint.tensor_files import UnusableWeightsError
from phaseline.checkpoint.weight_readers import BLOCK_ELEMENTS, WeightReader
from phaseline.distributed.engines.base import Engine, whole_shape
from phaseline.distributed.parameter_values import replace_value

_MOST_LINES = 6


def match_names(reader: WeightReader, module: torch.nn.Module) -> dict[str, str]:
    """Finds every parameter's name in the weights, and refuses what does not fit.

    Tied parameters need one of their names. Buffers that a module computes itself, and what
    transformers declares to be left over, may be there.

    Args:
        reader: Opened weights.
        module: The bare model; its parameters may lie on the meta device, or in parts.

    Returns:
        By the names of `module.named_parameters()`.

    Raises:
        UnusableWeightsError: Naming what is missing, too many, or of another shape or type.
    """
    names = _names_of(module)
    buffers = {name: tuple(b.shape) for name, b in persistent_buffers(module).items()}
    found: dict[str, str] = {}
    problems: list[str] = []
    for name, parameter in module.named_parameters():
        there = [alias for alias in names[id(parameter)] if alias in reader.shapes]
        if not there:
            problems.append(f"{name} is missing")
            continue
        found[name] = there[0]
        shape = whole_shape(parameter)
        problems += [
            f"{alias} is {list(reader.shapes[alias])} and not {list(shape)}"
            for alias in there
            if reader.shapes[alias] != shape
        ]
    problems += _problems_of_buffers(reader, buffers)
    known = {alias for aliases in names.values() for alias in aliases} | buffers.keys()
    computed = {name for name, _ in module.named_buffers()}
    left = sorted((reader.shapes.keys() | reader.buffers.keys()) - known - computed)
    problems += [f"{name} is too many" for name in left if not _is_left_over(module, name)]
    if problems:
        raise _misfit(problems)
    for name in found.values():
        reader.read(name, 0, torch.empty(0))  # refuses types that are no weights
    _require_tied_alike(reader, module, names, found)
    return found


@torch.no_grad()
def fill_engine(reader: WeightReader, names: Mapping[str, str], engine: Engine) -> None:
    """Gives an engine the weights and buffers. **Ranks:** all.

    Every rank reads the ranges that it holds and nothing else.

    Args:
        reader: Opened weights.
        names: Of every parameter in them, as `match_names` found.
        engine: The engine, before its first step.
    """
    for fragment in engine.state_fragments():
        reader.read(names[fragment.name], fragment.start, fragment.weight)
    reader.read_buffers(engine.module)
    engine.refresh_weights()


@torch.no_grad()
def fill_module(
    reader: WeightReader, names: Mapping[str, str], module: torch.nn.Module, device: torch.device
) -> None:
    """Gives a bare module the weights in fp32, and the buffers. **Ranks:** any.

    Args:
        reader: Opened weights.
        names: Of every parameter in them, as `match_names` found.
        module: The model; its parameters may lie on the meta device.
        device: Where it is to live.
    """
    for name, parameter in module.named_parameters():
        flat = torch.empty(parameter.numel())
        reader.read(names[name], 0, flat)
        value = flat.view(parameter.shape)
        if parameter.is_meta or parameter.dtype != value.dtype:
            replace_value(parameter, value)
        else:
            parameter.copy_(value)  # in place, for views that the module has of it
    reader.read_buffers(module)
    module.to(device)


def _names_of(module: torch.nn.Module) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def _problems_of_buffers(reader: WeightReader, buffers: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Checkpoints keep buffers flat, so that there only the number of elements is known."""
    problems = []
    for name, shape in buffers.items():
        there = reader.buffers.get(name)
        if there is None:
            problems.append(f"the buffer {name} is missing")
        elif there != shape and there != (torch.Size(shape).numel(),):
            problems.append(f"the buffer {name} is {list(there)} and not {list(shape)}")
    return problems


def _is_left_over(module: torch.nn.Module, name: str) -> bool:
    """Whether transformers itself passes over a name in folders of this model."""
    patterns = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    return any(re.search(pattern, name) for pattern in patterns)


def _require_tied_alike(
    reader: WeightReader,
    module: torch.nn.Module,
    names: Mapping[int, list[str]],
    found: Mapping[str, str],
) -> None:
    """Weights that are one here must not be two different ones there."""
    for name, parameter in module.named_parameters():
        there = [alias for alias in names[id(parameter)] if alias in reader.shapes]
        for other in there[1:]:
            if reader.stored_as(other) == reader.stored_as(found[name]):
                continue
            if not _are_equal(reader, found[name], other, torch.Size(whole_shape(parameter))):
                raise UnusableWeightsError(
                    f"holds {found[name]} and {other} with different values, but the model here "
                    "ties them",
                    "Set model.config.tie_word_embeddings to false, or take other weights.",
                )


def _are_equal(reader: WeightReader, one: str, other: str, shape: torch.Size) -> bool:
    for start in range(0, shape.numel(), BLOCK_ELEMENTS):
        size = min(BLOCK_ELEMENTS, shape.numel() - start)
        left, right = torch.empty(size), torch.empty(size)
        reader.read(one, start, left)
        reader.read(other, start, right)
        if not torch.equal(left, right):
            return False
    return True


def _misfit(problems: list[str]) -> UnusableWeightsError:
    shown = ", ".join(problems[:_MOST_LINES])
    more = len(problems) - _MOST_LINES
    shown += f" and {more} more" if more > 0 else ""
    fix = "Describe in `model` the model that they are of, or take other weights."
    if any("lm_head" in line and "missing" in line for line in problems):
        fix += " Weights without lm_head are of a model with tie_word_embeddings: true."
    return UnusableWeightsError(f"does not fit the model: {shown}", fix)
