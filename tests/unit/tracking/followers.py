"""Watching followers from outside, and reading what they left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from phaseline.tracking.tracker import tracker_folder
from phaseline.tracking.wandb_files import read_wandb_file

PATIENCE_S = 60.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("waited in vain")
        time.sleep(0.05)


def rows_of(root: Path) -> list[dict[str, Any]]:
    """Every history row of the session's run, over all of its files, in the order sent."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for path in sorted((root / "wandb").glob("*run-*/*.wandb")):
        for payload in read_wandb_file(path):
            history = Record.FromString(payload).history
            if history.item:
                rows.append(
                    {
                        i.key or ".".join(i.nested_key): json.loads(i.value_json)
                        for i in history.item
                    }
                )
    return rows


def followers_of(root: Path) -> list[psutil.Process]:
    found: dict[psutil.Process, int] = {}
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if "phaseline.tracking.follower" in words and str(root) in words:
                found[process] = process.ppid()
        except psutil.Error:
            continue
    # A follower that is about to start a process of wandb's looks like two for a moment.
    pids = {process.pid for process in found}
    return [process for process, ppid in found.items() if ppid not in pids]


def follower_of(root: Path) -> psutil.Process:
    (process,) = followers_of(root)
    return process


def until_dead(process: psutil.Process) -> None:
    until(lambda: not lives(process))


def lives(process: psutil.Process) -> bool:
    """Whether it runs; one that only waits for its parent to take note does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def log_of(root: Path, name: str = "wandb") -> str:
    return (tracker_folder(root, name) / "follower.log").read_text(encoding="utf-8")
