"""Low-rank adapters beside linear layers, put in place by peft."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from phaseline.config.model_section import LoraSection
from phaseline.distributed.adapter_record import AdapterRecord, set_record
from phaseline.distributed.trunk import trunk_prefix
from phaseline.errors import ConfigurationError, Fault


def add_lora(module: torch.nn.Module, section: LoraSection, *, path: str) -> None:
    """Adds adapters to a model in place; everything else of it is frozen.

    The module stays of its class, so that whatever looks for a model of transformers goes on
    finding one. Parameters of adapted layers get `.base_layer` into their names.

    Args:
        module: The bare model; its parameters may lie on the meta device.
        section: Rank, scale, targets and dropout.
        path: The section's place in the configuration, for messages.

    Raises:
        ConfigurationError: peft is missing, or a target matches no linear layer.
    """
    targets = find_targets(module, section, path=path)
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise _fault(
            path,
            f"needs the package peft, which cannot be imported ({error})",
            "Install it: pip install 'phaseline[lora]'.",
        ) from error
    inject_adapter_in_model(
        LoraConfig(
            r=section.rank,
            # peft takes a whole number but computes with what it is given.
            lora_alpha=section.alpha,
            lora_dropout=section.dropout,
            target_modules=sorted(targets),
            fan_in_fan_out=any(targets.values()),
        ),
        module,
    )
    set_record(module, AdapterRecord(section, targets))


@contextmanager
def adapters_off(module: torch.nn.Module) -> Iterator[None]:
    """While it lasts, a model computes as if it had no adapters; nothing where it has none.

    Args:
        module: The bare model.
    """
    layers = [part for part in module.modules() if hasattr(part, "_disable_adapters")]
    for layer in layers:
        # Not by peft's `enable_adapters`: that freezes the adapters, and an engine that is built
        # on them would lose their gradients.
        layer._disable_adapters = True  # type: ignore[assignment]  # noqa: SLF001 - peft's switch
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False  # type: ignore[assignment]  # noqa: SLF001


def find_targets(module: torch.nn.Module, section: LoraSection, *, path: str) -> dict[str, bool]:
    """The layers that get adapters, each with whether its weight is [in, out].

    Raises:
        ConfigurationError: A target matches no linear layer, or the model has none.
    """
    layers = _linear_layers(module)
    if not layers:
        raise _fault(
            path,
            f"has nothing to adapt: {type(module).__name__} has no linear layer besides its output",
            "Remove it.",
        )
    for idx, pattern in enumerate(section.targets):
        if not any(re.search(pattern, name) for name in layers):
            endings = sorted({name.rpartition(".")[2] for name in layers})
            raise _fault(
                f"{path}.targets[{idx}]",
                f"is {pattern!r}, which matches no linear layer",
                f"They end in {', '.join(endings[:12])}.",
            )
    if not section.targets:
        return layers
    return {
        name: transposed
        for name, transposed in layers.items()
        if any(re.search(pattern, name) for pattern in section.targets)
    }


def _linear_layers(module: torch.nn.Module) -> dict[str, bool]:
    """Every linear layer but the output, whose weight may be tied to the embeddings, or a head."""
    output = getattr(module, "get_output_embeddings", lambda: None)()
    inside = "" if output is not None else trunk_prefix(module)
    found = {}
    for name, part in module.named_modules():
        # GPT-2's, which keeps its weight the other way round. By name: it lives in transformers.
        is_transposed = type(part).__name__ == "Conv1D" and hasattr(part, "nf")
        is_layer = isinstance(part, torch.nn.Linear) or is_transposed
        if name and part is not output and is_layer and name.startswith(inside):
            found[name] = is_transposed
    return found


def _fault(path: str, problem: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Fault(path, "", problem, fix)])
