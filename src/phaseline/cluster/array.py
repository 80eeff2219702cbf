"""Members of a job array: each a session of its own."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from phaseline.config.loading import LoadedConfig
from phaseline.errors import UsageError


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
