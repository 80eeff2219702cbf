"""The same bits each time: what the process and its environment must be set to for it.

Two things are set, at two times. The environment, once, before CUDA and NCCL start: they
read it then and never again. And torch's switches of the process, around each phase, so
that phases of one process may differ.

Attention needs no switch of its own. While torch's is on, flash takes its deterministic
backward, memory-efficient does not split its keys, and cuDNN's is not chosen.

Source: torch's `attention_backward.cu` and `sdp_utils.cpp`, and pytorch pull request 182551,
which tried each on a GPU; NCCL's `parseList`, and nccl issue 1497 on NVLS.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from phaseline.errors import EngineError, UsageError

_ERROR_MODE = 2
"""Of torch's debug modes, the one in which an operation without a fixed order raises."""

_INDUCTOR_VARIABLE = "TORCHINDUCTOR_DETERMINISTIC"
_NO_IMPLEMENTATION = re.compile(r"(\S.*?) does not have a deterministic implementation, but you")


@dataclass(frozen=True)
class _Variable:
    """An environment variable that a library reads once.

    Attributes:
        name: Its name.
        value: What it is set to where nobody has set it.
        accepts: Whether a value of the user's keeps the promise too.
        allowed: Which ones do, completing "it must be ...".
    """

    name: str
    value: str
    accepts: Callable[[str], bool]
    allowed: str


def _pins(choices: tuple[str, ...], text: str) -> bool:
    """Whether NCCL is left one choice for every collective, as in `Ring;allreduce:Tree`."""
    first, *others = text.lower().split(";")
    named = [other.partition(":")[2] for other in others]
    return all(choice in choices for choice in (first, *named))


_WORKSPACE = _Variable(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8", (":4096:8", ":16:8").__contains__, ":4096:8 or :16:8"
)
_VARIABLES = (
    _WORKSPACE,
    # Not NVLS: the switch that adds there does so in no fixed order. Ring serves every
    # collective and every version; Tree only all-reduce.
    _Variable(
        "NCCL_ALGO", "Ring", partial(_pins, ("ring", "tree")), "Ring, Tree or Ring;allreduce:Tree"
    ),
    # Each protocol cuts a message into other pieces, so their ring begins at other ranks.
    _Variable(
        "NCCL_PROTO", "Simple", partial(_pins, ("simple", "ll", "ll128")), "Simple, LL or LL128"
    ),
    # Of transformers, for the backward of the package flash-attn.
    _Variable("FLASH_ATTENTION_DETERMINISTIC", "1", ("1",).__contains__, "1"),
)


