"""A made-up session for every test."""

from __future__ import annotations

from pathlib import Path

import pytest

from unit.tracking.session_builder import SessionBuilder


@pytest.fixture
def session(tmp_path: Path) -> SessionBuilder:
    return SessionBuilder(tmp_path / "demo")
