"""A session that is to go on with other settings: what passes, what is accepted, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from phaseline.checkpoint.manifest import list_kept
from phaseline.config.changes import Change, Effect, compare
from phaseline.config.places import Places, looking_in
from phaseline.config.resolved import with_values
from phaseline.config.sections import Config
from phaseline.config.tree import Loc
from phaseline.errors import SessionChangedError, UsageError
from phaseline.session.identity import load_identity
from phaseline.session.inputs import places_of
from phaseline.session.layout import SessionLayout
from phaseline.session.records import read_events
from phaseline.session.stored_config import load_stored_config
from phaseline.training.pipeline.accepted_change import AcceptedChange
from phaseline.training.pipeline.moved_inputs import Moved, find_moved
from phaseline.training.pipeline.saved_state import SavedState

_ACCEPTED = "settings_accepted"
_LOOKS_FIRST = "the start looks first whether its checkpoints go with it, and refuses it if not"


class WantedConfiguration(Protocol):
    """What is asked for now, and where each setting was written."""

    @property
    def config(self) -> Config:
        """The resolved sections."""

    @property
    def locate(self) -> Callable[[Loc], str]:
        """Where a setting was written: file and line, or the override."""


@dataclass(frozen=True)
class ChangedSettings:
    """What an attempt goes on with other than the one before.

    Attributes:
        passed: Changes that need nobody's consent.
        accepted: Changes that somebody accepted for this start.
        refused: Changes that it cannot go on with: not accepted, or beyond that.
        moved: Paths among those that passed which lead to the same contents elsewhere.
    """

    passed: tuple[Change, ...] = ()
    accepted: tuple[Change, ...] = ()
    refused: tuple[Change, ...] = ()
    moved: Moved = field(default_factory=Moved)

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


def compare_with_session(
    layout: SessionLayout,
    wanted: WantedConfiguration,
    accept: Sequence[str] = (),
    *,
    in_depth: bool = True,
    may_be_idle: bool = False,
) -> ChangedSettings:
    """Holds what is asked for against what the session was started with. Raises for no change.

    Args:
        layout: The session's directory; it need not hold a session yet.
        wanted: What is asked for now.
        accept: Settings, or sections, whose changes are accepted, as the refusal writes them.
        in_depth: Whether models are built and the user's own code is imported where only they
            tell whether a change can be accepted. Else such a change counts as one that can be,
            and torch is not imported; the start itself looks.
        may_be_idle: Whether a key of `accept` may meet no change.

    Raises:
        UsageError: Something is accepted that is not refused.
        SessionError: What the session keeps of itself cannot be read.
    """
    keys = [AcceptedChange.parse(text, wanted.config) for text in accept]
    if load_identity(layout) is None:
        idle = [key for key in keys if key.value is None]
        if idle and not may_be_idle:
            raise UsageError(
                f"--accept-change names {idle[0].text}, but there is no session at {layout.root} "
                "yet. Leave it out."
            )
        return ChangedSettings()
    stored = load_stored_config(layout)
    with looking_in(places_of(layout)):
        changes, moved = _changes(stored, wanted.config, layout, in_depth=in_depth)
    if not may_be_idle:
        _require_matches(keys, changes, stored, wanted.config, layout)
    accepted: list[Change] = []
    refused: list[Change] = []
    for change in (change for change in changes if not change.is_harmless):
        is_accepted = any(key.covers(change) for key in keys)
        may_be = change.effect is Effect.NUMBERS
        (accepted if is_accepted and may_be else refused).append(change)
    passed = tuple(change for change in changes if change.is_harmless)
    return ChangedSettings(passed, tuple(accepted), tuple(refused), moved)


def require_acceptable(
    layout: SessionLayout,
    wanted: WantedConfiguration,
    accept: Sequence[str] = (),
    *,
    in_depth: bool = True,
    may_be_idle: bool = False,
) -> ChangedSettings:
    """The same, and refuses what the session cannot go on with.

    Raises:
        SessionChangedError: A change is neither harmless nor accepted, or cannot be.
        UsageError: Something is accepted that is not refused.
        SessionError: What the session keeps of itself cannot be read.
    """
    changes = compare_with_session(
        layout, wanted, accept, in_depth=in_depth, may_be_idle=may_be_idle
    )
    require_none_refused(changes, wanted, layout)
    return changes


def require_none_refused(
    changes: ChangedSettings, wanted: WantedConfiguration, layout: SessionLayout
) -> None:
    """Raises SessionChangedError if a change was refused, with all of them."""
    if changes.refused:
        raise SessionChangedError(_refusal(changes.refused, wanted, layout))


def as_session_calls_it(layout: SessionLayout, config: Config) -> tuple[Config, Places]:
    """A configuration with moved paths by what its session calls them, and where those lead."""
    places = places_of(layout)
    if load_identity(layout) is None:
        return config, places
    stored = load_stored_config(layout)
    with looking_in(places):
        _, moved = _changes(stored, config, layout, in_depth=False)
    return with_values(config, moved.originals.items()), places_of(layout, moved.places)


def _changes(
    stored: Config, wanted: Config, layout: SessionLayout, *, in_depth: bool
) -> tuple[list[Change], Moved]:
    """Every change, those that the newest checkpoint cannot go with marked so."""
    names = [phase.name for phase in stored.phases]
    begun = {name: False for name in names if list_kept(layout.phase(name))}
    state = SavedState.newest(layout, names)
    if state is not None:
        # What comes before the newest checkpoint is never gone back to, and what lies behind it
        # was left by an attempt that nobody trusts.
        before = names[: names.index(state.phase)]
        begun = {**dict.fromkeys(before, True), state.phase: state.is_final}
    changes, moved = find_moved(stored, wanted, compare(stored, wanted, begun), layout)
    if state is None or not any(change.effect is Effect.NUMBERS for change in changes):
        return changes, moved
    against = state.objections(stored, wanted, changes, in_depth=in_depth)
    judged = [
        _judged(change, against, in_depth=in_depth) if change.effect is Effect.NUMBERS else change
        for change in changes
    ]
    return judged, moved


def _judged(change: Change, against: Mapping[Loc, str], *, in_depth: bool) -> Change:
    """A change that may be accepted, with what the checkpoint has to say of it."""
    if change.loc in against:
        return replace(change, effect=Effect.STATE, remark=against[change.loc])
    if not in_depth and (change.loc[0] == "model" or change.loc[2:3] == ("callbacks",)):
        return replace(change, remark=_LOOKS_FIRST)
    return change


def _require_matches(
    keys: Sequence[AcceptedChange],
    changes: Sequence[Change],
    stored: Config,
    wanted: Config,
    layout: SessionLayout,
) -> None:
    refused = [change for change in changes if not change.is_harmless]
    idle = [key for key in keys if not any(key.covers(change) for change in refused)]
    # With its value it says where the setting is to stand, which may be so already.
    idle = [key for key in idle if key.value is None or not key.is_of(stored, wanted)]
    if not idle:
        return
    # One command serves every start, so it may go on saying what was accepted long ago.
    before = _accepted_before(layout)
    idle = [key for key in idle if not any(key.names(path) for path in before)]
    if not idle:
        return
    may_be = [change.path for change in refused if change.effect is Effect.NUMBERS]
    offer = f"What may be accepted is {', '.join(may_be)}." if may_be else "Leave it out."
    harmless = [change.path for change in changes if change.is_harmless]
    passes = any(idle[0].names(path) for path in harmless)
    why = "which needs no acceptance" if passes else "where no change is refused"
    raise UsageError(f"--accept-change names {idle[0].text}, {why}. {offer}")


def _accepted_before(layout: SessionLayout) -> set[str]:
    return {
        change["path"]
        for number in layout.attempt_numbers()
        for record in read_events(layout.attempt(number).events_file)
        if record.get("event") == _ACCEPTED
        for change in record["changes"]
    }


def _refusal(refused: Sequence[Change], wanted: WantedConfiguration, layout: SessionLayout) -> str:
    lines = [f"The session at {layout.root} was started with other settings:"]
    for change in refused:
        line = f"  {change.path} was {change.old} and is now {change.new} ({wanted.locate(change.loc)})"
        if change.effect is Effect.STATE:
            line += f"; this cannot be accepted: {change.remark}"
        elif change.remark:
            line += f"; if it is accepted, {change.remark}"
        lines.append(line)
    own = "train the changed configuration in a session of its own (--session DIR)."
    may_be = [change.path for change in refused if change.effect is Effect.NUMBERS]
    words = " ".join(f"--accept-change '{path}'" for path in may_be)
    if len(may_be) == len(refused):
        lines.append(f"Put them back, or accept them with {words}, or {own}")
    elif may_be:
        lines.append(
            f"Put back what cannot be accepted, and accept the rest with {words}, or {own}"
        )
    else:
        lines.append(f"Put them back, or {own}")
    return "\n".join(lines)


def _record(change: Change) -> dict[str, Any]:
    return {
        "path": change.path,
        "old": change.old_value,
        "new": change.new_value,
        "effect": change.effect.value,
    }


def _list(changes: Sequence[Change]) -> str:
    return ", ".join(map(str, changes))
