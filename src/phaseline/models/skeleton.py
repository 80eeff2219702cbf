"""Building a model whose parameters hold no memory: for parts of it, or values that come later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from phaseline.distributed.parameter_values import replace_value

_Module = TypeVar("_Module", bound=torch.nn.Module)


def give_memory(module: torch.nn.Module) -> None:
    """Makes parameters that hold no memory zeros on the CPU; tied ones stay tied."""
    for parameter in module.parameters():
        if parameter.is_meta:
            replace_value(parameter, torch.zeros(parameter.shape, dtype=parameter.dtype))


def build_without_memory(build: Callable[[], _Module]) -> _Module:
    """Builds a module whose parameters lie on the meta device. Not for threads.

    Everything else of it is as in a module that was built as always: buffers, and what its
    constructor computes, also where it draws random numbers. A module for which that takes the
    values of its parameters (a spectral norm, a view of a weight, a random projection drawn after
    the weights) is built once more with memory, and keeps it.

    Args:
        build: Makes the module, from the generators' present state or after seeding them; it
            may be called twice. The parameters that it makes are moved to the meta device as a
            module registers them, and stay the same objects, so that tied weights stay tied.

    Raises:
        Exception: Whatever `build` raises.
    """
    state = torch.get_rng_state()
    try:
        with _parameters_on_meta():
            module = build()
        is_whole = not _has_drawn(state) and not any(_lost_values(module))
    except Exception:  # noqa: BLE001 - with memory it fails again if that is not why it failed
        is_whole = False
    if not is_whole:
        torch.set_rng_state(state)
        module = build()
    return module


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Moves every parameter that a module registers to the meta device, as it registers it."""
    register = torch.nn.Module.register_parameter

    def register_empty(
        module: torch.nn.Module, name: str, param: torch.nn.Parameter | None
    ) -> None:
        register(module, name, param)
        if param is not None and not param.is_meta:
            replace_value(param, torch.empty_like(param, device="meta"))

    torch.nn.Module.register_parameter = register_empty  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign]


def _has_drawn(before: torch.Tensor) -> bool:
    """Whether torch's random numbers were used since a state, or since they were last seeded.

    Initial values on the meta device draw none, so whatever is drawn beside them would differ
    from a module's that was built with memory.
    """
    now = torch.get_rng_state()
    seeded = torch.Generator().manual_seed(torch.initial_seed()).get_state()
    return not torch.equal(now, before) and not torch.equal(now, seeded)


def _lost_values(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Tensors of a module that are no parameters and were computed from ones without values."""
    parameters = {id(parameter) for parameter in module.parameters()}
    for part in module.modules():
        for held in vars(part).values():  # buffers too
            for tensor in _tensors_in(held):
                if tensor.is_meta and id(tensor) not in parameters:
                    yield tensor


def _tensors_in(held: Any) -> Iterator[torch.Tensor]:
    if isinstance(held, torch.Tensor):
        yield held
    elif isinstance(held, (list, tuple)):
        yield from (item for item in held if isinstance(item, torch.Tensor))
    elif isinstance(held, dict):
        yield from (item for item in held.values() if isinstance(item, torch.Tensor))
