"""Building a model whose parameters hold no memory: for parts of it, or values that come later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def give_memory(module: torch.nn.Module) -> None:
    """Makes parameters that hold no memory zeros on the CPU; tied ones stay tied."""
    for parameter in module.parameters():
        if parameter.is_meta:
            zeros = torch.zeros(parameter.shape, dtype=parameter.dtype)
            filled = torch.nn.Parameter(zeros, requires_grad=parameter.requires_grad)
            torch.utils.swap_tensors(parameter, filled)  # type: ignore[no-untyped-call]  # torch does not type it


@contextmanager
def parameters_without_memory() -> Iterator[None]:
    """Moves every parameter that a module registers to the meta device, as it registers it.

    Buffers and whatever else constructors compute stay real, and random numbers are drawn as
    always. The parameter objects stay the same, so tied weights stay tied. Not for threads.
    """
    register = torch.nn.Module.register_parameter

    def register_empty(
        module: torch.nn.Module, name: str, param: torch.nn.Parameter | None
    ) -> None:
        register(module, name, param)
        if param is not None and not param.is_meta:
            empty = torch.empty_like(param, device="meta")
            torch.utils.swap_tensors(  # type: ignore[no-untyped-call]  # torch does not type it
                param, torch.nn.Parameter(empty, requires_grad=param.requires_grad)
            )

    torch.nn.Module.register_parameter = register_empty  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign]
