"""Keeping the inputs of blocks alone, and running the blocks again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from phaseline.errors import ConfigurationError, Fault

_ARGUMENTS: dict[str, Any] = {"use_reentrant": False}
_Enable = Callable[[dict[str, Any]], None]


def checkpoint_activations(module: torch.nn.Module, *, path: str) -> None:
    """Makes a model keep only the inputs of its blocks until the backward pass.

    A model of transformers does so by its own means. In any other, the blocks are the members
    of its outermost `ModuleList`s. What blocks draw in the second run is what they drew in the
    first, so every number stays the same, and so does every parameter's name.

    Args:
        module: The bare module, before an engine or a compiler has it.
        path: The setting's place in the configuration, for messages.

    Raises:
        ConfigurationError: The module has no blocks, or a block would not do the same twice.
    """
    enablers, blocks = _find(module)
    if not enablers and not blocks:
        raise _fault(
            path,
            f"is true, but {type(module).__name__} has no blocks to run again; they must be the "
            "members of a torch.nn.ModuleList",
        )
    for block in blocks:
        _require_repeatable(block, path)
    for owner, enable in enablers:
        try:
            enable(_ARGUMENTS)
        except ValueError as error:
            reason = str(error).rstrip(".")
            raise _fault(path, f"is true, but transformers refuses it: {reason}") from error
        # Meant for reentrant checkpoints. It would draw gradients through frozen layers.
        disable: Any = getattr(owner, "disable_input_require_grads", None)
        if disable is not None:
            disable()
    for block in blocks:
        # No wrapper module, which would rename parameters; as a partial it follows a deep copy.
        block.forward = partial(checkpoint, block.forward, **_ARGUMENTS)


def _find(
    module: torch.nn.Module,
) -> tuple[list[tuple[torch.nn.Module, _Enable]], list[torch.nn.Module]]:
    """The outermost models of transformers with their switch, and the other blocks, each once."""
    enablers: list[tuple[torch.nn.Module, _Enable]] = []
    blocks: dict[torch.nn.Module, None] = {}
    waiting = [module]
    while waiting:
        found = waiting.pop()
        enable = _switch_of(found)
        if enable is not None:
            enablers.append((found, enable))
        elif isinstance(found, torch.nn.ModuleList):
            blocks.update(dict.fromkeys(_members(found)))
        else:
            waiting.extend(found.children())
    return enablers, list(blocks)


def _switch_of(module: torch.nn.Module) -> _Enable | None:
    """What turns it on in a model of transformers; newer versions warn about the older name."""
    for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable"):
        enable: _Enable | None = getattr(module, name, None)
        if enable is not None:
            return enable
    return None


def _members(modules: torch.nn.ModuleList) -> Iterator[torch.nn.Module]:
    for member in modules:
        if isinstance(member, torch.nn.ModuleList):
            yield from _members(member)
        else:
            yield member


def _require_repeatable(block: torch.nn.Module, path: str) -> None:
    for name, part in block.named_modules(prefix=type(block).__name__):
        if getattr(part, "track_running_stats", False):
            raise _fault(
                path,
                f"is true, but {name} is a {type(part).__name__}, which would count every batch "
                "twice in its running statistics",
            )


def _fault(path: str, problem: str) -> ConfigurationError:
    return ConfigurationError([Fault(path, "", problem, "Set it to false, or change the model.")])
