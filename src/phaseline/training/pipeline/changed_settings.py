"""A session that is to go on with other settings: what passes, what is accepted, what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from phaseline.checkpoint.manifest import list_kept
from phaseline.config.changes import Change, Effect, compare
from phaseline.config.sections import Config
from phaseline.errors import SessionChangedError, UsageError
from phaseline.session.layout import SessionLayout
from phaseline.session.records import read_events
from phaseline.training.pipeline.configuration_builder import TrainingConfiguration
from phaseline.training.pipeline.saved_state import SavedState

_ACCEPTED = "settings_accepted"
_PHASE = re.compile(r"phases\[(?P<name>[^\]]*)\]")


@dataclass(frozen=True)
class ChangedSettings:
    """What an attempt goes on with other than the one before.

    Attributes:
        passed: Changes that need nobody's consent.
        accepted: Changes that somebody accepted for this start.
    """

    passed: tuple[Change, ...] = ()
    accepted: tuple[Change, ...] = ()

    def with_world_size(self, old: int, new: int) -> ChangedSettings:
        """Adds that other ranks go on; the configuration need not say how many there are."""
        if old == new:
            return self
        ranks = Change(("ranks",), str(old), str(new), Effect.ROUNDING)
        return replace(self, passed=(*self.passed, ranks))

    def events(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Names of events, and the changes that each tells of."""
        for name, changes in (("settings_changed", self.passed), (_ACCEPTED, self.accepted)):
            if changes:
                yield name, [_record(change) for change in changes]

    def notes(self) -> Iterator[str]:
        """One line each, for a person."""
        if self.passed:
            line = f"changed since the last start: {_list(self.passed)}"
            if any(change.effect is Effect.ROUNDING for change in self.passed):
                line += (
                    "; samples, learning rates and state stay, and numbers agree within rounding "
                    "from here on"
                )
            yield line
        if self.accepted:
            yield f"changes accepted: {_list(self.accepted)}"


def require_acceptable(
    stored: Config,
    configuration: TrainingConfiguration,
    layout: SessionLayout,
    accept: Sequence[str] = (),
) -> ChangedSettings:
    """Holds what is asked for against what the session was started with.

    Args:
        stored: The session's resolved configuration.
        configuration: What is asked for now.
        layout: The session's directory.
        accept: Settings, or sections, whose changes are accepted, as the refusal writes them.

    Raises:
        SessionChangedError: A change is neither harmless nor accepted, or cannot be.
        UsageError: Something is accepted that is not refused.
    """
    changes = _changes(stored, configuration.config, layout)
    keys = {key: _with_indexes(key, configuration.config) for key in accept}
    _require_matches(keys, changes, layout)
    accepted: list[Change] = []
    refused: list[Change] = []
    for change in (change for change in changes if not change.is_harmless):
        is_accepted = any(_covers(key, change.path) for key in keys.values())
        may_be = change.effect is Effect.NUMBERS
        (accepted if is_accepted and may_be else refused).append(change)
    if refused:
        raise SessionChangedError(_refusal(refused, configuration.locate, layout))
    passed = tuple(change for change in changes if change.is_harmless)
    return ChangedSettings(passed, tuple(accepted))


def _changes(stored: Config, wanted: Config, layout: SessionLayout) -> list[Change]:
    """Every change, those that the newest checkpoint cannot go with marked so."""
    names = [phase.name for phase in stored.phases]
    begun = {name: False for name in names if list_kept(layout.phase(name))}
    state = SavedState.newest(layout, names)
    if state is not None:
        # What comes before the newest checkpoint is never gone back to, and what lies behind it
        # was left by an attempt that nobody trusts.
        before = names[: names.index(state.phase)]
        begun = {**dict.fromkeys(before, True), state.phase: state.is_final}
    changes = compare(stored, wanted, begun)
    if state is None or not any(change.effect is Effect.NUMBERS for change in changes):
        return changes
    against = state.objections(stored, wanted, changes)
    return [
        replace(change, effect=Effect.STATE, remark=against[change.loc])
        if change.loc in against and change.effect is Effect.NUMBERS
        else change
        for change in changes
    ]


def _require_matches(keys: dict[str, str], changes: list[Change], layout: SessionLayout) -> None:
    refused = [change for change in changes if not change.is_harmless]
    idle = [
        key
        for key, path in keys.items()
        if not any(_covers(path, change.path) for change in refused)
    ]
    if not idle:
        return
    # One command serves every start, so it may go on saying what was accepted long ago.
    before = _accepted_before(layout)
    idle = [key for key in idle if not any(_covers(keys[key], path) for path in before)]
    if not idle:
        return
    may_be = [change.path for change in refused if change.effect is Effect.NUMBERS]
    offer = f"What may be accepted is {', '.join(may_be)}." if may_be else "Leave it out."
    harmless = [change.path for change in changes if change.is_harmless]
    passes = any(_covers(keys[idle[0]], path) for path in harmless)
    why = "which needs no acceptance" if passes else "where no change is refused"
    raise UsageError(f"--accept-change names {idle[0]}, {why}. {offer}")


def _accepted_before(layout: SessionLayout) -> set[str]:
    return {
        change["path"]
        for number in layout.attempt_numbers()
        for record in read_events(layout.attempt(number).events_file)
        if record.get("event") == _ACCEPTED
        for change in record["changes"]
    }


def _with_indexes(key: str, config: Config) -> str:
    """`phases[pretrain].optimizer` as `phases[0].optimizer`."""
    match = _PHASE.match(key.strip())
    names = [phase.name for phase in config.phases]
    if match is None or match["name"] not in names:
        return key.strip()
    return f"phases[{names.index(match['name'])}]{key.strip()[match.end() :]}"


def _covers(key: str, path: str) -> bool:
    return path == key or path.startswith((f"{key}.", f"{key}["))


def _refusal(
    refused: list[Change], locate: Callable[[tuple[str | int, ...]], str], layout: SessionLayout
) -> str:
    lines = [f"The session at {layout.root} was started with other settings:"]
    for change in refused:
        line = f"  {change.path} was {change.old} and is now {change.new} ({locate(change.loc)})"
        if change.effect is Effect.STATE:
            line += f"; this cannot be accepted: {change.remark}"
        elif change.remark:
            line += f"; if it is accepted, {change.remark}"
        lines.append(line)
    own = "train the changed configuration in a session of its own (--session DIR or session.name)."
    may_be = [change.path for change in refused if change.effect is Effect.NUMBERS]
    if may_be:
        words = " ".join(f"--accept-change '{path}'" for path in may_be)
        lines.append(f"Put them back, or accept them with {words}, or {own}")
    else:
        lines.append(f"Put them back, or {own}")
    return "\n".join(lines)


def _record(change: Change) -> dict[str, Any]:
    return {
        "path": change.path,
        "old": _value(change.old),
        "new": _value(change.new),
        "effect": change.effect.value,
    }


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _list(changes: Sequence[Change]) -> str:
    return ", ".join(map(str, changes))
