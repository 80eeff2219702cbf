"""What two configurations of one session do not share, and what each change would do to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from phaseline.config.resolved import changes_no_number, settings_of
from phaseline.config.sections import Config
from phaseline.config.tree import Loc, path_text

_ABSENT = "(absent)"


class Effect(Enum):
    """What going on with a changed setting does to what has begun."""

    NONE = "none"
    """No number that is trained or recorded depends on it."""
    AHEAD = "ahead"
    """It belongs to what has not begun."""
    ROUNDING = "rounding"
    """Samples, learning rates and state stay; sums are taken in another order."""
    NUMBERS = "numbers"
    """Another training from here on: somebody must accept it."""
    STATE = "state"
    """What was saved does not go with it, or it would change nothing any more."""


@dataclass(frozen=True)
class Change:
    """One setting that two configurations do not share.

    Attributes:
        loc: Its path.
        old: Its value in the old one, as JSON.
        new: Its value in the new one, as JSON.
        effect: What going on with the new one does.
        remark: With NUMBERS what would happen, if that needs saying; with STATE why not.
        said: The change in words, where it is of a whole phase.
    """

    loc: Loc
    old: str
    new: str
    effect: Effect
    remark: str = ""
    said: str = ""

    @property
    def path(self) -> str:
        """As `phases[0].optimizer.lr`."""
        return path_text(self.loc)

    @property
    def is_harmless(self) -> bool:
        """Whether the session goes on with it unasked."""
        return self.effect not in (Effect.NUMBERS, Effect.STATE)

    @property
    def old_value(self) -> Any:
        """The old value as JSON holds it."""
        return _value(self.old)

    @property
    def new_value(self) -> Any:
        """The new value as JSON holds it."""
        return _value(self.new)

    def __str__(self) -> str:
        return self.said or f"{self.path}: {self.old} -> {self.new}"


_ROUNDS = {
    ("engine", "kind"),
    ("engine", "zero_stage"),
    ("engine", "offload"),
    ("engine", "deepspeed"),
    ("engine", "leaf_modules"),
    ("engine", "unused_parameters"),
    ("engine", "activation_checkpointing"),
    ("batch", "micro_size"),
    ("evaluate", "micro_size"),
}
"""Of a phase: how it is spread over machines and memory."""
_TYPE_OF_SUMS = ("engine", "deepspeed", "communication_data_type")
"""Of a phase: what its ranks add gradients up in, which is more than another order."""

_OTHER_DATA = (
    "its checkpoints belong to the data that they were trained on, and refuse other. Train on "
    "other data in a phase behind it"
)
_OTHER_STATE = (
    "its checkpoints hold another state of the optimizer than it would need. Use it in a phase "
    "behind it"
)
_TAKEN = "the phase has begun, and took its weights then: it would change nothing any more"
_FIXED: dict[tuple[str, ...], str] = {
    ("data", "held_out_frac"): _OTHER_DATA,
    ("data", "held_out"): _OTHER_DATA,
    ("data", "learn"): _OTHER_DATA,
    ("optimizer", "name"): _OTHER_STATE,
    ("optimizer", "arguments", "amsgrad"): _OTHER_STATE,
    ("trainable", "lora", "rank"): _OTHER_STATE,
    ("trainable", "lora", "targets"): _OTHER_STATE,
    ("inherit",): _TAKEN,
}
"""Of a phase that is under way: what its checkpoints cannot go with."""

_OTHER_ORDER = "samples then come from other places of the order: some again, some never"
_OTHER_CURVE = "the learning rate jumps to the new curve at the next step"
_REMARKS: dict[tuple[str, ...], str] = {
    ("batch", "global_size"): _OTHER_ORDER,
    ("data", "sequence_length"): _OTHER_ORDER,
    ("data", "sources"): _OTHER_ORDER,
    ("data", "packing"): _OTHER_ORDER,
    ("data", "order"): _OTHER_ORDER,
    ("objective_arguments", "teacher"): "a teacher with other weights is refused all the same",
    ("duration",): _OTHER_CURVE,
    ("schedule",): _OTHER_CURVE,
    _TYPE_OF_SUMS: "bf16 keeps three digits of a gradient, where ranks add theirs up",
}
"""Of a phase that is under way: what an accepted change does besides the obvious."""


def compare(old: Config, new: Config, begun: Mapping[str, bool]) -> list[Change]:
    """Lists every setting that differs, in the order of the schema.

    Args:
        old: What the session was started with.
        new: What it is to go on with.
        begun: Phases of `old` that have trained weights, each with whether it is finished.
    """
    judge = _Judge(old, new, begun)
    old_settings, new_settings = settings_of(old), settings_of(new)
    found = list(_displaced(old, new, judge.num_begun))
    displaced = {change.loc[1] for change in found}
    places = _places(old, new, judge.num_begun)
    found += _phases_come_and_gone(old, new, places, displaced)
    before = {new_idx: old_idx for old_idx, new_idx in places.items()}
    # Phases are compared by their names: one that is added in between changes no other.
    old_locs = [loc for loc in old_settings if _moved(loc, places) is not None]
    new_locs = [loc for loc in (_moved(loc, before) for loc in new_settings) if loc]
    for loc in [*old_locs, *(loc for loc in new_locs if loc not in old_settings)]:
        new_loc = _moved(loc, places)
        assert new_loc is not None
        old_value, new_value = old_settings.get(loc, _ABSENT), new_settings.get(new_loc, _ABSENT)
        if old_value == new_value and type(old_value) is type(new_value):
            continue
        if _is_filled(old_value, new_value) or _is_filled(new_value, old_value):
            continue
        effect, remark = judge.effect_of(loc)
        found.append(Change(new_loc, _text(old_value), _text(new_value), effect, remark))
    return found


def _places(old: Config, new: Config, num_begun: int) -> dict[int, int]:
    """Which phase of the old configuration is which of the new one, by their indexes."""
    old_names = [phase.name for phase in old.phases]
    new_names = [phase.name for phase in new.phases]
    places = {
        idx: new_names.index(name)
        for idx, name in enumerate(old_names)
        if name in new_names and (idx >= num_begun or new_names.index(name) == idx)
    }
    for idx in range(num_begun, min(len(old_names), len(new_names))):
        if idx not in places and new_names[idx] not in old_names:
            places[idx] = idx  # it has another name
    return places


def _moved(loc: Loc, places: Mapping[int, int]) -> Loc | None:
    """A setting's path in the other configuration; None: its phase is not there."""
    if loc[0] != "phases" or len(loc) < 2 or not isinstance(loc[1], int):
        return loc
    return ("phases", places[loc[1]], *loc[2:]) if loc[1] in places else None


