from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from phaseline.cluster.progress import EndedStart, newest_checkpoint, why_give_up
from phaseline.errors import ExitCode
from phaseline.session.attempts import (
    ErrorRecord,
    Outcome,
    take_attempt,
    write_error,
    write_outcome,
)
from phaseline.session.layout import SessionLayout


@pytest.fixture
def layout(tmp_path: Path) -> SessionLayout:
    return SessionLayout(tmp_path / "session")


def publish(layout: SessionLayout, name: str) -> str:
    folder = layout.phase("text").checkpoints_dir / name
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return str(folder.relative_to(layout.root))


def fail(layout: SessionLayout, *, rank: int = 1, consequence: bool = False) -> None:
    write_error(
        take_attempt(layout),
        ErrorRecord(
            rank=rank,
            host="node2",
            phase="text",
            step=4,
            kind="ValueError",
            message="too bad\nand more",
            traceback="",
            consequence=consequence,
            time=1.0,
        ),
    )


def starts(num: int, checkpoint: str | None, cause: str = "") -> list[EndedStart]:
    return [EndedStart(f"start {idx + 1}", idx, checkpoint, cause) for idx in range(num)]


def test_nothing_is_given_up_when_fewer_starts_were_in_vain(layout: SessionLayout) -> None:
    assert why_give_up(layout, starts(2, None), limit=3) == ""


def test_giving_up_says_what_each_start_died_of(layout: SessionLayout) -> None:
    fail(layout)
    write_outcome(take_attempt(layout), Outcome(ExitCode.STOPPED, "stopped on request", 1.0))
    reason = why_give_up(layout, starts(3, None), limit=3)
    assert "no checkpoint was ever written" in reason
    assert "start 1: attempt 1, rank 1 on node2, text step 4: ValueError: too bad\n" in reason
    assert "start 2: attempt 2, stopped on request" in reason
    assert "start 3: before an attempt, nobody could say" in reason


def test_cause_that_slurm_names_comes_before_what_followed_from_it(layout: SessionLayout) -> None:
    fail(layout, consequence=True)
    reason = why_give_up(layout, starts(1, None, "node failure: node3"), limit=1)
    assert "attempt 1, node failure: node3 (rank 1 on node2, text step 4: ValueError" in reason


def test_a_new_checkpoint_is_progress_also_by_a_clock_that_is_behind(layout: SessionLayout) -> None:
    old = publish(layout, "step-00000005.a0001")
    new = publish(layout, "step-00000010.a0003")
    hour_ago = time.time() - 3600
    os.utime(layout.root / new / "manifest.json", (hour_ago, hour_ago))
    assert newest_checkpoint(layout) == new
    assert why_give_up(layout, starts(3, old), limit=3) == ""


def test_a_new_checkpoint_is_progress(layout: SessionLayout) -> None:
    old = publish(layout, "step-00000005.a0001")
    assert why_give_up(layout, starts(3, old), limit=3) != ""
    time.sleep(0.01)
    new = publish(layout, "step-00000010.a0003")
    assert newest_checkpoint(layout) == new
    assert why_give_up(layout, starts(3, old), limit=3) == ""
    # Only starts since then count.
    assert why_give_up(layout, [*starts(3, old), *starts(2, new)], limit=3) == ""
