from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from phaseline.config import upgrades
from phaseline.config.upgrades import FORMAT, Upgrade, with_old_defaults
from phaseline.session.identity import SessionIdentity, load_identity, save_identity
from phaseline.session.layout import SessionLayout
from phaseline.session.session_file import load_session_file
from unit.config.session_text import write

IDENTITY = SessionIdentity("0f", "test", 0.0, "f", "w", "0.1.0", "open", [], "")
WARMUP = ("phases", 0, "schedule", "warmup")


def test_session_keeps_the_default_that_it_began_with_when_a_newer_version_has_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a version of a later format would bring: the default was 7 steps before.
    newer = (Upgrade(FORMAT + 1, old_defaults={"phases.*.schedule.warmup": "7 steps"}),)
    monkeypatch.setattr(
        "phaseline.config.loading.with_old_defaults",
        lambda root, found: with_old_defaults(root, found, newer),
    )
    for name in ("config.upgrades", "session.session_file", "session.identity"):
        monkeypatch.setattr(f"phaseline.{name}.FORMAT", FORMAT + 1)
    layout = SessionLayout(tmp_path / "session")
    layout.root.mkdir()
    path = write(tmp_path)

    def warmup() -> str | None:
        loaded = load_session_file(path, session_dir=layout.root)
        node = loaded.root.find(WARMUP)
        assert upgrades.FORMAT == FORMAT + 1
        return None if node is None else str(node.value)

    assert warmup() is None
    save_identity(layout, IDENTITY)  # began with the format before
    assert warmup() == "7 steps"
    # Written again by the newer version it has the new format, and still its own defaults.
    found = load_identity(layout)
    assert found is not None
    save_identity(layout, replace(found, state="finished"))
    assert f'"format": {FORMAT + 1}' in layout.session_file.read_text()
    assert warmup() == "7 steps"
