"""From the configuration to a bare module on the CPU."""

from __future__ import annotations

import re
from typing import Any

import torch

from phaseline.config.plugins import load_attribute
from phaseline.config.sections import ModelSection, TrainableSection
from phaseline.errors import ConfigurationError, Fault


def build_model(
    section: ModelSection, *, vocab_size: int, special_ids: dict[str, int]
) -> torch.nn.Module:
    """Builds the model with fresh weights drawn from torch's current random state.

    Args:
        section: Which model.
        vocab_size: Entries of the tokenizer.
        special_ids: The tokenizer's `eos_token_id` and `pad_token_id`.

    Returns:
        A module in fp32 on the CPU, in training mode.

    Raises:
        ConfigurationError: The section describes no model.
    """
    module = (
        _from_factory(section, vocab_size)
        if section.factory is not None
        else _from_config(section, vocab_size, special_ids)
    )
    module = module.float().train()
    for name, parameter in module.named_parameters():
        if not parameter.is_contiguous():
            raise _fault(
                "model",
                f"has the parameter {name}, which is not contiguous in memory",
                "Build it with `.contiguous()`: its state is saved as one flat range.",
            )
    return module


def freeze(module: torch.nn.Module, section: TrainableSection, *, path: str) -> None:
    """Freezes the parameters whose names match, and thaws the others.

    Args:
        module: The bare module.
        section: The phase's patterns.
        path: The section's place in the configuration, for messages.

    Raises:
        ConfigurationError: A pattern matches nothing, or nothing is left to train.
    """
    names = [name for name, _ in module.named_parameters()]
    for idx, pattern in enumerate(section.freeze):
        if not any(re.search(pattern, name) for name in names):
            raise _fault(
                f"{path}.freeze[{idx}]",
                f"is {pattern!r}, which matches no parameter",
                f"The model has, for example, {', '.join(names[:3])}.",
            )
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not any(re.search(p, name) for p in section.freeze))
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise _fault(f"{path}.freeze", "freezes every parameter", "Leave some of them out.")


def _require_embeddings(path: str, num_embeddings: int, vocab_size: int) -> None:
    """Raises if a token has no embedding: it would fail at the first batch that holds it."""
    if num_embeddings < vocab_size:
        raise _fault(
            path,
            f"gives {num_embeddings} embeddings; the tokenizer has {vocab_size} entries, its "
            "special tokens included",
            "Leave vocab_size to the tokenizer, raise it, or name fewer tokenizer.special_tokens.",
        )


def _from_config(
    section: ModelSection, vocab_size: int, special_ids: dict[str, int]
) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    values: dict[str, Any] = dict(section.config or {})
    model_type = str(values.pop("model_type"))
    values.setdefault("vocab_size", vocab_size)
    if isinstance(values["vocab_size"], int):
        # transformers would blame the special tokens for it.
        _require_embeddings("model.config.vocab_size", values["vocab_size"], vocab_size)
    values = {**special_ids, "bos_token_id": None, **values}
    try:
        config = AutoConfig.for_model(model_type, **values)
        module = AutoModelForCausalLM.from_config(config)
    except Exception as error:
        raise _fault(
            "model.config",
            f"describes no causal language model of transformers: {error}",
            "Check model_type and the fields of its configuration class.",
        ) from error
    # transformers keeps whatever it is given; what a configuration without it has no place
    # for is read by nobody. Fields that go elsewhere (`rope_theta`) do not stay as they were.
    known = set(type(config)().to_dict())
    unknown = sorted(set(values) & set(config.to_dict()) - known)
    if unknown:
        raise _fault(
            "model.config",
            f"has {', '.join(unknown)}, which {type(config).__name__} does not know",
            "A field without effect is refused; remove it or correct its name.",
        )
    assert isinstance(module, torch.nn.Module)
    return module


def _from_factory(section: ModelSection, vocab_size: int) -> torch.nn.Module:
    assert section.factory is not None
    factory = load_attribute(section.factory, path="model.factory")
    module = factory(vocab_size=vocab_size, **section.arguments)
    if not isinstance(module, torch.nn.Module):
        raise _fault(
            "model.factory",
            f"{section.factory} returned a {type(module).__name__}",
            "It must return a torch.nn.Module.",
        )
    find: Any = getattr(module, "get_input_embeddings", None)
    weight = None if find is None else getattr(find(), "weight", None)
    if weight is not None:
        _require_embeddings("model.factory", weight.shape[0], vocab_size)
    return module


def _fault(path: str, problem: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Fault(path, "", problem, fix)])
