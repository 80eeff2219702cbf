"""The resolved configuration: written down, named by a fingerprint, compared with another."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from phaseline.config.sections import Config
from phaseline.config.tree import Loc, path_text
from phaseline.config.yaml_reading import read_text
from phaseline.errors import SessionError

# Neither changes a number that is trained or recorded.
_SAFE_ANYWHERE = frozenset({"tracking", "checkpoint", "resilience", "cluster", "export"})
_SAFE_OF_SESSION = frozenset({"notes", "root"})
_ABSENT = "(absent)"


@dataclass(frozen=True)
class Difference:
    """One setting that two configurations do not share.

    Attributes:
        path: As `phases[0].optimizer.lr`.
        old: Its value in the old one, as text.
        new: Its value in the new one, as text.
        safe: Whether the session can go on with the new one as if nothing had happened.
    """

    path: str
    old: str
    new: str
    safe: bool

    def __str__(self) -> str:
        return f"{self.path}: {self.old} -> {self.new}"


def to_yaml(config: Config) -> str:
    """Writes every setting, in the order of the schema, so that `from_yaml` reads the same."""
    writer: Any = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False
    writer.width = 2**20
    writer.allow_unicode = True
    buffer = io.StringIO()
    writer.dump(config.model_dump(mode="json"), buffer)
    return buffer.getvalue()


def from_yaml(text: str) -> Config:
    """Reads what `to_yaml` wrote.

    Raises:
        ConfigurationError: It is no YAML.
        SessionError: It is no resolved configuration of this version.
    """
    root = read_text(text, lambda line: f"config.yaml:{line}")
    try:
        return Config.model_validate_json(
            json.dumps(root.plain() if root is not None else None), strict=True
        )
    except ValueError as error:
        raise SessionError(
            f"config.yaml of the session is no configuration that this version can read: {error}. "
            "It was edited, or written by another version: start a new session."
        ) from error


def fingerprint(config: Config) -> str:
    """Names what determines the numbers: equal for configurations that train the same."""
    leaves = {
        path_text(loc): value
        for loc, value in _leaves(config.model_dump(mode="json"))
        # The name decides where the session lies, not what it trains.
        if not _is_safe(loc) and loc != ("session", "name")
    }
    canonical = json.dumps(leaves, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def differences(old: Config, new: Config, begun_phases: Collection[str]) -> list[Difference]:
    """Lists every setting that differs, in the order of the schema.

    A setting is safe to change if it changes no number (notes, places, tracking, checkpoints,
    failure handling, machine, export), or if it belongs to a phase that has not begun.

    Args:
        old: What the session was started with.
        new: What it is to go on with.
        begun_phases: Names of the phases of `old` that have taken a step.
    """
    old_leaves = dict(_leaves(old.model_dump(mode="json")))
    new_leaves = dict(_leaves(new.model_dump(mode="json")))
    begun = [phase.name in begun_phases for phase in old.phases]
    found = []
    for loc in [*old_leaves, *(loc for loc in new_leaves if loc not in old_leaves)]:
        before, after = old_leaves.get(loc, _ABSENT), new_leaves.get(loc, _ABSENT)
        if before != after or type(before) is not type(after):
            safe = _is_safe(loc) or _belongs_to_a_phase_ahead(loc, begun)
            found.append(Difference(path_text(loc), _text(before), _text(after), safe))
    return found


def _belongs_to_a_phase_ahead(loc: Loc, begun: list[bool]) -> bool:
    """Whether a setting is of a phase that has not begun, or that the old one did not have."""
    if loc[0] != "phases" or not isinstance(loc[1], int):
        return False
    return not any(begun[loc[1] :])


def _is_safe(loc: Loc) -> bool:
    if loc[0] == "session":
        return loc[1] in _SAFE_OF_SESSION
    section = loc[2] if loc[0] == "phases" and len(loc) > 2 else loc[0]
    if section == "evaluate" and loc[3:4] == ("samples",):
        return True  # trains nothing, and draws from generators of its own
    return section in _SAFE_ANYWHERE


def _leaves(value: Any, loc: Loc = ()) -> Iterator[tuple[Loc, Any]]:
    """Every setting with its path; an empty mapping or list is one itself."""
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _leaves(below, (*loc, key))
    elif isinstance(value, list) and value:
        for idx, below in enumerate(value):
            yield from _leaves(below, (*loc, idx))
    else:
        yield loc, value


def _text(value: object) -> str:
    return _ABSENT if value == _ABSENT else json.dumps(value, ensure_ascii=False)
