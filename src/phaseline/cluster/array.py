"""Members of a job array: each a session of its own."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phaseline.config.loading import LoadedConfig
from phaseline.errors import UsageError
from phaseline.session.session_file import load_session_file


@dataclass(frozen=True)
class ArrayMember:
    """One member's session.

    Attributes:
        overrides: What it changes in the configuration.
        session_dir: Its directory.
    """

    overrides: list[str]
    session_dir: Path


def member_of_array(loaded: LoadedConfig, idx: int | None) -> ArrayMember:
    """Returns a member of `cluster.array`.

    Raises:
        UsageError: There is no such member.
    """
    members = loaded.config.cluster.array
    if idx is None or not 0 <= idx < len(members):
        found = "is no job array" if idx is None else f"has number {idx}"
        raise UsageError(
            f"cluster.array in {loaded.source} has {len(members)} members, and this job {found}. "
            f"Submit it with --array=0-{len(members) - 1}, as `phaseline submit` does."
        )
    folder = loaded.session_dir
    return ArrayMember(shlex.split(members[idx]), folder.with_name(f"{folder.name}-{idx}"))


def load_members(loaded: LoadedConfig, overrides: Sequence[str]) -> list[LoadedConfig]:
    """What each session of an array trains, checked as its job will; the one where there is none.

    Args:
        loaded: The configuration, overrides applied.
        overrides: The same overrides.

    Raises:
        ConfigurationError: A member's overrides do not fit.
    """
    members = [member_of_array(loaded, idx) for idx in range(len(loaded.config.cluster.array))]
    return [
        load_session_file(
            loaded.source, [*overrides, *member.overrides], session_dir=member.session_dir
        )
        for member in members
    ] or [loaded]
