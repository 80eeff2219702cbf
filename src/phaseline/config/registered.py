"""Registered names in a configuration, as what they stand for."""

from __future__ import annotations

from phaseline.config.known import OBJECTIVES, OPTIMIZERS, SOURCES
from phaseline.config.plugins import Group, find_plugin
from phaseline.config.sections import Config, PhaseSection

_BUILT_IN = {"objectives": OBJECTIVES, "optimizers": OPTIMIZERS, "sources": SOURCES}


def resolve_names(config: Config) -> Config:
    """The configuration with every registered name as `module:attribute`. Nothing is imported."""
    changes: dict[str, object] = {"phases": tuple(map(_resolve_phase, config.phases))}
    factory, train = config.model.factory, config.tokenizer.train
    if factory is not None:
        update = {"factory": _resolve("models", factory)}
        changes["model"] = config.model.model_copy(update=update)
    if train is not None:
        train = train.model_copy(update={"source": _resolve("sources", train.source)})
        changes["tokenizer"] = config.tokenizer.model_copy(update={"train": train})
    return config.model_copy(update=changes)


def _resolve_phase(phase: PhaseSection) -> PhaseSection:
    optimizer = {"name": _resolve("optimizers", phase.optimizer.name)}
    sources = tuple(
        entry.model_copy(update={"source": _resolve("sources", entry.source)})
        for entry in phase.data.sources
    )
    return phase.model_copy(
        update={
            "objective": _resolve("objectives", phase.objective),
            "optimizer": phase.optimizer.model_copy(update=optimizer),
            "data": phase.data.model_copy(update={"sources": sources}),
            "callbacks": tuple(_resolve("callbacks", name) for name in phase.callbacks),
        }
    )


def _resolve(group: Group, name: str) -> str:
    if ":" in name or name in _BUILT_IN.get(group, ()):
        return name
    return find_plugin(group, name) or name
