"""Names of built-in things, of the user's own, and of phases."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from importlib.machinery import PathFinder
from pathlib import Path

from phaseline.config.checks.finding import Finding, Place
from phaseline.config.known import OPTIMIZERS, Argument
from phaseline.config.known_objectives import OBJECTIVES
from phaseline.config.known_sources import SOURCES
from phaseline.config.plugins import Group, find_plugin, plugin_names
from phaseline.config.sections import Config
from phaseline.config.tree import Loc, found_text

_PLUGIN = re.compile(r"(?P<package>[^\W\d]\w*)(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def phase_names_are_unique(config: Config) -> Iterator[Finding]:
    """Two phases of one name would share a folder and metrics."""
    first: dict[str, int] = {}
    for idx, phase in enumerate(config.phases):
        if phase.name in first:
            yield Finding(
                ("phases", idx, "name"),
                f"is {phase.name!r}, which phases[{first[phase.name]}] is called already",
                "Give every phase a name of its own: it names the phase's folder and metrics.",
            )
        first.setdefault(phase.name, idx)


def exported_phases_exist(config: Config) -> Iterator[Finding]:
    """Only phases of this session can be exported, each once."""
    names = [phase.name for phase in config.phases]
    for idx, name in enumerate(config.export.phases):
        loc: Loc = ("export", "phases", idx)
        if name not in names:
            yield Finding(
                loc,
                f"is {name!r}, which is no phase of this session",
                nearest_or_all(name, names, "Phases are"),
            )
        elif name in config.export.phases[:idx]:
            yield Finding(loc, f"is {name!r}, which is in the list already", "Remove it.")


def objective_is_known(place: Place) -> Iterator[Finding]:
    """An objective is built in or can be found."""
    name = place.phase.objective
    yield from _check_name(name, place.loc("objective"), "objectives", OBJECTIVES)
    if name in OBJECTIVES:
        loc, given = place.loc("objective_arguments"), place.phase.objective_arguments
        yield from _check_arguments(name, given, OBJECTIVES[name].arguments, loc)


def optimizer_is_known(place: Place) -> Iterator[Finding]:
    """An optimizer is built in, with arguments that it takes, or can be found."""
    name = place.phase.optimizer.name
    yield from _check_name(name, place.loc("optimizer", "name"), "optimizers", OPTIMIZERS)
    if name in OPTIMIZERS:
        loc = place.loc("optimizer", "arguments")
        yield from _check_arguments(name, place.phase.optimizer.arguments, OPTIMIZERS[name], loc)


def sources_are_known(place: Place) -> Iterator[Finding]:
    """A data source is built in, with arguments that it takes, or can be found."""
    for source_idx, entry in enumerate(place.phase.data.sources):
        loc = place.loc("data", "sources", source_idx)
        yield from _check_source(entry.source, entry.arguments, loc)


def filters_can_be_found(place: Place) -> Iterator[Finding]:
    """Functions that filter are in packages that can be found."""
    for source_idx, entry in enumerate(place.phase.data.sources):
        if entry.filters.keep_if is not None:
            loc = place.loc("data", "sources", source_idx, "filters", "keep_if")
            yield from _check_plugin(entry.filters.keep_if, loc)


def tokenizer_source_is_known(config: Config) -> Iterator[Finding]:
    """The tokenizer is trained on a source that is known."""
    train = config.tokenizer.train
    if train is None:
        return
    if train.source is not None:
        yield from _check_source(train.source, train.arguments, ("tokenizer", "train"))
    for idx, text in enumerate(train.sources):
        loc: Loc = ("tokenizer", "train", "sources", idx)
        yield from _check_source(text.source, text.arguments, loc)


def held_out_source_is_known(place: Place) -> Iterator[Finding]:
    """What is held out is built in, with arguments that it takes, or can be found."""
    held_out = place.phase.data.held_out
    if held_out is not None and held_out.source is not None:
        loc = place.loc("data", "held_out")
        yield from _check_source(held_out.source, held_out.arguments, loc)


def model_factory_can_be_found(config: Config) -> Iterator[Finding]:
    """The model's factory is in a package that can be found."""
    if config.model.factory is not None:
        yield from _check_own(config.model.factory, ("model", "factory"), "models")


def trackers_can_be_found(config: Config) -> Iterator[Finding]:
    """Trackers are in packages that can be found, each once, and TensorBoard is installed."""
    tracking = config.tracking
    for idx, name in enumerate(tracking.trackers):
        loc: Loc = ("tracking", "trackers", idx)
        yield from _check_plugin(name, loc)
        if name in tracking.trackers[:idx]:
            yield Finding(loc, f"is {name!r}, which is in the list already", "Remove it.")
    if tracking.tensorboard and not _can_be_found("tensorboard"):
        yield Finding(
            ("tracking", "tensorboard"),
            "is true, but tensorboard is not installed",
            "Install it with `pip install phaseline[tensorboard]`, or set it to false.",
        )


def wandb_settings_have_an_effect(config: Config) -> Iterator[Finding]:
    """Nothing is sent where wandb is disabled."""
    wandb = config.tracking.wandb
    if wandb.mode == "disabled" and wandb.artifacts:
        yield Finding(
            ("tracking", "wandb", "artifacts"),
            "has no effect, as tracking.wandb.mode is disabled",
            "Remove it, or set tracking.wandb.mode to offline or online.",
            unused=True,
        )


