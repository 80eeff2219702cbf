"""Real processes for the tests of what must hold between processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from phaseline.session.layout import SessionLayout

PATIENCE_S = 30.0


class StartPython(Protocol):
    """Starts a Python process on a text; its words are `sys.argv[1:]`."""

    def __call__(
        self, code: str, *words: object, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[str]: ...


@pytest.fixture
def layout(tmp_path: Path) -> SessionLayout:
    return SessionLayout(tmp_path / "runs" / "session")


@pytest.fixture
def start_python() -> Iterator[StartPython]:
    """Starts processes that are killed after the test, if they still run."""
    started: list[subprocess.Popen[str]] = []

    def start(
        code: str, *words: object, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | (environment or {}),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Waits for something that another process does; a deadline only ends a hopeless wait."""

    def wait(is_done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not is_done():
            if time.monotonic() > deadline:
                pytest.fail(f"waited {PATIENCE_S:.0f} s in vain")
            time.sleep(0.01)

    return wait


def first_line(process: subprocess.Popen[str]) -> str:
    """What the process says first; empty if it ended without a word."""
    assert process.stdout is not None
    return process.stdout.readline().strip()
