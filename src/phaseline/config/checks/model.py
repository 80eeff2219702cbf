"""The model, and what phases and the tokenizer ask of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping

from phaseline.config.architectures import find_architecture
from phaseline.config.checks.checkpoints import how_to_keep_the_best
from phaseline.config.checks.finding import Finding, Place
from phaseline.config.checks.tokenizers import vocab_size_of
from phaseline.config.inheritance import is_local
from phaseline.config.sections import Config

# `n_positions` is what GPT-2 calls it.
_POSITION_KEYS = ("max_position_embeddings", "n_positions")
_ATTENTION_PACKAGES = {
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
}


def model_is_described_once(config: Config) -> Iterator[Finding]:
    """A model comes from a configuration, from weights that are there, or from a factory."""
    model = config.model
    ways = ("config", "pretrained", "factory")
    given = [way for way in ways if getattr(model, way) is not None]
    if not given:
        yield Finding(
            ("model",),
            "names no model; exactly one of `config`, `pretrained` and `factory` must be given",
            "Add for example `config: {model_type: llama, hidden_size: 128}`.",
        )
    for other in given[1:]:
        yield Finding(
            ("model", other),
            f"is given together with `{given[0]}`; exactly one of them must be",
            "Remove one of them.",
        )


def revision_is_of_the_hub(config: Config) -> Iterator[Finding]:
    """Only the hub has revisions."""
    if config.model.revision is None:
        return
    if config.model.pretrained is None or is_local(config.model):
        where = "`pretrained`" if config.model.pretrained is None else "a name on the hub"
        yield Finding(
            ("model", "revision"),
            f"is {config.model.revision!r}, which has no effect without {where}",
            "Remove it.",
        )


def attention_can_run(config: Config) -> Iterator[Finding]:
    """An implementation needs its package, and a model of transformers."""
    attention = config.model.attention
    if attention is None:
        return
    if config.model.factory is not None:
        yield Finding(
            ("model", "attention"),
            f"is {attention!r}, which has no effect on a model that a factory builds",
            "Remove it, or give it to the factory in `arguments`.",
        )
    package = _ATTENTION_PACKAGES.get(attention)
    if package is not None and importlib.util.find_spec(package) is None:
        yield Finding(
            ("model", "attention"),
            f"is {attention!r}, but its package {package} is not installed",
            f"Install {package}, or set sdpa, which needs nothing.",
        )


def export_settings_have_an_effect(config: Config) -> Iterator[Finding]:
    """They say how phases are exported; without phases nothing is."""
    if config.export.phases:
        return
    for key in sorted(config.export.model_fields_set - {"phases"}):
        yield Finding(
            ("export", key),
            f"is {getattr(config.export, key)!r}, which has no effect without export.phases",
            "Add for example `phases: [instruct]`, or remove it.",
        )


def exported_best_is_kept(config: Config) -> Iterator[Finding]:
    """The best of a phase is looked for only where its checkpoints say by what."""
    if config.export.at != "best":
        return
    for idx, phase in enumerate(config.phases):
        if phase.name in config.export.phases and phase.checkpoint.keep_best is None:
            yield Finding(
                ("export", "at"),
                f"is 'best', but phases[{idx}] keeps no best checkpoint",
                how_to_keep_the_best(config, idx),
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
    yield from sequences_beyond(place, place.config.model.config or {}, "model.config")


def sequences_beyond(place: Place, values: Mapping[str, object], words: str) -> Iterator[Finding]:
    """Sequences and samples of a phase that are longer than an architecture has positions for.

    Args:
        place: The phase.
        values: The architecture's fields.
        words: How messages call them.
    """
    limit, limited_by, key = _positions(values, words)
    if limit is None:
        return
    lengths = {
        ("data", "sequence_length"): place.phase.data.sequence_length,
        ("evaluate", "sequence_length"): place.phase.evaluate.sequence_length,
    }
    for keys, length in lengths.items():
        if length is not None and length > limit:
            yield Finding(
                place.loc(*keys),
                f"is {length}, but {limited_by} allows at most {limit}",
                f"Set {words}.{key} to at least {length}, or shorten the sequences."
                if words == "model.config"
                else f"Shorten the sequences to {limit}.",
            )
    samples = place.phase.evaluate.samples
    is_asked = samples is not None and "max_new_tokens" in samples.model_fields_set
    if samples is not None and is_asked and samples.max_new_tokens >= limit > 1:
        yield Finding(
            place.loc("evaluate", "samples", "max_new_tokens"),
            f"is {samples.max_new_tokens}, but {limited_by} is {limit}, which a prompt and what is "
            "written after it share",
            f"Set it to at most {limit - 1}; of longer prompts the end is used.",
        )


def _positions(values: Mapping[str, object], words: str) -> tuple[int | None, str, str]:
    """How many positions a model has, in words by what, and the field that says it."""
    model_type = values.get("model_type")
    found = find_architecture(model_type) if isinstance(model_type, str) else None
    for key in _POSITION_KEYS:
        name = key if found is None else found.key_of(values, key)
        limit = values.get(name)
        if isinstance(limit, int) and not isinstance(limit, bool):
            return limit, f"{words}.{name}", name
    if found is not None:
        name = found.key_of(values, _POSITION_KEYS[0])
        default = found.default_of(name)
        if isinstance(default, int) and not isinstance(default, bool):
            return default, f"the default of {found.name}.{name}", name
    return None, "", ""


def vocabulary_covers_the_tokenizer(config: Config) -> Iterator[Finding]:
    """Every token of the tokenizer has an embedding."""
    given = (config.model.config or {}).get("vocab_size")
    needed = vocab_size_of(config)
    if given is None or needed is None:
        return
    if isinstance(given, int) and given < needed:
        yield Finding(
            ("model", "config", "vocab_size"),
            f"is {given!r}; it must be a whole number of at least {needed}, "
            "the size of the tokenizer's vocabulary",
            "Remove it: it is taken from the tokenizer.",
        )
