"""What changed between session formats, so that older sessions go on under a newer version.

A session's directory has one format: that of `session.json`, of the configurations it keeps and
of its records. A version reads its own format and every released one before it. What a newer
one renames or drops is listed here, and a default that changes numbers with its old value:
where the session's file leaves the setting out, an older session keeps what it began with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from phaseline.config.tree import Node, Scalar
from phaseline.errors import ExitCode, SessionError

FORMAT = 2
"""The session format of this version."""
OLDEST = 2
"""The oldest that it reads."""
_EVERY = "*"


class SessionFormatError(SessionError):
    """A session has a format that this version does not read. No second try mends it."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class Upgrade:
    """What one format has otherwise than the one before it.

    Settings are given by their path; `*` stands for every entry of a list, as in
    `phases.*.optimizer.lr`.

    Attributes:
        format: The format that it leads to.
        renamed: New paths of settings by their old ones; a list stays the list that it was.
        dropped: Settings that are no more, and that no number depended on.
        old_defaults: By path, as this version calls it, what a setting's default was before.
    """

    format: int
    renamed: Mapping[str, str] = field(default_factory=dict)
    dropped: Sequence[str] = ()
    old_defaults: Mapping[str, Scalar] = field(default_factory=dict)


UPGRADES: tuple[Upgrade, ...] = ()
"""In the order of formats; none yet, as format 2 is the first that was released."""


def require_readable(found: object, path: Path) -> int:
    """Returns a session's format if this version reads it.

    Args:
        found: What the file says its format is; None: it says nothing.
        path: The file, for the message.

    Raises:
        SessionFormatError: It is older or newer than what this version reads.
    """
    if found is None:
        raise SessionFormatError(
            f"{path} has no format: it was written by a version before the first release. Finish "
            "the session with the version that wrote it, or start a new one (--session DIR)."
        )
    if type(found) is not int or found < OLDEST:
        raise SessionFormatError(
            f"{path} has the format {found!r}, which no version writes that this one can follow; "
            f"it reads {OLDEST} to {FORMAT}. Restore the file from a copy, or use the version "
            "that wrote it."
        )
    if found > FORMAT:
        raise SessionFormatError(
            f"{path} has format {found}, of a newer version; this one reads {OLDEST} to {FORMAT}. "
            "Use the version that wrote it, or a newer one."
        )
    return found


def upgraded(
    settings: dict[str, Any], found: int, upgrades: Sequence[Upgrade] = UPGRADES
) -> dict[str, Any]:
    """Stored settings of an older format as this version would have stored them.

    Args:
        settings: As they were stored, every one of them written.
        found: Their format.
        upgrades: What changed, in the order of formats.
    """
    for upgrade in upgrades:
        if upgrade.format > found:
            for old, new in upgrade.renamed.items():
                _move(settings, old.split("."), new.split("."))
            for path in upgrade.dropped:
                _move(settings, path.split("."), None)
    return settings


def with_old_defaults(root: Node, found: int, upgrades: Sequence[Upgrade] = UPGRADES) -> Node:
    """A session's file, with the defaults of an older format where it leaves settings out.

    Args:
        root: What was written, `defaults` merged into the phases.
        found: The format that the session began with.
        upgrades: What changed, in the order of formats.
    """
    for upgrade in upgrades:
        if upgrade.format > found:
            for path, value in upgrade.old_defaults.items():
                where = f"the default of session format {upgrade.format - 1}"
                root = _with_default(root, path.split("."), value, where)
    return root


def _move(settings: Any, old: list[str], new: list[str] | None) -> None:
    """Moves a setting to another path, or takes it away; what is not there stays away."""
    if _EVERY in old:
        place = old.index(_EVERY)
        for entry in _find(settings, old[:place]) or ():
            _move(entry, old[place + 1 :], None if new is None else new[place + 1 :])
        return
    section = _find(settings, old[:-1])
    if not isinstance(section, dict) or old[-1] not in section:
        return
    value = section.pop(old[-1])
    if new is not None:
        for key in new[:-1]:
            settings = settings.setdefault(key, {})
        settings[new[-1]] = value


def _find(settings: Any, keys: list[str]) -> Any:
    for key in keys:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def _with_default(node: Node, keys: list[str], value: Scalar, where: str) -> Node:
    """The same tree, in which a setting has a value wherever it was left out."""
    key, *below = keys
    if key == _EVERY:
        entries = [_with_default(entry, below, value, where) for entry in node.items or ()]
        return node if node.items is None else replace(node, value=entries)
    if node.mapping is None:
        return node
    origin = (*node.origin, key)
    found = node.mapping.get(key)
    if not below:
        added = Node(value, where, origin) if found is None else found
    else:
        section = Node({}, where, origin) if found is None else found
        added = _with_default(section, below, value, where)
    return replace(node, value={**node.mapping, key: added})
