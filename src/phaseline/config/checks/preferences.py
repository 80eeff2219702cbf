"""What objectives on pairs of answers ask of the rest of a phase."""

from __future__ import annotations

from collections.abc import Iterator

from phaseline.config.checks.finding import Finding, Place
from phaseline.config.inheritance import outside_weights, source_phase
from phaseline.config.known_objectives import counts_pairs, head_of
from phaseline.config.tree import found_text


def answers_are_kept_apart(place: Place) -> Iterator[Finding]:
    """Both answers of a pair share a row, packed or not."""
    if counts_pairs(place.phase.objective) and not place.phase.data.separate_documents:
        yield Finding(
            place.loc("data", "separate_documents"),
            f"is false, but {place.phase.objective} puts both answers of a pair into one sequence, "
            "where the rejected one would see the chosen",
            "Remove it, or set it to true.",
        )


def positions_have_losses(place: Place) -> Iterator[Finding]:
    """A pair has one loss, whatever its length."""
    ranges = place.phase.evaluate.position_ranges
    if counts_pairs(place.phase.objective) and ranges:
        yield Finding(
            place.loc("evaluate", "position_ranges"),
            f"is {found_text(list(ranges))}, but the losses of {place.phase.objective} are of "
            "pairs of answers and not of positions",
            "Remove it; it is for objectives on tokens.",
            unused=True,
        )


def reference_has_weights(place: Place) -> Iterator[Finding]:
    """A policy that begins with random numbers has nothing to be held to."""
    if place.phase.objective != "dpo":
        return
    if (
        source_phase(place.config, place.idx) is None
        and outside_weights(place.config, place.idx) is None
    ):
        inherit = place.phase.inherit
        yield Finding(
            place.loc("inherit", "weights"),
            f"is {found_text(inherit.weights)}, which gives fresh weights here, but dpo trains a "
            "model against the one that it begins as",
            "Put a phase with sft before it, give model.pretrained, or name the weights here.",
        )


def reference_stays_as_it_is(place: Place) -> Iterator[Finding]:
    """With adapters the base is the reference; beside them only a precomputed one may change."""
    phase = place.phase
    if phase.objective != "dpo" or phase.objective_arguments.get("reference") != "memory":
        return
    if phase.trainable.lora is not None and phase.trainable.train:
        yield Finding(
            place.loc("objective_arguments", "reference"),
            "is 'memory', but the reference of a phase with adapters is its own model without "
            "them, and trainable.train changes that",
            "Set it to precomputed, or remove trainable.train.",
        )


def smoothing_has_an_effect(place: Place) -> Iterator[Finding]:
    """Only the sigmoid loss has labels to be smoothed."""
    arguments = place.phase.objective_arguments
    if place.phase.objective != "dpo" or arguments.get("loss") != "ipo":
        return
    if "label_smoothing" in arguments:
        yield Finding(
            place.loc("objective_arguments", "label_smoothing"),
            f"is {found_text(arguments['label_smoothing'])}, which has no effect with loss: ipo",
            "Remove it, or set loss to sigmoid.",
        )


def reward_head_is_trained(place: Place) -> Iterator[Finding]:
    """The head of a reward model begins with random numbers."""
    trainable = place.phase.trainable
    if head_of(place.phase.objective) != "reward" or place.config.model.factory is not None:
        return
    if not trainable.trains("score.weight"):
        key = "train" if trainable.lora is not None or trainable.train else "freeze"
        yield Finding(
            place.loc("trainable", key),
            "leaves out score.weight, the head of a reward model, which begins with random numbers",
            "Add it: `train: ['^score']`.",
        )


def rewards_are_no_text(place: Place) -> Iterator[Finding]:
    """A reward model has no output layer that says tokens."""
    phase = place.phase
    if head_of(phase.objective) != "reward":
        return
    for loc, is_set in (
        (place.loc("evaluate", "samples"), phase.evaluate.samples is not None),
        (place.loc("engine", "linear_cross_entropy"), phase.engine.linear_cross_entropy),
    ):
        if is_set:
            yield Finding(
                loc,
                f"needs a model that says tokens, but that of {phase.objective} says rewards",
                "Remove it.",
                unused=True,
            )


def language_head_is_there(place: Place) -> Iterator[Finding]:
    """What a reward model leaves has lost its output layer."""
    source = source_phase(place.config, place.idx)
    if source is None or head_of(place.phase.objective) == "reward":
        return
    before = place.config.phases[source]
    if head_of(before.objective) == "reward":
        yield Finding(
            place.loc("inherit", "weights"),
            f"takes those of {before.name}, which has a reward head and no output layer any more",
            "Name an earlier phase, as phase:NAME, or put this phase before it.",
        )
