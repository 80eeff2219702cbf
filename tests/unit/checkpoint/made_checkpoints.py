"""Checkpoints made by hand: they verify, and hold nothing of use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phaseline.checkpoint.manifest import MANIFEST_NAME, Manifest, checkpoint_name, hash_file

CONTENT = b"some bytes"


def make_checkpoint(
    folder: Path,
    step: int,
    attempt: int = 1,
    *,
    file: str = "a.bin",
    content: bytes = CONTENT,
    **facts: Any,
) -> Path:
    """Publishes one with a single file, and returns its folder.

    Args:
        folder: Where checkpoints are.
        step: Its step.
        attempt: Its attempt.
        file: Name of the file.
        content: What it holds.
        facts: Fields of the manifest.
    """
    path = folder / checkpoint_name(step, attempt)
    path.mkdir(parents=True)
    (path / file).write_bytes(content)
    known: dict[str, Any] = {
        "phase": "only",
        "run": 1,
        "parents": (),
        "decisions": (),
        "clock": step,
        "data": {},
        "phase_step": step,
        "global_step": step,
        "tokens": 64 * step,
        "final": False,
        "attempt": attempt,
        "world_size": 1,
        "engine": "plain",
        "session": "s",
        "config_fingerprint": "f",
        "committed": (),
        "files": {file: hash_file(path / file)},
        "created": 0.0,
    }
    (path / MANIFEST_NAME).write_bytes(Manifest(**(known | facts)).to_bytes())
    return path
