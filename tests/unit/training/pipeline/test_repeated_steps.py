from __future__ import annotations

import tracemalloc
from pathlib import Path

from phaseline.session.attempts import Adopted
from phaseline.session.layout import SessionLayout
from phaseline.session.records import RecordWriter
from phaseline.training.pipeline.repeated_steps import find_repeated_steps
from unit.covered_lines import covered


def train(layout: SessionLayout, attempt: int, steps: range, *, kind: str = "train") -> None:
    folder = layout.attempt(attempt)
    folder.dir.mkdir(parents=True, exist_ok=True)
    writer = RecordWriter(folder.metrics_file)
    writer.append(
        [
            {
                "kind": kind, "phase": "a", "phase_step": step, "global_step": step, "tokens": 0,
                "metrics": {}, "timing": {"time": 1000.0 + 60 * step},
            }
            for step in steps
        ]
    )  # fmt: skip
    writer.close()


def adopted(*parts: tuple[int, int], resumed: bool = True) -> Adopted:
    path = "phases/a/run-1/checkpoints/step-00000005.a0001"
    return Adopted((path,) if resumed else (), path if resumed else None, covered(*parts))


def test_steps_behind_the_last_checkpoint_are_counted_and_timed(tmp_path: Path) -> None:
    layout = SessionLayout(tmp_path)
    train(layout, 1, range(1, 9))
    train(layout, 1, range(8, 9), kind="validation")
    layout.attempt(2).dir.mkdir()  # a start that trained nothing
    found = find_repeated_steps(layout, 3, adopted((1, 5)))
    assert str(found) == (
        "3 step(s), 3m 00s of work, that attempt 1 did after its last checkpoint are trained again"
    )
    assert find_repeated_steps(layout, 3, adopted((1, 9))) is None
    assert find_repeated_steps(layout, 3, adopted((1, 8))) is None


def test_session_that_saved_nothing_is_told_so(tmp_path: Path) -> None:
    layout = SessionLayout(tmp_path)
    train(layout, 1, range(1, 211))
    found = find_repeated_steps(layout, 2, adopted(resumed=False))
    assert found is not None
    assert (found.steps, found.seconds) == (210, 209 * 60.0)
    assert str(found).startswith("nothing was saved: 210 step(s), ")


def test_last_attempt_that_trained_is_looked_at_and_no_other(tmp_path: Path) -> None:
    layout = SessionLayout(tmp_path)
    train(layout, 1, range(1, 9))
    train(layout, 2, range(6, 8))
    found = find_repeated_steps(layout, 3, adopted((1, 5)))
    assert found is not None
    assert (found.attempt, found.steps) == (2, 2)
    assert find_repeated_steps(layout, 1, adopted(resumed=False)) is None


def test_records_are_not_all_held_at_once(tmp_path: Path) -> None:
    layout = SessionLayout(tmp_path)
    for first in range(1, 20_001, 4000):
        train(layout, 1, range(first, first + 4000))
    tracemalloc.start()
    try:
        found = find_repeated_steps(layout, 2, adopted((1, 5)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found is not None
    assert (found.steps, found.seconds) == (19_995, 19_995 * 60.0)
    assert peak < 4 << 20
