"""The model, and what phases and the tokenizer ask of it."""

from __future__ import annotations

from collections.abc import Iterator

from phaseline.config.checks.finding import Finding, Place
from phaseline.config.checks.tokenizers import vocab_size_of
from phaseline.config.sections import Config

# `n_positions` is what GPT-2 calls it.
_POSITION_KEYS = ("max_position_embeddings", "n_positions")


def model_is_described_once(config: Config) -> Iterator[Finding]:
    """A model comes from a configuration or from a factory."""
    model = config.model
    if model.config is None and model.factory is None:
        yield Finding(
            ("model",),
            "names no model; exactly one of `config` and `factory` must be given",
            "Add for example `config: {model_type: llama, hidden_size: 128}`.",
        )
    if model.config is not None and model.factory is not None:
        yield Finding(
            ("model", "factory"),
            "is given together with `config`; exactly one of them must be",
            "Remove one of them.",
        )


def model_config_has_a_type(config: Config) -> Iterator[Finding]:
    """The architecture is named."""
    values = config.model.config
    if values is None:
        return
    if "model_type" not in values:
        yield Finding(
            ("model", "config", "model_type"), "is missing", "Add for example `model_type: llama`."
        )
    elif not isinstance(values["model_type"], str):
        yield Finding(
            ("model", "config", "model_type"),
            f"is {values['model_type']!r}; it must be the name of an architecture of transformers",
            "Set for example llama.",
        )


def factory_arguments_have_a_factory(config: Config) -> Iterator[Finding]:
    """Arguments without a factory reach nobody."""
    if config.model.arguments and config.model.factory is None:
        yield Finding(
            ("model", "arguments"),
            "has no effect without `factory`",
            "Remove it, or put fields of the architecture into `model.config`.",
        )


def positions_cover_the_sequences(place: Place) -> Iterator[Finding]:
    """No sequence is longer than the model has positions for."""
    for key in _POSITION_KEYS:
        limit = (place.config.model.config or {}).get(key)
        if not isinstance(limit, int):
            continue
        for section, length in (
            ("data", place.phase.data.sequence_length),
            ("evaluate", place.phase.evaluate.sequence_length),
        ):
            if length is not None and length > limit:
                yield Finding(
                    place.loc(section, "sequence_length"),
                    f"is {length}, but model.config.{key} allows at most {limit}",
                    f"Set model.config.{key} to at least {length}, or shorten the sequences.",
                )


def vocabulary_covers_the_tokenizer(config: Config) -> Iterator[Finding]:
    """Every token of the tokenizer has an embedding."""
    given = (config.model.config or {}).get("vocab_size")
    needed = vocab_size_of(config)
    if given is None or needed is None:
        return
    if not isinstance(given, int) or isinstance(given, bool) or given < needed:
        yield Finding(
            ("model", "config", "vocab_size"),
            f"is {given!r}; it must be a whole number of at least {needed}, "
            "the size of the tokenizer's vocabulary",
            "Remove it: it is taken from the tokenizer.",
        )
