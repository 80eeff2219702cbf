"""Every private name of DeepSpeed that Phaseline touches, in one place.

They were read in the versions that `pyproject.toml` allows; `require_supported` checks
them at start, so that another version is refused in words and not found out in numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from phaseline.errors import EngineError

_ZERO_OPTIMIZER_NAMES = (
    "bit16_groups",
    "bit16_groups_flat",
    "real_dp_process_group",
    "single_partition_of_fp32_groups",
    "update_lp_params",
    "_lazy_init_hp_params_optimizer_state",
    "_hp_optimizer_states_linked",
)


def import_deepspeed() -> Any:
    """Imports DeepSpeed without what it would compile on the way.

    `original_muon` wraps functions in `torch.compile` at import, which pulls in dynamo and
    inductor: 1 to 2 s of CPU in every process. The wrapping is left out while that module
    loads; Muon is not offered here. And `deepspeed.comm` builds a shared-memory extension
    with a C compiler when it starts, for inference alone; it is told that there is none.

    Source: measured and read in deepspeed 0.19.8.
    """
    if "deepspeed" not in sys.modules:
        compile_function = torch.compile

        def leave_uncompiled(model: Any = None, **_: Any) -> Any:
            return model if model is not None else leave_uncompiled

        torch.compile = leave_uncompiled
        try:
            import deepspeed
            import deepspeed.runtime.zero.muon.original_muon
        finally:
            torch.compile = compile_function
    import deepspeed
    import deepspeed.comm.torch

    # Through sys.modules: `deepspeed.comm.torch` as an attribute is the torch package.
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]  # private
    return deepspeed


@dataclass(frozen=True)
class FlatRange:
    """Where a piece of one parameter lies in the flat tensor that this rank's optimizer holds.

    Attributes:
        parameter: The model's parameter.
        start: First element of the piece, in the flattened parameter.
        numel: Its length.
        owner: This rank's flat fp32 partition of the parameter's group. [partition]
        offset: First element of the piece in `owner`.
    """

    parameter: torch.nn.Parameter
    start: int
    numel: int
    owner: torch.Tensor
    offset: int


def require_supported(zero_optimizer: Any) -> None:
    """Raises unless a ZeRO-1/2 optimizer has the names that are used below.

    Raises:
        EngineError: Naming what is missing and the version.
    """
    missing = [name for name in _ZERO_OPTIMIZER_NAMES if not hasattr(zero_optimizer, name)]
    if missing:
        import deepspeed

        raise EngineError(
            f"DeepSpeed {deepspeed.__version__} has no {', '.join(missing)} in "
            f"{type(zero_optimizer).__name__}, so its state could not be saved exactly. "
            "Install a version that pyproject.toml allows."
        )


def flat_ranges(zero_optimizer: Any) -> Iterator[FlatRange]:
    """Yields the pieces of all trained parameters that this rank's ZeRO-1/2 optimizer holds.

    The low-precision parameters are views into one flat buffer per group, so their storage
    offsets are exact. DeepSpeed's own `_hp_mapping` is wrong with round-robin gradients.
    """
    groups = zip(
        zero_optimizer.bit16_groups,
        zero_optimizer.bit16_groups_flat,
        zero_optimizer.real_dp_process_group,
        zero_optimizer.single_partition_of_fp32_groups,
        strict=True,
    )
    for parameters, flat, process_group, owner in groups:
        first = owner.numel() * dist.get_rank(process_group)
        for parameter in parameters:
            assert parameter.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
            begin = parameter.storage_offset() - flat.storage_offset()
            low = max(begin, first)
            high = min(begin + parameter.numel(), first + owner.numel())
            if low < high:
                yield FlatRange(parameter, low - begin, high - low, owner, low - first)


def inner_optimizer(zero_optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer that a ZeRO optimizer steps."""
    inner = zero_optimizer.optimizer
    assert isinstance(inner, torch.optim.Optimizer)
    return inner


def refresh_weights(zero_optimizer: Any) -> None:
    """Rebuilds the model's weights on all ranks from the fp32 partitions. One all-gather."""
    # Linked once, after the first group's first step, when the others have no state yet.
    zero_optimizer._hp_optimizer_states_linked = False
    zero_optimizer._lazy_init_hp_params_optimizer_state()
    zero_optimizer.update_lp_params()
