"""From the configuration to a bare module on the CPU."""

from __future__ import annotations

import inspect
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch

from phaseline.config.hub import HubModelError, is_hub_name, require_cached
from phaseline.config.inheritance import kept_model, pretrained_weights
from phaseline.config.model_head import ModelHead
from phaseline.config.model_section import ModelSection
from phaseline.config.places import place_of
from phaseline.config.plugins import load_attribute
from phaseline.errors import ConfigurationError, Fault
from phaseline.models.reward_head import answer_with_rewards

_LANGUAGE = ModelHead()
_ANY_VOCABULARY = 300_000
"""More than the special tokens that any architecture has by default."""


def build_model(
    section: ModelSection,
    *,
    vocab_size: int,
    special_ids: dict[str, int],
    head: ModelHead = _LANGUAGE,
) -> torch.nn.Module:
    """Builds the model with fresh weights drawn from torch's current random state.

    Args:
        section: Which model.
        vocab_size: Entries of the tokenizer.
        special_ids: The tokenizer's `eos_token_id` and `pad_token_id`.
        head: What a model of transformers ends in; a factory decides that itself.

    Returns:
        A module in fp32 on the CPU, in training mode.

    Raises:
        ConfigurationError: The section describes no model.
    """
    if section.factory is not None:
        module = _from_factory(section, vocab_size)
    elif section.pretrained is not None:
        config = _pretrained_config(section, vocab_size, special_ids, head)
        module = _of_transformers(config, section, head, path="model.pretrained")
    else:
        module = _from_config(section, vocab_size, special_ids, head)
    module = module.float().train()
    for name, parameter in module.named_parameters():
        if not parameter.is_contiguous():
            raise _fault(
                "model",
                f"has the parameter {name}, which is not contiguous in memory",
                "Build it with `.contiguous()`: its state is saved as one flat range.",
            )
    return module


def require_buildable(section: ModelSection, head: ModelHead = _LANGUAGE) -> None:
    """Raises if `model.config` describes no model; nothing else is looked at.

    Before data are prepared, whose vocabulary is not known yet, and without memory.

    Args:
        section: Which model.
        head: What a model of transformers ends in.

    Raises:
        ConfigurationError: The configuration describes no model.
    """
    if section.config is None:
        return
    special_ids = {"eos_token_id": 0, "pad_token_id": 0}
    build = partial(_from_config, section, _ANY_VOCABULARY, special_ids, head)
    if "vocab_size" in section.config:
        build = partial(_from_config, section, 1, special_ids, head)
    try:
        with torch.device("meta"):
            build()
    except ConfigurationError:
        # What cannot do without memory is tried with it.
        build()


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
    section: ModelSection, vocab_size: int, special_ids: dict[str, int], head: ModelHead
) -> torch.nn.Module:
    from transformers import AutoConfig

    # transformers completes what it is given, sections within included.
    values: dict[str, Any] = deepcopy(section.config or {})
    model_type = str(values.pop("model_type", ""))
    if head.kind != "classes" or _reads_tokens(model_type):
        values.setdefault("vocab_size", vocab_size)
        if isinstance(values["vocab_size"], int):
            # transformers would blame the special tokens for it.
            _require_embeddings("model.config.vocab_size", values["vocab_size"], vocab_size)
        values = {**special_ids, "bos_token_id": None, **values}
    values |= _labels(head)
    try:
        config = AutoConfig.for_model(model_type, **values)
    except Exception as error:
        raise _no_model("model.config", error) from error
    module = _of_transformers(config, section, head, path="model.config")
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
    return module


def _reads_tokens(model_type: str) -> bool:
    """Whether an architecture has a vocabulary; those of images have none."""
    from transformers import AutoConfig

    try:
        return hasattr(AutoConfig.for_model(model_type), "vocab_size")
    except Exception:  # noqa: BLE001 - whatever it is, building the model says it
        return True