def visible_device_type() -> str:
    """Returns `cuda` or `cpu`: what a world that starts now would train on. Starts nothing."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve(setting: bool | None, device_type: str) -> bool:
    """Returns what `engine.deterministic` means on a device: null is true on CPUs alone."""
    return device_type == "cpu" if setting is None else setting


def promise(deterministic: bool, device_type: str) -> str:
    """Returns one line on what an interruption may change."""
    if deterministic:
        same = "ranks, GPU model" if device_type == "cuda" else "ranks, threads"
        return (
            "deterministic: an interrupted run equals an uninterrupted one bit for bit "
            f"(same {same} and versions)"
        )
    return (
        "not deterministic: a resumed run begins from the same bits and sees the same samples, "
        "its numbers agree within rounding; engine.deterministic: true makes them equal bit for bit"
    )


def promises(phases: Mapping[str, bool], device_type: str) -> list[str]:
    """Returns the session's promise: one line, or one for each kind of phase if they differ.

    Args:
        phases: Whether each is deterministic, by name.
        device_type: `cuda` or `cpu`.
    """
    kinds = sorted(set(phases.values()), reverse=True)
    if len(kinds) == 1:
        return [promise(kinds[0], device_type)]
    return [
        f"{', '.join(name for name, value in phases.items() if value is kind)}: "
        f"{promise(kind, device_type)}"
        for kind in kinds
    ]


def prepare_environment(
    phases: Mapping[str, bool],
    device_type: str,
    variables: MutableMapping[str, str] = os.environ,
) -> None:
    """Sets what CUDA's libraries and NCCL must find when they start. **Ranks:** all.

    They serve the whole process, so one deterministic phase is enough. Nothing is taken
    back: a library that has started does not read its variable again.

    Args:
        phases: Whether each is deterministic, by name.
        device_type: `cuda` or `cpu`; on CPUs nothing is needed.
        variables: The environment.

    Raises:
        UsageError: The user's own value of a variable breaks the promise, or it is too late.
    """
    wanting = [name for name, deterministic in phases.items() if deterministic]
    if device_type != "cuda" or not wanting:
        return
    where = f"phases[{wanting[0]}].engine.deterministic is true"
    is_started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch does not type it
    if is_started and not variables.get(_WORKSPACE.name):
        raise UsageError(
            f"{_WORKSPACE.name} is not set, this program has used CUDA already, and {where}; "
            f"cuBLAS reads it when it starts. Set {_WORKSPACE.name}={_WORKSPACE.value} before "
            "the program starts, or set engine.deterministic to false."
        )
    for variable in _VARIABLES:
        # What is empty counts as unset, as NCCL takes it.
        found = variables.get(variable.name) or variable.value
        if not variable.accepts(found):
            raise UsageError(
                f"The environment variable {variable.name} is {found!r}, and {where}; it must be "
                f"{variable.allowed}. Unset it, which means {variable.value}, or set "
                "engine.deterministic to false."
            )
        variables[variable.name] = found


@contextmanager
def deterministic_kernels(setting: bool | None, device_type: str, *, path: str) -> Iterator[None]:
    """Lets torch use only kernels with a fixed order of operations while the block runs.

    The process's switches are put back as they were found; where the setting means false,
    they are left alone. TF32 is not touched: it rounds, and rounds the same each time.

    Args:
        setting: The phase's `engine.deterministic`.
        device_type: `cuda` or `cpu`.
        path: The setting's place in the configuration, for the message.

    Raises:
        EngineError: An operation has no such kernel; names it.
    """
    if not resolve(setting, device_type):
        yield
        return
    found = _Switches.read()
    _Switches.for_fixed_order().write()
    try:
        yield
    except RuntimeError as error:
        match = _NO_IMPLEMENTATION.search(str(error))
        if match is None:
            raise
        found_text = "true" if setting else "null, which means true on CPUs"
        raise EngineError(
            f"{path} is {found_text}, and torch has no deterministic implementation of "
            f"{match[1]}. Use another operation, or set it to false: a resumed run then agrees "
            "with an uninterrupted one within rounding, not bit for bit."
        ) from error
    finally:
        found.write()


@dataclass(frozen=True)
class _Switches:
    """torch's switches of the process.

    Attributes:
        debug_mode: What an operation without a fixed order does.
        cudnn_deterministic: Whether cuDNN takes only deterministic convolutions.
        cudnn_benchmark: Whether it chooses the one that is fastest on a try, which may be
            another next time.
        fill_memory: Whether new memory is filled, so that reading it before it was written
            gives the same each time. Nothing here reads it so, and filling costs a pass
            over every new tensor.
        inductor: Whether compiled code is chosen without timing candidates; None: torch is
            too old to say.
        inductor_variable: The same for an inductor that is not imported yet.
    """

    debug_mode: int
    cudnn_deterministic: bool
    cudnn_benchmark: bool
    fill_memory: bool
    inductor: bool | None
    inductor_variable: str | None

    @classmethod
    def read(cls) -> _Switches:
        """Returns how they stand."""
        variable = os.environ.get(_INDUCTOR_VARIABLE)
        config = sys.modules.get("torch._inductor.config")
        return cls(
            debug_mode=torch.get_deterministic_debug_mode(),
            cudnn_deterministic=torch.backends.cudnn.deterministic,
            cudnn_benchmark=torch.backends.cudnn.benchmark,
            fill_memory=torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]  # a property of the module
            # Not imported, it would begin with what the variable says.
            inductor=variable == "1" if config is None else getattr(config, "deterministic", None),
            inductor_variable=variable,
        )

    @classmethod
    def for_fixed_order(cls) -> _Switches:
        """Returns what a deterministic phase wants."""
        return cls(
            debug_mode=_ERROR_MODE,
            cudnn_deterministic=True,
            cudnn_benchmark=False,
            fill_memory=False,
            inductor=True,
            inductor_variable="1",
        )

    def write(self) -> None:
        """Sets them."""
        # Not `use_deterministic_algorithms`, which imports inductor to set its switch: 1.3 to
        # 2 s of CPU in every process, for a model that is not compiled.
        torch.set_deterministic_debug_mode(self.debug_mode)
        torch.backends.cudnn.deterministic = self.cudnn_deterministic
        torch.backends.cudnn.benchmark = self.cudnn_benchmark
        torch.utils.deterministic.fill_uninitialized_memory = self.fill_memory  # type: ignore[attr-defined]  # a property of the module
        config: Any = sys.modules.get("torch._inductor.config")
        if self.inductor is not None and hasattr(config, "deterministic"):
            config.deterministic = self.inductor
        if self.inductor_variable is None:
            os.environ.pop(_INDUCTOR_VARIABLE, None)
        else:
            os.environ[_INDUCTOR_VARIABLE] = self.inductor_variable
