"""A made-up session for every test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.tracking.session_builder import SessionBuilder


@pytest.fixture
def session(tmp_path: Path) -> SessionBuilder:
    return SessionBuilder(tmp_path / "demo")


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()
