"""`model.config` against the configuration class of transformers that it is for."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import TypeGuard

from phaseline.config.architectures import (
    Architecture,
    activations,
    find_architecture,
    has_head,
    is_architecture,
    model_types,
)
from phaseline.config.checks.finding import Finding
from phaseline.config.checks.names import nearest, nearest_or_all
from phaseline.config.known_objectives import Head, head_of
from phaseline.config.sections import Config
from phaseline.config.source_types import accepts, describe
from phaseline.config.tree import found_text

_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
_SIZES = (
    *("hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings", "head_dim"),
    *("num_attention_heads", "num_key_value_heads", "num_heads", "num_labels", "n_head", "n_heads"),
    *("n_embd", "n_positions", "n_inner", "n_ctx", "d_model", "d_ff", "d_kv", "dim", "hidden_dim"),
    *("ffn_dim", "ffn_hidden_size", "embedding_size", "num_channels", "patch_size", "image_size"),
)
_MOST_LAYERS = 100_000
_MOST = 10**9
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")
_HEAD_SIZES = ("head_dim", "d_head", "d_kv", "kv_channels", "head_size")
_HEAD_WORDS: Mapping[Head, str] = {
    "language": "causal language model",
    "reward": "sequence classifier, which rewards are read from",
    "classes": "classifier",
}


def model_config_is_known(config: Config) -> Iterator[Finding]:
    """Every key reaches something, and every value is of the type that the class takes."""
    values = config.model.config or {}
    model_type = values.get("model_type")
    if not isinstance(model_type, str):
        return
    if not is_architecture(model_type):
        yield Finding(
            ("model", "config", "model_type"),
            f"is {found_text(model_type)}, which is no architecture of transformers",
            nearest(model_type, model_types()) or "Set for example llama.",
        )
        return
    architecture = find_architecture(model_type)
    if architecture is None:
        return
    given = {key: value for key, value in values.items() if key != "model_type"}
    for key, value in given.items():
        yield from _check_value(architecture, key, value)
    yield from _check_multiples(architecture, given)


def model_has_the_head(config: Config) -> Iterator[Finding]:
    """An architecture can end in what the phases need."""
    model_type = (config.model.config or {}).get("model_type")
    if not isinstance(model_type, str) or model_type not in model_types():
        return
    kinds = list(dict.fromkeys(head_of(phase.objective) for phase in config.phases))
    if "classes" in kinds and len(kinds) > 1:
        return  # which is said by the rule that one head serves all phases
    for kind in kinds:
        if not has_head(model_type, kind):
            yield Finding(
                ("model", "config", "model_type"),
                f"is {model_type!r}, of which transformers has no {_HEAD_WORDS[kind]}",
                "Take another architecture, as llama, or a model.factory of your own.",
            )


def _check_value(architecture: Architecture, key: str, value: object) -> Iterator[Finding]:
    loc = ("model", "config", key)
    if not architecture.takes(key):
        fields = [*architecture.kinds, *architecture.aliases]
        yield Finding(
            loc,
            f"is no field of {architecture.name}",
            nearest(key, fields) or "A field without effect is refused; remove it.",
        )
        return
    if value == architecture.default_of(key) and value is not None:
        return
    own = architecture.aliases.get(key, key)
    kind = architecture.kind_of(key)
    if kind is not None and architecture.is_strict and not accepts(kind, value):
        yield _of_another_kind(loc, kind, value)
        return
    most = _MOST_LAYERS if own in _LAYERS else _MOST
    if own in (*_SIZES, *_LAYERS) and not _may_be_size(value, most):
        yield Finding(
            loc,
            f"is {found_text(value)}; it must be a whole number of at least 1 and at most {most}",
            _fix(architecture, own),
        )
    known = activations() if own in _ACTIVATIONS and isinstance(value, str) else ()
    if known and value not in known:
        yield Finding(
            loc,
            f"is {found_text(value)}, which is no activation function of transformers",
            nearest_or_all(str(value), known, "There are"),
        )


def _of_another_kind(loc: tuple[str, ...], kind: ast.expr, value: object) -> Finding:
    allowed = describe(kind)
    fix = "Correct or remove it."
    if isinstance(value, int) and not isinstance(value, bool) and accepts(kind, float(value)):
        fix = f"Write {value}.0."
    elif isinstance(value, float) and value.is_integer() and accepts(kind, int(value)):
        fix = f"Write {int(value)}."
    elif isinstance(value, str) and value.isdecimal() and accepts(kind, int(value[:18])):
        fix = f"Remove the quotes: {value[:18]}."
    problem = f"is {found_text(value)}"
    return Finding(loc, f"{problem}; it must be {allowed}" if allowed else problem, fix)


def _check_multiples(architecture: Architecture, values: Mapping[str, object]) -> Iterator[Finding]:
    """Heads share the width, and keys the heads."""
    pairs = set(architecture.multiples) | {("num_attention_heads", "num_key_value_heads")}
    if not any(word in key for key in (*architecture.kinds, *values) for word in _HEAD_SIZES):
        pairs.add(("hidden_size", "num_attention_heads"))
    # A class whose own defaults are none has another rule.
    pairs = {pair for pair in pairs if _is_multiple(*map(architecture.default_of, pair))}
    for whole, part in sorted(pairs):
        wholes, parts = architecture.value(values, whole), architecture.value(values, part)
        own = {architecture.aliases.get(key, key) for key in (whole, part)}
        keys = [key for key in values if architecture.aliases.get(key, key) in own]
        if keys and not _is_multiple(wholes, parts):
            yield Finding(
                ("model", "config", keys[-1]),
                f"is {values[keys[-1]]}, but {whole}, {wholes}, must be a multiple of {part}, {parts}",
                "Correct one of the two.",
            )


def _is_multiple(whole: object, part: object) -> bool:
    """Whether one number is a multiple of the other; True where one of them is not known."""
    return not _is_size(whole) or not _is_size(part) or whole % part == 0


def _may_be_size(value: object, most: int) -> bool:
    """Whether a value is a size, or null or a list, which some classes take instead of one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return 1 <= value <= most
    return not isinstance(value, (str, bool, float))


def _is_size(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _fix(architecture: Architecture, key: str) -> str:
    default = architecture.default_of(key)
    if not _is_size(default):
        return "Correct or remove it."
    return f"Leave it out for the default of {architecture.name}, {default}."
