"""Models that stand beside the one that is trained: filled once, never changed."""

from __future__ import annotations

from typing import Any

import torch
import xxhash

from phaseline.checkpoint.foreign import ForeignWeights
from phaseline.checkpoint.lora_weights import view_without_adapters
from phaseline.checkpoint.reader import persistent_buffers
from phaseline.checkpoint.weight_matching import fill_module, match_names
from phaseline.checkpoint.weight_readers import open_weights
from phaseline.distributed.engines import EngineSettings


class FrozenModel(torch.nn.Module):
    """A model that is asked and never trained: no gradient, always in evaluation mode.

    Attributes:
        module: The bare model.
    """

    def __init__(self, module: torch.nn.Module, *, autocasts: bool) -> None:
        """Freezes a module.

        Args:
            module: The bare model, on its device.
            autocasts: Whether a forward computes in bf16 from weights in fp32.
        """
        super().__init__()
        self.module = module.requires_grad_(False).eval()
        self._autocasts = autocasts

    def train(self, mode: bool = True) -> FrozenModel:  # noqa: ARG002 - torch's signature
        """Stays in evaluation mode, whatever the model beside it does."""
        return self

    @torch.no_grad()
    def forward(self, *arguments: Any, **named: Any) -> Any:
        """What the model says."""
        device_type = next(self.module.parameters()).device.type
        with torch.autocast(device_type, torch.bfloat16, enabled=self._autocasts):
            return self.module(*arguments, **named)


def fill_frozen(
    weights: ForeignWeights, module: torch.nn.Module, device: torch.device
) -> torch.nn.Module:
    """Gives a bare module its weights in fp32. **Ranks:** any; each gets a whole copy.

    Args:
        weights: What was found at a path; adapters are merged into them.
        module: The bare model, without adapters; its parameters may lie on the meta device.
        device: Where it is to live.

    Returns:
        The module.

    Raises:
        UnusableWeightsError: The weights are not those of such a model.
    """
    with open_weights(weights) as reader:
        plain = view_without_adapters(reader, "merge")
        fill_module(plain, match_names(plain, module), module, device)
    return module


def freeze(module: torch.nn.Module, settings: EngineSettings) -> FrozenModel:
    """Freezes a filled module, in the precision that an engine's forward has.

    DeepSpeed computes bf16 from weights in bf16, the plain engine from weights in fp32. ZeRO-3
    leaves buffers as they are.

    Args:
        module: The bare model in fp32, on its device.
        settings: Of the engine beside it.
    """
    is_plain = settings.kind == "plain"
    if settings.partitions_weights:
        for parameter in module.parameters():
            parameter.data = parameter.data.to(settings.model_dtype)
    elif not is_plain:
        module.to(settings.model_dtype)
    return FrozenModel(module, autocasts=is_plain and settings.precision == "bf16")


def fingerprint_of(module: torch.nn.Module) -> str:
    """Names the weights and persistent buffers, in whichever files they lay."""
    digest = xxhash.xxh3_128()
    for name, tensor in [*module.named_parameters(), *persistent_buffers(module).items()]:
        flat: Any = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(flat.numpy())
    return digest.hexdigest()
