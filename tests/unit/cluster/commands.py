"""Commands that stand in for SLURM's: what they answer in outages no cluster has when asked."""

from __future__ import annotations

from pathlib import Path

import pytest


def put_command(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, *answers: str) -> Path:
    """Puts a command first on the path; returns the file that keeps what it was called with.

    Args:
        folder: Where it goes.
        monkeypatch: Of the test.
        name: Of the command.
        answers: Shell for the first call, the second, and so on; the last for all others.
    """
    folder.mkdir(exist_ok=True)
    calls = folder / f"{name}.calls"
    cases = "\n".join(
        f"{'*' if number == len(answers) else number}) {answer} ;;"
        for number, answer in enumerate(answers, 1)
    )
    command = folder / name
    command.write_text(
        f'#!/bin/sh\necho "$@" >> "{calls}"\n'
        f'case "$(/usr/bin/wc -l < "{calls}" | /usr/bin/tr -d " ")" in\n{cases}\nesac\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return calls
