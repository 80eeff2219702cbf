"""Paths of a configuration that lead elsewhere now, to the same contents: no change.

What a session was started with goes on naming it: ids of documents and checkpoints know the
paths as they were written. So those stay, and what is opened is found where it lies now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath

from phaseline.config.changes import Change, Effect
from phaseline.config.data_section import SourceSection
from phaseline.config.inheritance import outside_weights, pretrained_weights
from phaseline.config.known_sources import paths_of_source
from phaseline.config.model_section import HUB_PREFIX, PHASE_PREFIX
from phaseline.config.places import (
    below,
    current_places,
    first_name,
    fixed_part,
    located,
    looking_in,
    place_of,
)
from phaseline.config.resolved import settings_of
from phaseline.config.sections import Config
from phaseline.config.tree import Loc, path_text
from phaseline.errors import PhaselineError, UnreachableFileError
from phaseline.session.inputs import MODEL, SessionInputs, hash_of, load_inputs
from phaseline.session.layout import SessionLayout
from phaseline.session.records import read_events

_OF_WEIGHTS = (("inherit", "weights"), ("objective_arguments", "teacher"))
_KEPT = (("model", "pretrained"), ("tokenizer", "pretrained"), ("tokenizer", "chat_template"))
_SAME = "the same contents lie there"
_OTHER = "what lies there is not what the session was started with"


@dataclass(frozen=True)
class Moved:
    """What lies elsewhere now, with the same contents.

    Attributes:
        places: What the session calls a path, and where that lies now.
        originals: Settings that differ by it alone, each with what the session calls it.
    """

    places: Mapping[str, str] = field(default_factory=dict)
    originals: Mapping[Loc, str] = field(default_factory=dict)


def find_moved(
    stored: Config, wanted: Config, changes: Sequence[Change], layout: SessionLayout
) -> tuple[list[Change], Moved]:
    """Looks at every path that changed whether the same contents lie there.

    Args:
        stored: What the session was started with.
        wanted: What it is to go on with.
        changes: How they differ.
        layout: The session.

    Returns:
        The changes, those that change nothing marked so; and what has moved.
    """
    values = (settings_of(stored), settings_of(wanted))
    pairs: dict[Loc, tuple[str, str]] = {}
    gone: set[Loc] = set()
    for change in changes:
        old, new = (settings.get(change.loc) for settings in values)
        if isinstance(old, str) and isinstance(new, str) and _is_path(stored, change.loc):
            pair = _pair_of(*_without_phase(change.loc, old, new))
            if pair is not None:
                pairs[change.loc] = pair
            elif change.loc in _KEPT and not place_of(new).exists() and first_name(new) == old:
                gone.add(change.loc)  # it was found there before, and the session keeps it
    is_asked = any(change.loc in {*pairs, *gone} and not change.is_harmless for change in changes)
    inputs = load_inputs(layout) if is_asked else None
    if inputs is None:
        return list(changes), Moved()
    contents = _Contents(stored, inputs, layout)
    moved = {**current_places().moved, **dict(pairs.values())}
    with looking_in(replace(current_places(), moved=moved)):
        same = {loc for loc in pairs if contents.are_same(loc)}
    found = [
        _judged(change, is_same=change.loc in same or change.loc in gone)
        if change.loc in pairs or change.loc in gone
        else change
        for change in changes
    ]
    originals = {loc: str(values[0][loc]) for loc in (*same, *gone)}
    names = {fixed_part(str(values[1][loc])): pairs[loc][0] for loc in same}
    # What a phase that was added reads from there is what the others read.
    originals |= dict(_called_alike(wanted, names, originals))
    return found, Moved(dict(pairs[loc] for loc in same), originals)


def _called_alike(
    wanted: Config, names: Mapping[str, str], known: Mapping[Loc, str]
) -> Iterator[tuple[Loc, str]]:
    """Other settings that lead to moved places, each with what the session calls that.

    Args:
        wanted: What is to go on.
        names: New paths as they are written, each with what the session calls it.
        known: Settings that are dealt with.
    """
    for loc, value in settings_of(wanted).items():
        if loc in known or not isinstance(value, str):
            continue
        for now, before in names.items():
            rest = below(now, value)
            if rest is not None and _is_path(wanted, loc):
                yield loc, str(PurePath(before, rest)) if rest else before
                break


def _judged(change: Change, *, is_same: bool) -> Change:
    if is_same:
        return replace(change, effect=Effect.NONE, remark=_SAME)
    if change.is_harmless:
        return change
    return replace(change, remark=f"{_OTHER}{f': {change.remark}' if change.remark else ''}")


def _is_path(config: Config, loc: Loc) -> bool:
    """Whether a setting is a path, as far as a built-in part of Phaseline reads it."""
    if loc in (("model", "pretrained"), ("tokenizer", "pretrained")):
        return True
    if loc == ("tokenizer", "chat_template"):
        return "{" not in str(config.tokenizer.chat_template)
    if loc[0] == "phases" and loc[2:] in _OF_WEIGHTS:
        return True
    return _source_at(config, loc) is not None


def _source_at(config: Config, loc: Loc) -> SourceSection | None:
    """The data source one of whose paths a setting is."""
    value: object = config.model_dump(mode="json")
    for depth, key in enumerate(loc):
        if key == "arguments" and isinstance(value, Mapping) and value.get("source"):
            source, arguments = str(value["source"]), value["arguments"]
            is_one = loc[depth + 1] in ("path", "paths") and paths_of_source(source, arguments)
            filters = value.get("filters") or {}
            section = SourceSection.model_validate(
                {"source": source, "arguments": arguments, "filters": filters}
            )
            return section if is_one else None
        value = value[key] if isinstance(value, (Mapping, list)) else None  # type: ignore[index]  # of what it indexes
    return None


def _without_phase(loc: Loc, old: str, new: str) -> tuple[str, str]:
    """Paths of weights without the phase that both name, as `runs/base#pretrain`."""
    (before, mark, phase), (now, *rest) = old.rpartition("#"), new.rpartition("#")
    is_alike = bool(before and now) and [mark, phase] == rest
    return (before, now) if is_alike and loc[2:] in _OF_WEIGHTS else (old, new)


def _pair_of(old: str, new: str) -> tuple[str, str] | None:
    """What a path was called, and where that lies now; None if it is no move of a path."""
    if any(text.startswith((HUB_PREFIX, PHASE_PREFIX)) for text in (old, new)):
        return None
    before, now = fixed_part(old), fixed_part(new)
    if below(before, old) != below(now, new) or not PurePath(before).parts:
        return None
    place = Path(located(now))
    return (before, str(place.absolute())) if place.exists() else None


class _Contents:
    """What lies where the session's paths lead, held against what it was started with."""

    def __init__(self, stored: Config, inputs: SessionInputs, layout: SessionLayout) -> None:
        self._stored = stored
        self._inputs = inputs
        self._layout = layout
        self._weights: dict[str, str] = {}

    def are_same(self, loc: Loc) -> bool:
        """Whether the contents behind a setting are what they were.

        Raises:
            UnreachableFileError: Nobody can say just now.
        """
        try:
            if loc == ("model", "pretrained"):
                return self._is_same_model()
            if loc[0] == "tokenizer" and loc[1] != "train":
                return self._is_same_tokenizer
            if loc[2:] == ("inherit", "weights"):
                return self._are_same_weights(int(loc[1]))
            if loc[2:] == ("objective_arguments", "teacher"):
                # Its weights are held against the checkpoint's record when they are loaded.
                return bool(self._fingerprint(str(settings_of(self._stored)[loc])))
            return self._is_same_source(loc)
        except UnreachableFileError:
            raise
        except (PhaselineError, OSError, ValueError) as error:
            UnreachableFileError.require_lasting(error, path_text(loc))
            return False

    def _is_same_model(self) -> bool:
        model = self._stored.model
        kept = self._inputs.files.get(f"{MODEL}/config.json")
        here = hash_of(place_of(str(model.pretrained)) / "config.json")
        if kept is None or kept.hash != here:
            return False
        text = pretrained_weights(model)
        taken = [
            idx
            for idx in range(len(self._stored.phases))
            if outside_weights(self._stored, idx) == text and self._taken(idx)
        ]
        return all(self._are_same_weights(idx) for idx in taken)

    @cached_property
    def _is_same_tokenizer(self) -> bool:
        from phaseline.data.cache import Cache
        from phaseline.data.tokenizer_building import build_tokenizer

        tokenizer = build_tokenizer(
            self._stored.tokenizer, Cache.configured(self._stored.preparation)
        )
        return tokenizer.fingerprint == self._inputs.tokenizer

    def _is_same_source(self, loc: Loc) -> bool:
        from phaseline.data.sources import build_filtered_source
        from phaseline.data.sources.registry import source_key

        section = _source_at(self._stored, loc)
        assert section is not None
        known = self._inputs.sources.get(source_key(section))
        return known is not None and build_filtered_source(section).fingerprint() == known

    def _are_same_weights(self, idx: int) -> bool:
        text = outside_weights(self._stored, idx)
        return text is not None and self._taken(idx) == self._fingerprint(text)

    def _taken(self, idx: int) -> str:
        """The fingerprint of the weights that a phase took; empty if it took none yet."""
        name = self._stored.phases[idx].name
        found = [
            str(event.get("fingerprint", ""))
            for number in self._layout.attempt_numbers()
            for event in read_events(self._layout.attempt(number).events_file)
            if event.get("event") == "weights_taken" and event.get("phase") == name
        ]
        return found[-1] if found else ""

    def _fingerprint(self, text: str) -> str:
        from phaseline.checkpoint.foreign import find_weights

        if text not in self._weights:
            self._weights[text] = find_weights(text).fingerprint()
        return self._weights[text]
