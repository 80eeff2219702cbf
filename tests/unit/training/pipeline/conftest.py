"""The phases' runtimes, and a session of adapters."""

from __future__ import annotations

import pytest

from phaseline.errors import ExitCode
from unit.training.phases.conftest import maker
from unit.training.pipeline.adapter_session import Place

__all__ = ["adapters", "maker", "trained_place"]


@pytest.fixture(scope="session")
def trained_place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The session of adapters, run once through as `whole`."""
    place = Place.make(tmp_path_factory.mktemp("adapters"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        place.enter(monkeypatch)
        assert place.run("whole").code is ExitCode.FINISHED
    return place


@pytest.fixture
def adapters(trained_place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The same, with this process in its folder."""
    trained_place.enter(monkeypatch)
    return trained_place
