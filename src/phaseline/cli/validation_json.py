"""What `phaseline validate --json` writes; docs/starting-and-changing.md says its shape."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from phaseline.config.changes import Change, Effect
from phaseline.config.loading import LoadedConfig
from phaseline.errors import Fault
from phaseline.training.pipeline.changed_settings import ChangedSettings


def describe_faults(faults: Sequence[Fault]) -> str:
    """The document of a file that has faults."""
    return _write({"valid": False, "faults": [asdict(fault) for fault in faults]})


def describe_validation(
    loaded: LoadedConfig,
    phases: Sequence[Mapping[str, str]],
    changes: ChangedSettings,
    command: str,
) -> str:
    """The document of a file without faults.

    Args:
        loaded: The configuration.
        phases: What the text says of each phase, by its headings.
        changes: How the file differs from what the session was started with.
        command: What runs it.
    """
    return _write(
        {
            "valid": not changes.refused,
            "faults": [],
            "session": loaded.config.session.name,
            "directory": str(loaded.session_dir),
            "phases": phases,
            "changes": [*_changes(changes, loaded)],
            "command": command,
        }
    )


def _changes(changes: ChangedSettings, loaded: LoadedConfig) -> Iterator[dict[str, Any]]:
    for change in changes.passed:
        yield _change(change, loaded, "passes")
    for change in changes.accepted:
        yield _change(change, loaded, "accepted")
    for change in changes.refused:
        may_be = change.effect is Effect.NUMBERS
        yield _change(change, loaded, "may be accepted" if may_be else "refused")


def _change(change: Change, loaded: LoadedConfig, verdict: str) -> dict[str, Any]:
    flag = None
    if verdict == "may be accepted":
        flag = shlex.join(["--accept-change", change.path])
    return {
        "path": change.path,
        "location": loaded.locate(change.loc),
        "old": change.old_value,
        "new": change.new_value,
        "effect": change.effect.value,
        "verdict": verdict,
        "flag": flag,
        "remark": change.remark,
    }


def _write(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2)
