"""What a model of transformers ends in, as the phases of a session need it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from phaseline.config.known_objectives import shapes_of
from phaseline.config.known_sources import SOURCES
from phaseline.config.sections import Config, PhaseSection


@dataclass(frozen=True)
class ModelHead:
    """What is put on a model of transformers.

    Attributes:
        is_of_classes: Whether it gives logits of classes, one row per sample; else of tokens.
        class_names: Of each class, where a source lists them; empty: they are not known.
    """

    is_of_classes: bool = False
    class_names: tuple[str, ...] = ()


def head_of(config: Config) -> ModelHead:
    """The head that all phases of a session share."""
    names = max(_class_names(config), key=len, default=())
    return ModelHead(any(map(trains_classes, config.phases)), names)


def trains_classes(phase: PhaseSection) -> bool:
    """Whether a phase needs logits of classes. Objectives of the user's own decide for themselves."""
    return shapes_of(phase.objective) == ("labelled",)


def class_counts(config: Config) -> set[int]:
    """Lengths of the lists of classes in the sources of phases that train on these."""
    return {len(names) for names in _class_names(config)}


def _class_names(config: Config) -> Iterator[tuple[str, ...]]:
    for phase in filter(trains_classes, config.phases):
        for entry in phase.data.sources:
            known = SOURCES.get(entry.source)
            names = entry.arguments.get("classes") or (known.classes if known else ())
            if isinstance(names, (list, tuple)) and names:
                yield tuple(map(str, names))
