"""A phase's runtime of real parts: a small model on a small corpus, one rank."""

from __future__ import annotations

from pathlib import Path

import pytest

from phaseline.distributed.world import World
from unit.training.phases.phase_runtimes import RuntimeMaker


@pytest.fixture
def maker(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RuntimeMaker:
    """Makes runtimes over text files that lie in the test's folder."""
    monkeypatch.setenv("PHASELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)  # ids are paths: the same files are held out everywhere
    folder = tmp_path / "corpus"
    folder.mkdir()
    for idx in range(30):
        words = " ".join(f"word{idx * word % 13}" for word in range(20 + idx))
        (folder / f"{idx:02}.txt").write_text(words, encoding="utf-8")
    return RuntimeMaker(world, tmp_path)