def callbacks_can_be_found(place: Place) -> Iterator[Finding]:
    """Callbacks are in packages that can be found."""
    for callback_idx, name in enumerate(place.phase.callbacks):
        yield from _check_own(name, place.loc("callbacks", callback_idx), "callbacks")


def metrics_can_be_found(place: Place) -> Iterator[Finding]:
    """Metrics of the user's own are in packages that can be found, each once."""
    names = place.phase.evaluate.metrics
    for metric_idx, name in enumerate(names):
        loc = place.loc("evaluate", "metrics", metric_idx)
        yield from _check_own(name, loc, "metrics")
        if name in names[:metric_idx]:
            yield Finding(loc, f"is {name!r}, which is in the list already", "Remove it.")


def _check_source(name: str, arguments: Mapping[str, object], loc: Loc) -> Iterator[Finding]:
    yield from _check_name(name, (*loc, "source"), "sources", SOURCES)
    if name in SOURCES:
        allowed = SOURCES[name].arguments
        yield from _check_arguments(name, arguments, allowed, (*loc, "arguments"))


def _check_own(name: str, loc: Loc, group: Group) -> Iterator[Finding]:
    """A registered name, or else `module:attribute`, of what is never built in."""
    if ":" in name or find_plugin(group, name) is None:
        yield from _check_plugin(name, loc)


def _check_name(name: str, loc: Loc, group: Group, built_in: Collection[str]) -> Iterator[Finding]:
    """The name of something built in or registered, or else `module:attribute`."""
    if name in built_in:
        return
    if ":" in name:
        yield from _check_plugin(name, loc)
        return
    if find_plugin(group, name) is not None:
        return
    known = [*built_in, *plugin_names(group)]
    yield Finding(
        loc,
        f"is {name!r}; it must be {', '.join(known)}, or one of your own as 'module:attribute'",
        nearest(name, known) or "Use one of them, or write your own.",
    )


def _check_plugin(name: str, loc: Loc) -> Iterator[Finding]:
    """`module:attribute`, whose top-level package is found without importing it."""
    match = _PLUGIN.fullmatch(name)
    if match is None:
        yield Finding(
            loc,
            f"is {name!r}; it must be of the form 'package.module:attribute'",
            "Name a module that can be imported and something in it, as my_package.parts:build.",
        )
    elif not _can_be_found(match["package"]):
        yield Finding(
            loc,
            f"is {name!r}, but no package or module {match['package']!r} can be found",
            "Install it into this environment, or start in the folder that holds it.",
        )


def _can_be_found(package: str) -> bool:
    # `python -m phaseline` looks in the working folder as well, the bare command does not.
    here = PathFinder.find_spec(package, [str(Path.cwd())])
    try:
        return here is not None or importlib.util.find_spec(package) is not None
    except ValueError:
        # Loaded already, but not from a place that can be named, as `__main__`.
        return False


def _check_arguments(
    name: str, given: Mapping[str, object], allowed: Mapping[str, Argument], loc: Loc
) -> Iterator[Finding]:
    for key, value in given.items():
        if key not in allowed:
            yield Finding(
                (*loc, key),
                f"is no argument of {name}",
                nearest_or_all(key, allowed, f"{name} takes"),
            )
        elif not allowed[key].accepts(value):
            yield Finding(
                (*loc, key),
                f"is {_value_text(value)}; it must be {allowed[key].allowed}",
                f"Set for example {allowed[key].example}.",
            )
    for key, argument in allowed.items():
        if argument.required and key not in given:
            yield Finding(
                (*loc, key),
                f"is missing, and {name} needs it",
                f"Add for example `{loc[-1]}: {{{key}: {argument.example}}}`.",
            )


def _value_text(value: object) -> str:
    """A short list is shown with its members: one of them is what is wrong."""
    if isinstance(value, (list, tuple)) and value and len(str(value)) <= 60:
        return f"[{', '.join(map(found_text, value))}]"
    return found_text(value)


def phase_is_before(
    place: Place, keys: tuple[str, ...], value: object, name: str, *, fix_of_first: str
) -> Iterator[Finding]:
    """A phase that another one takes something of is finished by then.

    Args:
        place: The phase that takes it.
        keys: The setting in it that names the other.
        value: Of that setting.
        name: Of the other phase.
        fix_of_first: What to do where there is no phase before this one.
    """
    names = [phase.name for phase in place.config.phases]
    before = names[: place.idx]
    if name not in before:
        problem = "which does not come before it" if name in names else "which is no phase"
        fix = nearest_or_all(name, before, "Phases before it are") if before else fix_of_first
        yield Finding(place.loc(*keys), f"is {value!r}, {problem}", fix)


def nearest_or_all(name: str, known: Collection[str], lead: str) -> str:
    """A hint at the name that was meant, or else at all of them."""
    return nearest(name, known) or f"{lead} {', '.join(known) or 'none'}."


def nearest(name: str, known: Collection[str]) -> str | None:
    """A hint at the name that was meant; None if none is like it."""
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.7)
    return f"Did you mean {near[0]}?" if near else None
