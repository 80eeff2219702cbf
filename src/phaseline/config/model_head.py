"""What a model of transformers ends in, as a phase of a session needs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from phaseline.config.known_objectives import Head, head_of
from phaseline.config.known_sources import SOURCES
from phaseline.config.sections import Config, PhaseSection


@dataclass(frozen=True)
class ModelHead:
    """What is put on a model of transformers.

    Attributes:
        kind: What it says.
        class_names: Of each class, where a source lists them; empty: they are not known, or it
            says something else.
    """

    kind: Head = "language"
    class_names: tuple[str, ...] = ()


def model_head(config: Config, objective: str) -> ModelHead:
    """The head that phases of an objective have; those of all classifiers of a session agree."""
    kind = head_of(objective)
    if kind != "classes":
        return ModelHead(kind)
    return ModelHead(kind, max(_class_names(config), key=len, default=()))


def trains_classes(phase: PhaseSection) -> bool:
    """Whether a phase needs logits of classes. Objectives of the user's own decide for themselves."""
    return head_of(phase.objective) == "classes"


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
