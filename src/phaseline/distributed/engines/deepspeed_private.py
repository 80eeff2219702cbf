"""Every private name of DeepSpeed that Phaseline touches, in one place.

They were read in the versions that `pyproject.toml` allows; `require_supported` checks
them at start, so that another version is refused in words and not found out in numbers.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from phaseline.errors import EngineError


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
    """Where a piece of one parameter lies in the tensor that this rank's optimizer holds.

    Attributes:
        parameter: The model's parameter.
        start: First element of the piece, in the flattened parameter.
        numel: Its length; may be 0.
        owner: The fp32 tensor that the optimizer steps. [any]
        offset: First element of the piece in `owner`, flattened.
    """

    parameter: torch.nn.Parameter
    start: int
    numel: int
    owner: torch.Tensor
    offset: int


class ZeroState(ABC):
    """One of DeepSpeed's optimizer wrappers, as its state has to be seen.

    Attributes:
        replicated: Whether every rank holds the whole state.
        inner: The torch optimizer that is stepped.
    """

    names: tuple[str, ...]
    """What the wrapper must have."""
    replicated = False

    def __init__(self, wrapper: Any) -> None:
        """Takes the wrapper and checks that it is the known one.

        Args:
            wrapper: `engine.optimizer`.

        Raises:
            EngineError: Naming what is missing and the version.
        """
        require_supported(wrapper, self.names)
        self.wrapper = wrapper
        self.inner: torch.optim.Optimizer = getattr(wrapper, "optimizer", wrapper)

    @abstractmethod
    def ranges(self) -> Iterator[FlatRange]:
        """Yields the pieces of all trained parameters that this rank's optimizer holds."""

    @abstractmethod
    def refresh(self) -> None:
        """Rebuilds the model's weights on all ranks from the fp32 tensors."""

    def forget_gradients(self) -> None:  # noqa: B027 - most wrappers keep nothing
        """Zeroes what a parameter that gets no gradient in the next step would be given."""


class WholeState(ZeroState):
    """Stage 0 in fp32: the torch optimizer itself, over the model's own parameters."""

    names = ("param_groups", "state")
    replicated = True

    def ranges(self) -> Iterator[FlatRange]:
        """Yields every parameter whole."""
        for group in self.inner.param_groups:
            for parameter in group["params"]:
                yield FlatRange(parameter, 0, parameter.numel(), parameter, 0)

    def refresh(self) -> None:
        """Nothing to do: the model's parameters are what is stepped."""


class WholeLowPrecisionState(ZeroState):
    """Stage 0 in bf16: an fp32 copy of every parameter, on every rank."""

    names = ("fp16_groups", "fp32_groups", "optimizer")
    replicated = True

    def __init__(self, wrapper: Any) -> None:
        """Takes the wrapper, and undoes the step that its constructor takes.

        It steps once on zero gradients to make the optimizer's state: that counts as a step
        and decays the weights. Source: `initialize_optimizer_states`, deepspeed 0.19.8.
        """
        super().__init__(wrapper)
        self.inner.state.clear()
        with torch.no_grad():
            for parameter, owner in self._pairs():
                owner.copy_(parameter)

    def ranges(self) -> Iterator[FlatRange]:
        """Yields every parameter whole."""
        for parameter, owner in self._pairs():
            yield FlatRange(parameter, 0, owner.numel(), owner, 0)

    @torch.no_grad()
    def refresh(self) -> None:
        """Rounds the fp32 copies into the model."""
        for parameter, owner in self._pairs():
            parameter.copy_(owner)

    def _pairs(self) -> Iterator[tuple[torch.nn.Parameter, torch.Tensor]]:
        for low, high in zip(self.wrapper.fp16_groups, self.wrapper.fp32_groups, strict=True):
            yield from zip(low, high, strict=True)


class FlatState(ZeroState):
    """Stages 1 and 2: one flat fp32 partition per group."""

    names: tuple[str, ...] = (
        "bit16_groups",
        "bit16_groups_flat",
        "real_dp_process_group",
        "single_partition_of_fp32_groups",
        "update_lp_params",
        "cpu_offload",
        "_lazy_init_hp_params_optimizer_state",
        "_hp_optimizer_states_linked",
    )

    def ranges(self) -> Iterator[FlatRange]:
        """Yields the pieces inside this rank's partitions.

        The low-precision parameters are views into one flat buffer per group, so their storage
        offsets are exact. DeepSpeed's own `_hp_mapping` is wrong with round-robin gradients.
        """
        groups = zip(*self._groups(), self.wrapper.real_dp_process_group, strict=True)
        for parameters, flat, owner, process_group in groups:
            first = owner.numel() * dist.get_rank(process_group)
            for parameter in parameters:
                assert parameter.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
                begin = parameter.storage_offset() - flat.storage_offset()
                low = max(begin, first)
                high = min(begin + parameter.numel(), first + owner.numel())
                if low < high:
                    yield FlatRange(parameter, low - begin, high - low, owner, low - first)

    def refresh(self) -> None:
        """Gathers the model's weights from the ranks' partitions. One all-gather per group."""
        # Linked once, after the first group's first step, when the others have no state yet.
        self.wrapper._hp_optimizer_states_linked = False
        self.wrapper._lazy_init_hp_params_optimizer_state()
        self.wrapper.update_lp_params()

    def reduce_in_order(self) -> None:
        """Makes stage 2 add gradients up after a backward pass, in one order on all ranks.

        By itself it does so in the order of their arrival, which differs between ranks whose
        batches use different parameters. What did not arrive is zero.
        """
        wrapper = self.wrapper
        require_supported(wrapper, ("_coalesce_grad_reduction", "process_gradients"))
        finish = wrapper.overlapping_partition_gradients_reduce_epilogue

        def reduce_all() -> None:
            wrapper._coalesce_grad_reduction = False
            for idx, group in enumerate(wrapper.bit16_groups):
                for parameter in group:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    wrapper.process_gradients(parameter, idx)
            finish()
            wrapper._coalesce_grad_reduction = True

        wrapper.overlapping_partition_gradients_reduce_epilogue = reduce_all
        wrapper._coalesce_grad_reduction = True

    def forget_gradients(self) -> None:
        """Offloaded gradients stay in their buffer, and only those that came overwrite it."""
        if self.wrapper.cpu_offload:
            for owner in self.wrapper.single_partition_of_fp32_groups:
                if owner.grad is not None:
                    owner.grad.zero_()

    def _groups(self) -> tuple[Iterable[Any], Iterable[Any], Iterable[Any]]:
        """Per group: the parameters, the flat buffer that they are views into, the partition."""
        wrapper = self.wrapper
        return (
            wrapper.bit16_groups,
            wrapper.bit16_groups_flat,
            wrapper.single_partition_of_fp32_groups,
        )