def _pretrained_config(
    section: ModelSection, vocab_size: int, special_ids: dict[str, int], head: ModelHead
) -> Any:
    """The architecture alone; its weights are read later, by every rank what it holds."""
    from transformers import AutoConfig

    try:
        folder = kept_model(section) or pretrained_folder(section)
        # What it trusts is said here: else it would ask at the terminal.
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except HubModelError as error:
        problem = f"is {section.pretrained!r}, which {error.problem}"
        raise _fault("model.pretrained", problem, error.fix) from error
    except Exception as error:
        raise _no_model("model.pretrained", error) from error
    if head.kind != "classes" or hasattr(config, "vocab_size"):
        # One that is larger stays so: rows that no token has are often there for their number.
        config.vocab_size = max(config.vocab_size, vocab_size)
        for name, value in special_ids.items():
            setattr(config, name, value)
    for name, value in _labels(head).items():
        setattr(config, name, value)
    return config


def _labels(head: ModelHead) -> dict[str, Any]:
    """The names of classes, where they are known, as transformers keeps them."""
    if not head.class_names:
        return {}
    names = dict(enumerate(head.class_names))
    return {"id2label": names, "label2id": {name: idx for idx, name in names.items()}}


def pretrained_folder(section: ModelSection) -> Path:
    """Where `model.pretrained` lies on this machine. No network.

    Raises:
        HubModelError: It is a model of the hub that was not fetched.
    """
    text = pretrained_weights(section)
    assert text is not None
    return require_cached(text) if is_hub_name(text) else place_of(text)


def _of_transformers(
    config: Any, section: ModelSection, head: ModelHead, *, path: str
) -> torch.nn.Module:
    if head.kind == "reward":
        config.num_labels = 1
    auto_class = _auto_class(config, head)
    chosen: dict[str, Any] = {"dtype": torch.float32}
    if section.attention is not None:
        chosen["attn_implementation"] = section.attention
    try:
        # A copy: what is chosen is left in the configuration even where it is refused.
        module = auto_class.from_config(deepcopy(config), **chosen)
    except Exception as error:
        if section.attention is None or not _can_build(config, auto_class):
            raise _no_model(path, error, head) from error
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise _fault(
            "model.attention",
            f"is {section.attention!r}, which transformers refuses for this model: {reason}",
            "Set another one, or remove it for transformers' own choice.",
        ) from error
    assert isinstance(module, torch.nn.Module)
    if head.kind == "reward":
        answer_with_rewards(module, path=path)
    return module


def _auto_class(config: Any, head: ModelHead) -> Any:
    """What of transformers puts the head on an architecture."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    if head.kind == "language":
        return transformers.AutoModelForCausalLM
    if head.kind == "classes" and type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        return transformers.AutoModelForImageClassification
    return transformers.AutoModelForSequenceClassification


def _can_build(config: Any, auto_class: Any) -> bool:
    """Whether the model can be built if only its attention is left to transformers."""
    try:
        with torch.device("meta"):
            auto_class.from_config(config)
    except Exception:  # noqa: BLE001 - whatever it is, attention is not what is wrong
        return False
    return True


def _no_model(path: str, error: Exception, head: ModelHead = _LANGUAGE) -> ConfigurationError:
    kind = "classifier" if head.kind == "classes" else "causal language model"
    return _fault(
        path,
        f"describes no {kind} of transformers: {error}",
        "Check model_type and the fields of its configuration class.",
    )


def _from_factory(section: ModelSection, vocab_size: int) -> torch.nn.Module:
    assert section.factory is not None
    factory = load_attribute(section.factory, path="model.factory")
    known = {"vocab_size": vocab_size} if _takes_vocab_size(factory) else {}
    module = factory(**known, **section.arguments)
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


def _takes_vocab_size(factory: Any) -> bool:
    """A model of images has no use for it."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(one.name == "vocab_size" or one.kind is one.VAR_KEYWORD for one in parameters)


def _fault(path: str, problem: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Fault(path, "", problem, fix)])