def _phases_come_and_gone(
    old: Config, new: Config, places: Mapping[int, int], displaced: set[str | int]
) -> Iterator[Change]:
    """Phases that are added, left out or in another order, each as one change."""
    gone = [idx for idx in range(len(old.phases)) if idx not in places and idx not in displaced]
    come = set(range(len(new.phases))) - set(places.values()) - displaced
    for idx in gone:
        name = old.phases[idx].name
        text = f"phase {name} removed"
        yield Change(("phases", idx), _text(name), _ABSENT, Effect.AHEAD, said=text)
    for idx in sorted(come):
        name = new.phases[idx].name
        text = f"phase {name} added"
        yield Change(("phases", idx), _ABSENT, _text(name), Effect.AHEAD, said=text)
    kept = [places[idx] for idx in sorted(places)]
    for rank, idx in enumerate(kept):
        if sorted(kept)[rank] != idx:
            name = new.phases[idx].name
            text = f"phase {name} moved to place {idx + 1}"
            yield Change(("phases", idx), _text(name), _text(name), Effect.AHEAD, said=text)


class _Judge:
    """Says what a change does, by where the session stands."""

    def __init__(self, old: Config, new: Config, begun: Mapping[str, bool]) -> None:
        self._phases = [(phase.name, begun.get(phase.name)) for phase in old.phases]
        places = [idx for idx, (_, finished) in enumerate(self._phases) if finished is not None]
        self.num_begun = max(places, default=-1) + 1
        self._old, self._new = old, new
        self._num_to_come = len(new.phases) - self.num_begun

    def effect_of(self, loc: Loc) -> tuple[Effect, str]:
        if changes_no_number(loc):
            return Effect.NONE, ""
        if self.num_begun == 0:
            return Effect.AHEAD, ""
        if loc[0] == "phases" and isinstance(loc[1], int):
            return self._effect_in_phase(loc[1], loc[2:])
        if loc == ("model", "attention"):
            return Effect.ROUNDING, ""
        if loc[0] == "tokenizer":
            return Effect.STATE, "trained weights know the tokens by their numbers"
        if loc == ("session", "seed") and self._is_under_way():
            return Effect.STATE, "it decides which documents are held out and the order of samples"
        return Effect.NUMBERS, ""

    def _effect_in_phase(self, idx: int, keys: Loc) -> tuple[Effect, str]:
        if idx >= self.num_begun:
            return Effect.AHEAD, ""
        name, finished = self._phases[idx]
        if keys[:2] in _ROUNDS and (finished or keys != _TYPE_OF_SUMS):
            return (Effect.NONE if finished else Effect.ROUNDING), ""
        if finished:
            return Effect.STATE, self._remark_of_finished(name, keys)
        if keys[:2] == ("data", "sources") and keys[3:4] != ("weight",):
            return Effect.STATE, _OTHER_DATA
        fixed = _look_up(_FIXED, keys)
        if keys[:2] == ("trainable", "lora") and self._adapters_come_or_go(idx):
            fixed = _OTHER_STATE
        if fixed:
            return Effect.STATE, fixed
        return Effect.NUMBERS, _look_up(_REMARKS, keys)

    def _adapters_come_or_go(self, idx: int) -> bool:
        here = [config.phases[idx : idx + 1] for config in (self._old, self._new)]
        return len({phase.trainable.lora is None for phases in here for phase in phases}) > 1

    def _remark_of_finished(self, name: str, keys: Loc) -> str:
        """What to do instead: it is held against this same comparison by a test."""
        last = self._phases[self.num_begun - 1][0]
        if keys[:1] != ("duration",):
            come = "the phases still to come" if self._num_to_come > 0 else "a phase behind it"
            return f"{name} is finished, so it would change nothing. Set it in {come}"
        if name == last:
            return (
                f"{name} is finished. To train longer, add a phase behind it that is written as "
                "it is, with `inherit: {optimizer: keep}`"
            )
        return (
            f"{name} is finished, and {last} has begun from what it left. To train its weights "
            f"longer, add a phase behind {last} with `inherit: {{weights: phase:{name}}}`"
        )

    def _is_under_way(self) -> bool:
        return not self._phases[self.num_begun - 1][1]