class FlatLowPrecisionState(FlatState):
    """Stage 1 in bf16 with gradients added up in fp32: laid out as above, by other names."""

    names = (
        "bf16_groups",
        "bf16_groups_flat",
        "fp32_groups_flat_partition",
        *(name for name in FlatState.names if name.startswith(("_", "update", "real"))),
    )

    def forget_gradients(self) -> None:
        """Nothing to do: the wrapper clears its fp32 gradients after every step."""

    def _groups(self) -> tuple[Iterable[Any], Iterable[Any], Iterable[Any]]:
        wrapper = self.wrapper
        return wrapper.bf16_groups, wrapper.bf16_groups_flat, wrapper.fp32_groups_flat_partition


class PartitionedState(ZeroState):
    """Stage 3: every parameter is divided evenly over the ranks; sub-groups are stepped."""

    names = (
        "fp32_partitioned_groups_flat",
        "fp16_groups",
        "grad_position",
        "get_param_id",
        "grad_partitions_flat_buffer",
        "persistent_parameters",
        "offload_optimizer",
        "_get_param_partition_rank",
        "_partition_all_parameters",
        "_reassign_or_swap_out_partitioned_parameters",
    )

    def ranges(self) -> Iterator[FlatRange]:
        """Yields this rank's part of every parameter, without what pads the last rank's."""
        wrapper = self.wrapper
        for group in wrapper.fp16_groups:
            for parameter in group:
                sub_group, offset, size = wrapper.grad_position[wrapper.get_param_id(parameter)]
                start = size * wrapper._get_param_partition_rank(parameter)
                numel = max(0, min(size, parameter.ds_numel - start))
                owner = wrapper.fp32_partitioned_groups_flat[sub_group]
                yield FlatRange(parameter, min(start, parameter.ds_numel), numel, owner, offset)

    def refresh(self) -> None:
        """Rounds the fp32 partitions into the model's, and gathers what is kept gathered."""
        self.wrapper._partition_all_parameters()
        for idx in range(len(self.wrapper.fp16_groups)):
            self.wrapper._reassign_or_swap_out_partitioned_parameters(idx)
        kept = self.wrapper.persistent_parameters
        if kept:
            kept[0].all_gather(kept)

    def forget_gradients(self) -> None:
        """A buffer keeps the last gradient of a parameter until another one comes."""
        self.wrapper.grad_partitions_flat_buffer.zero_()
        if self.wrapper.offload_optimizer:
            for owner in self.wrapper.fp32_partitioned_groups_flat:
                if owner.grad is not None:
                    owner.grad.zero_()


def zero_state(wrapper: Any) -> ZeroState:
    """Returns the view of an engine's optimizer that fits it.

    Raises:
        EngineError: It is none of those that are known.
    """
    if hasattr(wrapper, "fp32_partitioned_groups_flat"):
        return PartitionedState(wrapper)
    if hasattr(wrapper, "fp32_groups") and hasattr(wrapper, "fp16_groups"):
        return WholeLowPrecisionState(wrapper)
    if hasattr(wrapper, "bf16_groups"):
        return FlatLowPrecisionState(wrapper)
    if isinstance(wrapper, torch.optim.Optimizer):
        return WholeState(wrapper)
    return FlatState(wrapper)


def require_supported(wrapper: Any, names: Iterable[str]) -> None:
    """Raises unless one of DeepSpeed's optimizers has the names that are used here.

    Raises:
        EngineError: Naming what is missing and the version.
    """
    missing = [name for name in names if not hasattr(wrapper, name)]
    if missing:
        import deepspeed

        raise EngineError(
            f"DeepSpeed {deepspeed.__version__} has no {', '.join(missing)} in "
            f"{type(wrapper).__name__}, so its state could not be saved exactly. "
            "Install a version that pyproject.toml allows."
        )


def partition_rank(zero: ZeroState, parameter: torch.nn.Parameter) -> int:
    """Which part of a partitioned parameter this rank holds."""
    rank: int = zero.wrapper._get_param_partition_rank(parameter)
    return rank


def is_partitioned(parameter: torch.nn.Parameter) -> bool:
    """Whether ZeRO-3 holds a parameter in parts."""
    return hasattr(parameter, "ds_id")
