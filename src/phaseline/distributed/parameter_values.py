"""Another value in place of a parameter's own, where whoever holds the parameter keeps it."""

from __future__ import annotations

import torch

_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def replace_value(parameter: torch.nn.Parameter, value: torch.Tensor) -> None:
    """Gives a parameter another tensor, of any device and dtype, and stays the same object.

    Optimizers, tied modules, and modules that keep lists of their parameters or weak references
    to them (as `torch.nn.GRU` does) go on with it. Its class, its attributes, whether it is
    trained and its gradient hooks stay; a gradient does not.

    Args:
        parameter: Not in use by a graph whose backward pass is still to come.
        value: Of the same shape; the parameter takes its memory.

    Source: `torch.utils.swap_tensors`, torch 2.13. That function takes class and attributes away
    as well, and refuses a parameter with weak references, which a module converted by torch
    itself would have to make anew. Here the Python object stays, which is what they refer to.
    """
    # Registered with the tensor that goes, and kept by the object that stays.
    hooks = {name: getattr(parameter, name) for name in _HOOKS}
    filled = torch.nn.Parameter(value.detach(), requires_grad=parameter.requires_grad)
    torch._C._swap_tensor_impl(parameter, filled)  # noqa: SLF001 - no public form keeps the object
    for name, registered in hooks.items():
        if registered is not None:
            setattr(parameter, name, registered)
