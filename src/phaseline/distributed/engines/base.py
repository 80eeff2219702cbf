"""The one shape that every engine has, as the loop and the checkpoints see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

Scalar = float | int


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What an engine is built for. Each number has this one owner.

    Attributes:
        kind: `plain` or `deepspeed`.
        zero_stage: ZeRO stage; without effect for `plain`.
        micro_batch_size: Sequences per forward and rank.
        accumulation_steps: Micro-steps per optimizer step.
        clip_norm: Largest gradient norm; None: gradients are not scaled.
        precision: fp32 or bf16, of forward and backward.
        offload: `none`, or `optimizer`: its state and step on the CPU.
        leaf_modules: Classes whose modules ZeRO-3 gathers whole.
        unused_parameters: Whether a batch may leave out parameters.
        deepspeed: Further settings of DeepSpeed; the configuration has checked them.
    """

    kind: str
    zero_stage: int
    micro_batch_size: int
    accumulation_steps: int
    clip_norm: float | None
    precision: str = "fp32"
    offload: str = "none"
    leaf_modules: tuple[str, ...] = ()
    unused_parameters: bool = False
    deepspeed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_dtype(self) -> torch.dtype:
        """Of the weights that DeepSpeed's forward and backward see."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    @property
    def partitions_weights(self) -> bool:
        """Whether no rank holds a parameter whole, so that all ranks must work in step."""
        return self.kind == "deepspeed" and self.zero_stage == 3

    @property
    def name(self) -> str:
        """How checkpoints and logs call this engine."""
        return "plain" if self.kind == "plain" else f"zero{self.zero_stage}"


@dataclass(frozen=True)
class StepReport:
    """What an optimizer step did.

    Attributes:
        grad_norm: 2-norm of the whole gradient before clipping.
        skipped: Whether the update was left out because the gradient was not finite.
    """

    grad_norm: float
    skipped: bool


@dataclass(frozen=True, kw_only=True)
class StateFragment:
    """The part of one parameter's state that this rank holds, as views to read or write.

    Attributes:
        name: The parameter's name in the bare module.
        start: First element, in the flattened parameter.
        numel: Number of elements; may be 0.
        shape: Shape of the whole parameter.
        weight: View of the fp32 weights, or of the frozen weights in their own dtype. [numel]
        trainable: Whether an optimizer holds it.
        replicated: Whether every rank holds the same range.
        state: The optimizer's own dictionary for the tensor that holds this fragment;
            several fragments may share one. Empty before the first step.
        owner: That tensor; the dictionary's tensors are laid out like it.
        offset: First element of this fragment in `owner`, flattened.
        scalars_on_device: Whether the optimizer's kernels read its numbers on the device.
    """

    name: str
    start: int
    numel: int
    shape: tuple[int, ...]
    weight: torch.Tensor
    trainable: bool
    replicated: bool
    state: dict[str, Any] = field(default_factory=dict)
    owner: torch.Tensor | None = None
    offset: int = 0
    scalars_on_device: bool = False

    def tensors(self) -> dict[str, torch.Tensor]:
        """Views of the optimizer's element-wise state, by key. [numel]"""
        assert self.owner is not None or not self.state
        return {
            key: value.view(-1).narrow(0, self.offset, self.numel)
            for key, value in self.state.items()
            if self._is_elementwise(value)
        }

    def scalars(self) -> dict[str, Scalar]:
        """The optimizer's per-tensor numbers, by key, as `step`."""
        found: dict[str, Scalar] = {}
        for key, value in self.state.items():
            if torch.is_tensor(value) and not self._is_elementwise(value):
                found[key] = value.item()
            elif isinstance(value, (int, float)):
                found[key] = value
        return found

    def create_state(self, dtypes: Mapping[str, torch.dtype]) -> None:
        """Makes zeroed element-wise state where it is missing, as before a first step."""
        assert self.owner is not None
        for key, dtype in dtypes.items():
            if key not in self.state:
                self.state[key] = torch.zeros_like(
                    self.owner, dtype=dtype, memory_format=torch.preserve_format
                ).detach()

    def set_scalar(self, key: str, value: Scalar, *, as_tensor: bool) -> None:
        """Sets a per-tensor number, in a tensor of its own where the optimizer keeps one."""
        if not as_tensor:
            self.state[key] = value
            return
        device = torch.device("cpu")
        if self.owner is not None and self.scalars_on_device:
            device = self.owner.device
        self.state[key] = torch.tensor(float(value), dtype=torch.float32, device=device)

    def scalar_is_tensor(self, key: str) -> bool:
        """Whether the optimizer keeps this number in a tensor."""
        return torch.is_tensor(self.state.get(key))

    def _is_elementwise(self, value: Any) -> bool:
        return (
            torch.is_tensor(value)
            and self.owner is not None
            and value.dim() > 0
            and value.numel() == self.owner.numel()
        )


def whole_shape(parameter: torch.nn.Parameter) -> tuple[int, ...]:
    """The shape of a parameter, whether or not ZeRO-3 holds it in parts."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def keeps_scalars_on_device(group: Mapping[str, Any]) -> bool:
    """Whether torch's optimizers keep `step` beside the parameters of a group.

    Source: `_get_value` and `_init_group` of torch.optim.adamw, torch 2.13.
    """
    return bool(group.get("fused") or group.get("capturable"))


class SavedEngine(Protocol):
    """What a checkpoint needs of an engine."""

    settings: EngineSettings
    module: torch.nn.Module
    """The bare model, as it was built."""

    def state_fragments(self) -> Iterator[StateFragment]:
        """Yields this rank's part of every parameter's state, in the module's order."""


class Engine(SavedEngine, Protocol):
    """Forward, backward and step over all ranks. Every method is called on all ranks."""

    model: torch.nn.Module
    """What a forward goes through; wraps `module`."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups; writing `lr` into one takes effect at the next step."""

    def begin_micro_step(self, *, is_last: bool) -> None:
        """Says, before its forward, whether this micro-step is the last of its step."""

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradient of `loss` to what `step` will use, averaged over the ranks."""

    def step(self) -> StepReport:
        """Clips, updates and clears the gradient, or skips if it is not finite."""

    def refresh_weights(self) -> None:
        """Makes the model's weights follow fragments that were written to."""

    def close(self) -> None:
        """Releases the model and the optimizer; the engine cannot be used afterwards."""
