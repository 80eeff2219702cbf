"""Trackers as a user would write them. They live in a follower's process, named by module."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phaseline.tracking.tracker import FollowedSession


class Lines:
    """Writes one line per record."""

    def open(self, session: FollowedSession) -> int:
        self._path = session.folder / "lines.jsonl"
        self._path.touch()
        lines = self._path.read_text().splitlines()
        return int(json.loads(lines[-1])[0]) if lines else -1

    def log(self, record: Mapping[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps([record["seq"], record["global_step"]]) + "\n")

    def event(self, event: Mapping[str, Any]) -> None:
        with self._path.with_name("events.jsonl").open("a") as file:
            file.write(json.dumps([event["attempt"], event["event"]]) + "\n")

    def close(self) -> None:
        self._path.with_name("closed").touch()


class Raising(Lines):
    """Fails to begin at first, and later to take every fortieth step."""

    def open(self, session: FollowedSession) -> int:
        _fail_once(session.folder / "failed-to-open")
        return super().open(session)

    def log(self, record: Mapping[str, Any]) -> None:
        if record["global_step"] % 40 == 0:
            _fail_once(self._path.with_name(f"failed-{record['seq']}"))
        super().log(record)


class NeverOpening(Lines):
    """Is down for good."""

    def open(self, session: FollowedSession) -> int:
        raise ConnectionError(f"the server of {session.identity.name} is down")


def _fail_once(mark: Path) -> None:
    if not mark.exists():
        mark.touch()
        raise RuntimeError("as asked")
