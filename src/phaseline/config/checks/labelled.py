"""Phases that train on samples with a label: what means something to them, and what does not."""

from __future__ import annotations

from collections.abc import Iterator

from phaseline.config.checks.finding import Finding, Place
from phaseline.config.known_objectives import shapes_of
from phaseline.config.known_sources import holds_numbers, known_shape
from phaseline.config.model_head import class_counts, trains_classes
from phaseline.config.sections import Config
from phaseline.config.tree import found_text

_LABELLED = ("labelled",)


def sequence_length_is_given(place: Place) -> Iterator[Finding]:
    """Whatever is text has a length; images and features have none."""
    if place.phase.data.sequence_length is None and _is_of_numbers(place) is False:
        yield Finding(
            place.loc("data", "sequence_length"),
            "is missing",
            "Add for example `sequence_length: 256`.",
        )


def numbers_have_no_sequences(place: Place) -> Iterator[Finding]:
    """Images and features are not cut."""
    if not _is_of_numbers(place):
        return
    for section, length in (
        ("data", place.phase.data.sequence_length),
        ("evaluate", place.phase.evaluate.sequence_length),
    ):
        if length is not None:
            yield Finding(
                place.loc(section, "sequence_length"),
                f"is {length}, which has no effect: images and rows of features hold no sequence "
                "of tokens",
                "Remove it; where it is a default, set it to null in this phase.",
            )


def labelled_rows_are_single(place: Place) -> Iterator[Finding]:
    """A sample with a label has a row of its own, and the loss has no position in it."""
    phase = place.phase
    if shapes_of(phase.objective) != _LABELLED:
        return
    why = "every sample with a label has a row of its own"
    for key in ("packing", "separate_documents"):
        if key in phase.data.model_fields_set:
            yield _unused(place, ("data", key), getattr(phase.data, key), why)
    for idx, item in enumerate(phase.evaluate.position_ranges):
        loc = ("evaluate", "position_ranges", idx)
        yield _unused(place, loc, item, "a label has no position")


def labels_are_no_text(place: Place) -> Iterator[Finding]:
    """A model of classes writes nothing, and its loss is not one of tokens."""
    phase = place.phase
    if shapes_of(phase.objective) != _LABELLED:
        return
    if phase.evaluate.samples is not None:
        yield Finding(
            place.loc("evaluate", "samples"),
            f"has no effect: a model that {phase.objective} trains writes no text",
            "Remove the section.",
            unused=True,
        )
    if phase.engine.linear_cross_entropy:
        loc = ("engine", "linear_cross_entropy")
        yield _unused(place, loc, True, f"{phase.objective} has no loss of tokens")


def scaling_has_images(place: Place) -> Iterator[Finding]:
    """Only pixels are scaled."""
    data = place.phase.data
    shapes = shapes_of(place.phase.objective)
    is_given = "scale_images" in data.model_fields_set
    if is_given and shapes is not None and (shapes != _LABELLED or _is_of_numbers(place) is False):
        yield _unused(place, ("data", "scale_images"), data.scale_images, "there are no images")


def one_head_serves_all_phases(config: Config) -> Iterator[Finding]:
    """A model of transformers ends in classes or in tokens, the same in every phase."""
    if config.model.factory is not None:
        return
    kinds = [(phase, trains_classes(phase)) for phase in config.phases]
    first, is_of_classes = kinds[0]
    for idx, (phase, other) in enumerate(kinds):
        if other is not is_of_classes:
            yield Finding(
                ("phases", idx, "objective"),
                f"is {phase.objective!r}, but phases[0] trains {first.objective}: a model of "
                "transformers ends in classes or in tokens, the same in all phases of a session",
                "Give one kind a session of its own: inherit.weights takes SESSION#PHASE; or give "
                "a model of your own by `factory`.",
            )


def classes_are_counted(config: Config) -> Iterator[Finding]:
    """How many classes a model has is said by its configuration or by its sources."""
    if config.model.config is None or not any(map(trains_classes, config.phases)):
        return
    given = config.model.config.get("num_labels")
    counts = sorted(class_counts(config))
    if given is None and not counts:
        yield Finding(
            ("model", "config", "num_labels"),
            "is missing, and no source lists its `classes`",
            "Add for example `num_labels: 10`.",
        )
    if given is not None and (not isinstance(given, int) or given < max(counts, default=1)):
        yield Finding(
            ("model", "config", "num_labels"),
            f"is {found_text(given)}; it must be a whole number of at least "
            f"{max(counts, default=1)}, the number of classes",
            "Correct it.",
        )


def _is_of_numbers(place: Place) -> bool | None:
    """Whether a phase trains on images or features; None if only its source can tell."""
    shapes = shapes_of(place.phase.objective)
    if shapes is not None and shapes != _LABELLED:
        return False
    told = []
    for entry in place.phase.data.sources:
        shape = known_shape(entry.source, entry.arguments)
        is_labelled = shape == "labelled" or (shape is None and shapes == _LABELLED)
        told.append(holds_numbers(entry.source, entry.arguments) if is_labelled else False)
        if shape is None and shapes is None:
            told[-1] = None
    if None in told:
        return None
    return all(told)


def _unused(place: Place, keys: tuple[str | int, ...], value: object, why: str) -> Finding:
    return Finding(
        place.loc(*keys),
        f"is {found_text(value)}, which has no effect: {why}",
        "Remove it.",
        unused=True,
    )
