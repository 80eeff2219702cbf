"""Which parameters of a model a phase trains."""

from __future__ import annotations

import re

import torch

from phaseline.config.model_section import TrainableSection
from phaseline.distributed.adapter_record import is_adapter, plain_name
from phaseline.errors import ConfigurationError, Fault
from phaseline.models.lora import add_lora


def prepare_trainable(module: torch.nn.Module, section: TrainableSection, *, path: str) -> None:
    """Adds adapters if a phase has them, and freezes what it does not train.

    Args:
        module: The bare module; changed in place.
        section: What the phase says.
        path: The section's place in the configuration, for messages.

    Raises:
        ConfigurationError: A pattern matches nothing, or nothing is left to train.
    """
    names = [name for name, _ in module.named_parameters()]
    for key in ("freeze", "train"):
        for idx, pattern in enumerate(getattr(section, key)):
            if not any(re.search(pattern, name) for name in names):
                raise _fault(
                    f"{path}.{key}[{idx}]",
                    f"is {pattern!r}, which matches no parameter",
                    f"The model has, for example, {', '.join(names[:3])}.",
                )
    if section.lora is not None:
        add_lora(module, section.lora, path=f"{path}.lora")
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(is_adapter(name) or section.trains(plain_name(name)))
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise _fault(f"{path}.freeze", "freezes every parameter", "Leave some of them out.")


def _fault(path: str, problem: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Fault(path, "", problem, fix)])
