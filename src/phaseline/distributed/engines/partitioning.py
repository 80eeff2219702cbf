"""From a module to one that ZeRO-3 holds in parts, without a copy of it on every rank."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from phaseline.distributed.engines import deepspeed_private as private
from phaseline.distributed.parameter_values import replace_value
from phaseline.errors import EngineError

_EXPERT = re.compile(r"expert", re.IGNORECASE)


def partition(module: torch.nn.Module, *, dtype: torch.dtype, device: torch.device) -> None:
    """Divides every parameter over the ranks, a module at a time. **Ranks:** all. Collectives.

    The main rank's values are those that count. A rank whose parameters hold no memory (on the
    meta device) gets its part of them; at no time does it hold more than one module.

    Args:
        module: The bare model; changed in place, its parameters stay the same objects.
        dtype: Of the weights that forward and backward see.
        device: Where they live.
    """
    init = private.import_deepspeed().zero.Init

    for part in _children_first(module):
        own = list(part.parameters(recurse=False))
        fresh = [parameter for parameter in own if not private.is_partitioned(parameter)]
        for parameter in fresh:
            _materialize(parameter, dtype, device)
        if fresh:
            init(module=part, mem_efficient_linear=False, dtype=dtype)


@contextmanager
def own_hooks_last(module: torch.nn.Module) -> Iterator[None]:
    """Lets a model's own forward pre-hooks run behind those that are registered meanwhile.

    DeepSpeed's gather a module's parameters. A hook that computes with them, as that of
    `torch.nn.utils.weight_norm`, would find them empty, and torch's kernels read on regardless.
    """
    hooks = []
    for part in module.modules():
        registered: Any = part._forward_pre_hooks  # noqa: SLF001 - torch shows their order nowhere else
        hooks += [(registered, key) for key in registered]
    yield
    for registered, key in hooks:
        registered.move_to_end(key)


def mark_leaf_modules(module: torch.nn.Module, names: Sequence[str]) -> list[str]:
    """Tells ZeRO-3 which modules to gather whole, and returns the names of their classes.

    Ranks that route tokens to different experts would otherwise gather different parameters,
    and wait for each other forever. Modules that hold a list of experts are found here.

    Args:
        module: The bare model.
        names: Classes that the configuration names besides.

    Raises:
        EngineError: A name is no class of a module of this model.
    """
    from deepspeed.utils import set_z3_leaf_modules

    classes = {type(part).__name__: type(part) for part in module.modules()}
    unknown = [name for name in names if name not in classes]
    if unknown:
        known = ", ".join(sorted(classes))
        raise EngineError(
            f"engine.leaf_modules names {', '.join(unknown)}, but the model has no module of that "
            f"class. It has {known}."
        )
    found = {type(part).__name__ for part in module.modules() if _holds_experts(part)}
    leaves = sorted(found | set(names))
    if leaves:
        set_z3_leaf_modules(module, [classes[name] for name in leaves])
    return leaves


def leaf_parameters(module: torch.nn.Module) -> set[torch.nn.Parameter]:
    """Parameters of modules that are gathered whole; some may go unused on some ranks."""
    from deepspeed.utils import z3_leaf_module

    return {p for part in module.modules() if z3_leaf_module(part) for p in part.parameters()}


def _children_first(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    for child in module.children():
        yield from _children_first(child)
    yield module


def _materialize(parameter: torch.nn.Parameter, dtype: torch.dtype, device: torch.device) -> None:
    if not parameter.is_meta:
        parameter.data = parameter.data.to(device=device, dtype=dtype)
        return
    replace_value(parameter, torch.empty(parameter.shape, dtype=dtype, device=device))


def _holds_experts(part: torch.nn.Module) -> bool:
    return any(
        isinstance(child, torch.nn.ModuleList) and _EXPERT.search(name) and len(child) > 1
        for name, child in part.named_children()
    )
