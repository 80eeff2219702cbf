"""What a phase starts from, against what is there to start from."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from phaseline.config.checks.checkpoints import how_to_keep_the_best
from phaseline.config.checks.finding import Finding, Place
from phaseline.config.checks.names import phase_is_before
from phaseline.config.inheritance import lora_fate, lora_of_source, source_phase
from phaseline.config.tree import found_text

_OUTSIDE = "an earlier phase of this session, as previous or phase:NAME"


def inherited_weights_exist(place: Place) -> Iterator[Finding]:
    """The first phase has no phase before it, and not every model has weights of its own."""
    inherit, model = place.phase.inherit, place.config.model
    loc = place.loc("inherit", "weights")
    is_given = "weights" in inherit.model_fields_set
    if place.idx == 0 and is_given and inherit.weights == "previous" and not model.pretrained:
        yield Finding(
            loc,
            "is 'previous', but the first phase has none before it",
            "Remove it: the first phase starts from fresh weights.",
            unused=True,
        )
    if inherit.weights == "pretrained" and not model.pretrained:
        yield Finding(
            loc,
            "is 'pretrained', but the model is described without weights",
            "Give model.pretrained, or name the weights here.",
        )


def inherited_phase_is_before(place: Place) -> Iterator[Finding]:
    """Weights come from phases that are finished by then."""
    inherit = place.phase.inherit
    if inherit.phase is not None:
        yield from phase_is_before(
            place,
            ("inherit", "weights"),
            inherit.weights,
            inherit.phase,
            fix_of_first="Remove it: the first phase has none before it.",
        )


def best_weights_are_kept(place: Place) -> Iterator[Finding]:
    """The best of a phase is looked for only where its checkpoints say by what."""
    inherit, source = place.phase.inherit, source_phase(place.config, place.idx)
    loc = place.loc("inherit", "at")
    if source is None:
        if "at" in inherit.model_fields_set:
            yield Finding(
                loc,
                f"is {inherit.at!r}, which has no effect: the weights are not of {_OUTSIDE}",
                "Remove it.",
                unused=True,
            )
    elif inherit.at == "best" and place.config.phases[source].checkpoint.keep_best is None:
        yield Finding(
            loc,
            f"is 'best', but phases[{source}] keeps no best checkpoint",
            how_to_keep_the_best(place.config, source),
        )


def kept_optimizer_exists(place: Place) -> Iterator[Finding]:
    """Optimizer state is kept only for the same weights, adapters and optimizer."""
    if place.phase.inherit.optimizer != "keep":
        return
    loc = place.loc("inherit", "optimizer")
    if place.idx == 0:
        yield Finding(
            loc, "is 'keep', but the first phase has none before it", "Set it to reset here."
        )
        return
    source = source_phase(place.config, place.idx)
    if source is None and place.phase.inherit.phase is None:
        yield Finding(
            loc,
            f"is 'keep' while inherit.weights is {found_text(place.phase.inherit.weights)}: the "
            "state belongs to other weights",
            "Set inherit.optimizer to reset, or inherit.weights to previous.",
        )
    before = place.config.phases[place.idx - 1 if source is None else source]
    if place.phase.optimizer.name != before.optimizer.name:
        yield Finding(
            loc,
            f"is 'keep', but phases[{place.config.phases.index(before)}] is trained with "
            f"{before.optimizer.name} and this one with {place.phase.optimizer.name}",
            "Set it to reset, or use the same optimizer.",
        )
    here, there = place.phase.trainable.lora, before.trainable.lora
    if (here or there) and (
        not (here and there) or lora_fate(place.phase.inherit, there, here) != "keep"
    ):
        yield Finding(
            loc,
            "is 'keep', but the adapters that it trained do not stay, or others come",
            "Set it to reset, or keep the same trainable.lora.",
        )


def inherited_adapters_fit(place: Place) -> Iterator[Finding]:
    """Adapters of the session's phases are known; those of weights from outside are not."""
    inherit, here = place.phase.inherit, place.phase.trainable.lora
    if inherit.lora is None:
        return
    loc = place.loc("inherit", "lora")
    there = lora_of_source(place.config, place.idx)
    source = source_phase(place.config, place.idx)
    if inherit.weights == "fresh" or (source is not None and there is None):
        yield Finding(
            loc,
            f"is {inherit.lora!r}, which has no effect: what the phase starts from has no adapters",
            "Remove it.",
            unused=True,
        )
    elif inherit.lora == "keep" and here is None:
        yield Finding(
            loc,
            "is 'keep', but this phase has no trainable.lora to go on with",
            "Give the same trainable.lora as there, or set it to merge.",
        )
    elif inherit.lora == "keep" and here and there and not here.is_shaped_as(there):
        yield Finding(
            loc,
            f"is 'keep', but phases[{source}].trainable.lora has another rank, alpha or targets",
            "Make them the same, or set it to merge.",
        )


def adapters_can_be_made(place: Place) -> Iterator[Finding]:
    """They are made by a package that not everybody needs."""
    if place.phase.trainable.lora is not None and importlib.util.find_spec("peft") is None:
        yield Finding(
            place.loc("trainable", "lora"),
            "needs the package peft, which is not installed",
            "Install it: pip install 'phaseline[lora]'.",
        )


def frozen_patterns_have_an_effect(place: Place) -> Iterator[Finding]:
    """Beside adapters the whole model is frozen anyway."""
    trainable = place.phase.trainable
    if trainable.lora is not None and trainable.freeze:
        yield Finding(
            place.loc("trainable", "freeze"),
            "has no effect beside `lora`, which freezes all of the model but what `train` names",
            "Remove it.",
            unused=True,
        )
