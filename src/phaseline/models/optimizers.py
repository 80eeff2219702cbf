"""Optimizers by name, and the parameter groups that they are given."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch

from phaseline.config.plugins import load_attribute
from phaseline.config.sections import OptimizerSection


def build_optimizer(
    module: torch.nn.Module, section: OptimizerSection, *, device: torch.device
) -> torch.optim.Optimizer:
    """Builds the optimizer of a phase over the module's trainable parameters.

    Args:
        module: The bare module.
        section: Which optimizer, and its numbers.
        device: Where the parameters will live; decides whether kernels can be fused.
    """
    groups = parameter_groups(module, section)
    build = _BUILDERS.get(section.name)
    if build is None:
        factory = load_attribute(section.name, path="optimizer.name")
        optimizer = factory(groups, lr=section.lr, **section.arguments)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer
    return build(groups, section, device)


def parameter_groups(module: torch.nn.Module, section: OptimizerSection) -> list[dict[str, Any]]:
    """Splits trainable parameters into decayed and not decayed, in the module's order."""
    decayed: list[torch.nn.Parameter] = []
    kept: list[torch.nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            matches = any(re.search(pattern, name.lower()) for pattern in section.no_decay)
            (kept if matches else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": section.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class Lion(torch.optim.Optimizer):
    """Sign of an interpolated momentum, with decoupled weight decay.

    Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, algorithm 2.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        """Takes parameters or groups.

        Args:
            params: Parameters or group dictionaries.
            lr: Learning rate; a tenth to a third of AdamW's.
            betas: Interpolation for the update, and decay of the momentum.
            weight_decay: Decoupled.
        """
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # never a closure
        """Updates every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            update_beta, momentum_beta = group["betas"]
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters]
            for parameter in parameters:
                if "exp_avg" not in self.state[parameter]:
                    self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
            averages = [self.state[parameter]["exp_avg"] for parameter in parameters]
            updates = torch._foreach_lerp(  # noqa: SLF001 - torch's own optimizers use it
                averages, gradients, 1 - update_beta
            )
            torch._foreach_sign_(updates)
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])
            torch._foreach_lerp_(averages, gradients, 1 - momentum_beta)


def _build_adamw(
    groups: list[dict[str, Any]], section: OptimizerSection, device: torch.device
) -> torch.optim.Optimizer:
    arguments = {"fused": device.type in ("cpu", "cuda"), **section.arguments}
    if "betas" in arguments:
        arguments["betas"] = tuple(arguments["betas"])
    return torch.optim.AdamW(groups, lr=section.lr, **arguments)


def _build_cpu_adam(
    groups: list[dict[str, Any]], section: OptimizerSection, _device: torch.device
) -> torch.optim.Optimizer:
    # Not above: it imports DeepSpeed.
    from phaseline.distributed.engines.cpu_adam import build_cpu_adam

    return build_cpu_adam(groups, lr=section.lr, arguments=section.arguments)


def _build_sgd(
    groups: list[dict[str, Any]], section: OptimizerSection, _device: torch.device
) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=section.lr, **section.arguments)


def _build_lion(
    groups: list[dict[str, Any]], section: OptimizerSection, _device: torch.device
) -> torch.optim.Optimizer:
    return Lion(groups, lr=section.lr, **section.arguments)


_BUILDERS: dict[
    str,
    Callable[[list[dict[str, Any]], OptimizerSection, torch.device], torch.optim.Optimizer],
] = {
    "adamw": _build_adamw,
    "cpu_adam": _build_cpu_adam,
    "sgd": _build_sgd,
    "lion": _build_lion,
}
