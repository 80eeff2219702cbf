"""What plain transformers and peft need beside and around the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from phaseline.distributed.adapter_record import AdapterRecord, adapter_names


def is_of_transformers(module: torch.nn.Module) -> bool:
    """Whether a model has a configuration that transformers can load it by."""
    return hasattr(module, "config") and hasattr(module, "base_model_prefix")


def stored_tensors(
    module: torch.nn.Module, name: str, tensor: torch.Tensor
) -> dict[str, torch.Tensor]:
    """One parameter by the names, and in the parts, that it has in a model's public files.

    Mixtures of experts are one tensor in memory and one per expert in files, for example.

    Args:
        module: The model; its own values are not looked at.
        name: The parameter's name in it.
        tensor: Its value, or a tensor without one (on the meta device) of its shape.
    """
    if not is_of_transformers(module):
        return {name: tensor}
    from transformers.core_model_loading import revert_weight_conversion

    parts: dict[str, torch.Tensor] = revert_weight_conversion(module, {name: tensor})
    return dict(sorted(parts.items()))


def save_architecture(module: torch.nn.Module, folder: Path, *, dtype: torch.dtype) -> None:
    """Writes config.json, and generation_config.json of a model that generates.

    Of a model of one's own nothing is written.

    A model that does not generate has no generation_config.json.

    Args:
        module: The model.
        folder: Where they go.
        dtype: Of the weights beside them.
    """
    if not is_of_transformers(module):
        return
    known: Any = module
    known.config.architectures = [type(module).__name__]
    known.config.dtype = dtype
    known.config.save_pretrained(folder)
    generation = getattr(known, "generation_config", None)
    if generation is None:
        return
    for key in ("eos_token_id", "pad_token_id", "bos_token_id"):
        setattr(generation, key, getattr(known.config, key, None))
    generation.save_pretrained(folder)


def adapter_file_names(record: AdapterRecord) -> dict[str, str]:
    """How peft's files call the parameters of adapters, by their names in the model."""
    return {
        name: f"base_model.model.{name.replace('.default.', '.')}"
        for module in sorted(record.modules)
        for name in adapter_names(module)
    }


def save_adapter_config(record: AdapterRecord, folder: Path, *, base_model: str | None) -> None:
    """Writes adapter_config.json, by which peft puts the adapters onto their model.

    Args:
        record: The adapters.
        folder: Where it goes.
        base_model: Folder or hub name of the model that they belong to, if it has one.
    """
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": record.section.rank,
        "lora_alpha": record.section.alpha,
        "lora_dropout": record.section.dropout,
        "target_modules": sorted(record.modules),
        "fan_in_fan_out": any(record.modules.values()),
        "bias": "none",
        "inference_mode": True,
    }
    text = json.dumps(content, indent=2) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
