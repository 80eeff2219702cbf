"""torch.compile with what a resumable run needs of it: static shapes, and no silent fallback."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch

from phaseline.errors import ConfigurationError, Fault

# torch gives up after 8 graphs of one function and goes on without a compiler, for good. A
# model needs one for each shape of batch, in training and in evaluation.
_MOST_GRAPHS = 1024

_FIXES = {
    "cpu": "Install a C++ compiler, for example g++, or name one in the variable CXX",
    "cuda": "Install Triton, a C compiler such as gcc, and Python's headers (python3-dev)",
}


def compile_module(module: torch.nn.Module) -> None:
    """Compiles a module's forward in place; no parameter changes its name.

    Every shape of batch has its own graph, so that an evaluation in another shape leaves the
    training as it was. Random numbers come from the same seeds as without a compiler, but they
    are others: dropout has other masks. Under ZeRO-3, which gathers weights in hooks around
    every layer, what lies between those hooks is compiled.

    A part of the module that has a method `keep_uncompiled` is told first.

    Args:
        module: The bare module, before or after an engine has it.
    """
    for part in module.modules():
        keep_uncompiled = getattr(part, "keep_uncompiled", None)
        if keep_uncompiled is not None:
            keep_uncompiled()
    _never_fall_back()
    _leave_alone("deepspeed")
    module.compile(backend="inductor", dynamic=False)


@contextmanager
def uncompiled() -> Iterator[None]:
    """While it lasts, compiled modules run as if they were not.

    Generation needs it: each token has another shape.
    """
    with torch.compiler.set_stance("force_eager"):
        yield


def eager(module: torch.nn.Module) -> AbstractContextManager[None]:
    """As `uncompiled` for a module that is compiled; nothing, at no cost, for any other."""
    is_compiled = any(
        part._compiled_call_impl is not None  # noqa: SLF001 - torch has no public question
        for part in module.modules()
    )
    return uncompiled() if is_compiled else nullcontext()


def require_compiler(device: torch.device, *, path: str) -> None:
    """Compiles and runs a tiny function, which no cache can hold. Takes seconds.

    Args:
        device: Where the model will run.
        path: The setting's place in the configuration, for messages.

    Raises:
        ConfigurationError: torch.compile does not work here.
    """
    unseen = secrets.randbits(40)

    def count(zeros: torch.Tensor) -> torch.Tensor:
        return zeros + unseen if torch.compiler.is_compiling() else zeros

    _never_fall_back()
    fix = _FIXES.get(device.type, "Install what torch.compile needs there")
    zeros = torch.zeros(8, dtype=torch.int64, device=device)
    try:
        counted = torch.compile(count, backend="inductor", dynamic=False)(zeros)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise _fault(path, f"is true, but torch.compile fails here: {reason}", fix) from error
    if not torch.equal(counted, torch.full_like(zeros, unseen)):
        raise _fault(
            path,
            "is true, but torch.compile is switched off here",
            "Remove TORCH_COMPILE_DISABLE and TORCHDYNAMO_DISABLE from the environment",
        )


def _never_fall_back() -> None:
    """Makes torch raise where it would go on without a compiler. For the whole process."""
    import torch._dynamo

    settings: Any = torch._dynamo.config  # noqa: SLF001 - where torch documents these settings
    settings.suppress_errors = False
    settings.fail_on_recompile_limit_hit = True
    settings.recompile_limit = _MOST_GRAPHS
    settings.accumulated_recompile_limit = _MOST_GRAPHS


@cache
def _leave_alone(package: str) -> None:
    """Keeps the compiler out of a package's functions.

    DeepSpeed's hooks differ from layer to layer, so each layer would add a graph of each hook.
    Source: ZeRO-3 with deepspeed 0.19.8 and torch 2.13, 3 layers: 34 graphs, and torch gave up
    on two functions; without DeepSpeed's own functions: 22 graphs, for 10 layers too.
    """
    from torch._dynamo import trace_rules

    trace_rules.add(package)


def _fault(path: str, problem: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Fault(path, "", problem, f"{fix}, or set it to false.")])