def _displaced(old: Config, new: Config, num_begun: int) -> Iterator[Change]:
    """Phases that have begun and are not where they were."""
    names = [phase.name for phase in new.phases]
    for idx, phase in enumerate(old.phases[:num_begun]):
        here = names[idx] if idx < len(names) else None
        if here == phase.name:
            continue
        if phase.name in names:
            remark = "phases that have begun keep their places; add others behind them"
        elif here is None or here in [other.name for other in old.phases]:
            remark = "what comes after it stands on what it trained; a phase that has begun stays"
        else:
            remark = "its checkpoints lie under its name; a phase that has begun keeps it"
        found = _ABSENT if here is None else _text(here)
        yield Change(("phases", idx, "name"), _text(phase.name), found, Effect.STATE, remark)


def _look_up(table: Mapping[tuple[str, ...], str], keys: Loc) -> str:
    return next((text for path, text in table.items() if keys[: len(path)] == path), "")


def _is_filled(one: Any, other: Any) -> bool:
    """Whether an empty section or list only goes because something was put into it."""
    return one in ({}, []) and other == _ABSENT


def _value(text: str) -> Any:
    """What a text was made of; what is absent stays a text."""
    return text if text == _ABSENT else json.loads(text)


def _text(value: object) -> str:
    return _ABSENT if value == _ABSENT else json.dumps(value, ensure_ascii=False)
