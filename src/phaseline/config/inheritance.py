"""What every phase starts from, as far as the configuration says. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from phaseline.config.known_objectives import head_of
from phaseline.config.model_section import (
    HUB_PREFIX,
    PHASE_PREFIX,
    InheritSection,
    LoraSection,
    ModelSection,
)
from phaseline.config.places import current_places, first_name, is_known, place_of
from phaseline.config.sections import Config, PhaseSection

WORDS_FOR_WEIGHTS = ("previous", "fresh", "pretrained")
"""What `inherit.weights` may say besides a name or a place."""

LoraFate = Literal["keep", "merge", "drop"]


def pretrained_weights(model: ModelSection) -> str | None:
    """Where the weights of `model.pretrained` are, in the words of `inherit.weights`."""
    if model.pretrained is None or is_local(model):
        return model.pretrained
    name = model.pretrained.removeprefix(HUB_PREFIX)
    return f"{HUB_PREFIX}{name}" + (f"@{model.revision}" if model.revision else "")


def is_local(model: ModelSection) -> bool:
    """Whether `model.pretrained` is a folder, and no name on the hub."""
    text = model.pretrained or ""
    if text.startswith(HUB_PREFIX):
        return False
    return place_of(text).exists() or is_known(text)


def kept_model(model: ModelSection) -> Path | None:
    """The folder of a session that keeps the configuration of `model.pretrained`, if one does."""
    name = None if model.pretrained is None else first_name(model.pretrained)
    return current_places().kept_model.get((name, model.revision))


def source_phase(config: Config, idx: int) -> int | None:
    """The phase of this session that a phase takes its weights from; None: it takes none.

    A name that no earlier phase has is None as well; `validate` refuses it.
    """
    inherit = config.phases[idx].inherit
    if inherit.weights == "previous":
        return idx - 1 if idx > 0 else None
    names = [phase.name for phase in config.phases[:idx]]
    return names.index(inherit.phase) if inherit.phase in names else None


def outside_weights(config: Config, idx: int) -> str | None:
    """The path or hub name that a phase takes its weights from; None: they are not from outside."""
    inherit = config.phases[idx].inherit
    if inherit.weights == "pretrained" or (inherit.weights == "previous" and idx == 0):
        return pretrained_weights(config.model)
    if inherit.weights in ("previous", "fresh") or inherit.phase is not None:
        return None
    return inherit.weights


def teacher_of(phase: PhaseSection) -> str | None:
    """Where the teacher of a phase that distils is, in the words of `inherit.weights`."""
    text = phase.objective_arguments.get("teacher")
    return text if phase.objective == "distillation" and isinstance(text, str) else None


def teacher_phase(teacher: str) -> str | None:
    """The phase of this session that is the teacher; None: it is from outside."""
    is_phase = teacher.startswith(PHASE_PREFIX)
    return teacher.removeprefix(PHASE_PREFIX) if is_phase else None


def lora_fate(
    inherit: InheritSection, there: LoraSection | None, here: LoraSection | None
) -> LoraFate:
    """What becomes of the adapters that the weights have.

    Args:
        inherit: What the phase says.
        there: Of the weights.
        here: Of the phase.
    """
    if inherit.lora is not None:
        return inherit.lora
    same = there is not None and here is not None and here.is_shaped_as(there)
    return "keep" if same else "merge"


def describe_start(config: Config, idx: int) -> str:
    """One sentence: the weights, the adapters and the optimizer state that a phase starts with."""
    phase = config.phases[idx]
    parts = [f"{phase.name} starts from {_describe_weights(config, idx)}"]
    adapters = _describe_adapters(config, idx)
    if adapters:
        parts.append(adapters)
    if _gets_new_head(config, idx):
        parts.append("with a new reward head")
    if phase.inherit.optimizer == "keep":
        parts.append("and the optimizer's state is kept")
    else:
        parts.append("and the optimizer begins anew")
    return ", ".join(parts)


def _describe_weights(config: Config, idx: int) -> str:
    source, outside = source_phase(config, idx), outside_weights(config, idx)
    inherit = config.phases[idx].inherit
    if source is not None:
        return f"the {inherit.at} weights of {config.phases[source].name}"
    return "fresh weights" if outside is None else f"the weights of {outside}"


def _describe_adapters(config: Config, idx: int) -> str:
    phase = config.phases[idx]
    here, there = phase.trainable.lora, lora_of_source(config, idx)
    words = []
    if there is not None:
        fate = lora_fate(phase.inherit, there, here)
        words.append({"keep": "kept", "merge": "merged into them", "drop": "dropped"}[fate])
        words[-1] = f"with their LoRA {words[-1]}"
        if fate == "keep":
            return words[0]
    if here is not None:
        words.append(f"{'' if words else 'with '}a new LoRA of rank {here.rank}")
    return " and ".join(words)


def _gets_new_head(config: Config, idx: int) -> bool:
    """Whether a phase puts a reward head on weights of this session; of others it is not known."""
    source = source_phase(config, idx)
    is_reward = head_of(config.phases[idx].objective) == "reward"
    return is_reward and source is not None and head_of(config.phases[source].objective) != "reward"


def lora_of_source(config: Config, idx: int) -> LoraSection | None:
    """The adapters of the phase of this session that the weights are of."""
    source = source_phase(config, idx)
    return None if source is None else config.phases[source].trainable.lora
