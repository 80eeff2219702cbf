"""What a follower feeds: the protocol, the session it belongs to, and the names of trackers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from phaseline.config.sections import Config
from phaseline.config.tracking_section import TrackingSection
from phaseline.session.identity import SessionIdentity

WANDB = "wandb"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True, kw_only=True)
class FollowedSession:
    """The session whose records a tracker is given.

    Attributes:
        root: The session's directory.
        identity: Who it is, the same over all restarts.
        config: Its resolved configuration.
        watched_pid: A process that trains; its use of the machine may be recorded. None: none
            does, the records are read afterwards.
        folder: Where the tracker may keep files of its own.
    """

    root: Path
    identity: SessionIdentity
    config: Config
    watched_pid: int | None
    folder: Path


class Tracker(Protocol):
    """Takes a session's records in a process beside training; whatever it raises harms nobody.

    A tracker of your own is a class without arguments, named in `tracking.trackers` as
    `module:attribute`. When it raises, or its process dies, a new one is made and asked again
    where to go on.
    """

    def open(self, session: FollowedSession) -> int:
        """Begins, or goes on; returns the `seq` of the last record that it has, -1 for none.

        Only what it still has after a kill counts, so ask the files or the server, not memory.
        `seq` grows from record to record, not always by one.
        """

    def log(self, record: Mapping[str, Any]) -> None:
        """Takes the next record: `kind`, axes, `metrics`, `timing`, `seq` and `attempt`.

        Numbers that JSON has no way to write are text, as "nan" and "-inf".
        """

    def event(self, event: Mapping[str, Any]) -> None:
        """Takes an event of an attempt; after a restart of the follower all come once more."""

    def close(self) -> None:
        """Returns once everything is where it belongs."""


def tracker_names(section: TrackingSection) -> tuple[str, ...]:
    """The trackers that a session feeds, each in a process of its own."""
    names = [WANDB] if section.wandb.mode != "disabled" else []
    names += [TENSORBOARD] if section.tensorboard else []
    return (*names, *section.trackers)


def describe_wandb(section: TrackingSection, session_dir: Path, where: str) -> str:
    """One line on what becomes of the session's wandb run.

    Args:
        section: What is configured.
        session_dir: The session's directory.
        where: The place that decided the mode, where it is not the session file; may be empty.
    """
    mode = section.wandb.mode
    text = f"wandb: {mode}"
    if mode == "online":
        text += f", project {section.wandb.project}"
    if where:
        text += f", by {where}"
    if mode == "offline":
        text += f"; `phaseline sync {session_dir}` sends the run"
    return text


def tracker_folder(session_dir: Path, name: str) -> Path:
    """Where a tracker, and the process that feeds it, keep their files."""
    if name in (WANDB, TENSORBOARD):
        return session_dir / name
    return session_dir / "trackers" / re.sub(r"[^\w.-]+", "-", name)
