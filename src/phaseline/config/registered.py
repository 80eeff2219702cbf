"""Registered names in a configuration, as what they stand for."""

from __future__ import annotations

from typing import TypeVar

from phaseline.config.data_section import SourceSection, TrainingText
from phaseline.config.known import OPTIMIZERS
from phaseline.config.known_objectives import OBJECTIVES
from phaseline.config.known_sources import SOURCES
from phaseline.config.plugins import Group, find_plugin
from phaseline.config.sections import Config, PhaseSection

_Named = TypeVar("_Named", SourceSection, TrainingText)

_BUILT_IN = {"objectives": OBJECTIVES, "optimizers": OPTIMIZERS, "sources": SOURCES}


def resolve_names(config: Config) -> Config:
    """The configuration with every registered name as `module:attribute`. Nothing is imported."""
    changes: dict[str, object] = {"phases": tuple(map(_resolve_phase, config.phases))}
    factory, train = config.model.factory, config.tokenizer.train
    if factory is not None:
        update = {"factory": _resolve("models", factory)}
        changes["model"] = config.model.model_copy(update=update)
    if train is not None:
        train = train.model_copy(
            update={
                "source": None if train.source is None else _resolve("sources", train.source),
                "sources": tuple(map(_resolve_source, train.sources)),
            }
        )
        changes["tokenizer"] = config.tokenizer.model_copy(update={"train": train})
    return config.model_copy(update=changes)


def _resolve_phase(phase: PhaseSection) -> PhaseSection:
    optimizer = {"name": _resolve("optimizers", phase.optimizer.name)}
    data: dict[str, object] = {"sources": tuple(map(_resolve_source, phase.data.sources))}
    held_out = phase.data.held_out
    if held_out is not None and held_out.source is not None:
        name = _resolve("sources", held_out.source)
        data["held_out"] = held_out.model_copy(update={"source": name})
    return phase.model_copy(
        update={
            "objective": _resolve("objectives", phase.objective),
            "optimizer": phase.optimizer.model_copy(update=optimizer),
            "data": phase.data.model_copy(update=data),
            "evaluate": phase.evaluate.model_copy(
                update={"metrics": tuple(_resolve("metrics", x) for x in phase.evaluate.metrics)}
            ),
            "callbacks": tuple(_resolve("callbacks", name) for name in phase.callbacks),
        }
    )


def _resolve_source(entry: _Named) -> _Named:
    return entry.model_copy(update={"source": _resolve("sources", entry.source)})


def _resolve(group: Group, name: str) -> str:
    if ":" in name or name in _BUILT_IN.get(group, ()):
        return name
    return find_plugin(group, name) or name
