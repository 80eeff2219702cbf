from __future__ import annotations

from pathlib import Path

import pytest

from phaseline.cluster.slots import slots_needed, time_left
from phaseline.config.resolved import from_yaml, to_yaml
from phaseline.config.sections import Config
from phaseline.session.attempts import take_attempt
from phaseline.session.jobs import JobStart
from phaseline.session.layout import SessionLayout
from phaseline.session.records import RecordWriter
from unit.config.session_text import VALID, load


@pytest.fixture
def layout(tmp_path: Path) -> SessionLayout:
    """A session whose first phase did 40 of 100 steps of 2 s, with a save of 5 s."""
    layout = SessionLayout(tmp_path / "session")
    attempt = take_attempt(layout)
    events, metrics = RecordWriter(attempt.events_file), RecordWriter(attempt.metrics_file)
    events.append(
        [
            {"event": "phase_started", "phase": "first", "num_steps": 100, "phase_step": 0},
            {
                "event": "checkpoint_saved",
                "phase": "first",
                "checkpoint": "step-00000040.a0001",
                "final": False,
                "duration_s": 5.0,
            },
        ]
    )
    metrics.append(
        [
            {
                "kind": "train",
                "phase": "first",
                "phase_step": step,
                "global_step": step,
                "tokens": step,
                "metrics": {},
                "timing": {"time": 1000.0 + 2 * step},
            }
            for step in range(1, 41)
        ]
    )
    events.close()
    metrics.close()
    return layout


def config(folder: Path, text: str = VALID) -> Config:
    return from_yaml(to_yaml(load(folder, text=text)))


def job(*, ended: float | None, slot_s: float | None = 1000.0) -> JobStart:
    return JobStart(
        job_id="1",
        restart=0,
        line="1",
        nodes="node1",
        began=972.0,
        slot_ends=None if slot_s is None else 972.0 + slot_s,
        since=0,
        checkpoint=None,
        ended=ended,
    )


def test_time_left_counts_this_phase_and_those_to_come(
    layout: SessionLayout, tmp_path: Path
) -> None:
    left = time_left(layout, config(tmp_path), {"first": 40})
    assert left is not None
    assert left.seconds == pytest.approx((60 + 50) * 2.0)
    assert not left.is_at_least


def test_time_left_is_at_least_so_much_when_a_length_is_in_epochs(
    layout: SessionLayout, tmp_path: Path
) -> None:
    text = VALID.replace("duration: 50 steps", "duration: 2 epochs")
    left = time_left(layout, config(tmp_path, text), {"first": 40})
    assert left is not None
    assert left.seconds == pytest.approx(60 * 2.0)
    assert left.is_at_least


def test_time_left_is_unknown_before_a_step_was_timed(tmp_path: Path) -> None:
    assert time_left(SessionLayout(tmp_path / "none"), config(tmp_path), {"first": 0}) is None


def test_no_job_is_needed_when_the_one_at_hand_is_enough(layout: SessionLayout) -> None:
    assert slots_needed(layout, job(ended=None), 220.0, lead_s=120, now=1100.0) == 0


@pytest.mark.parametrize(("left_s", "number"), [(700.0, 1), (780.0, 1), (781.0, 2), (7000.0, 9)])
def test_jobs_are_counted_by_the_time_in_which_they_train(
    layout: SessionLayout, left_s: float, number: int
) -> None:
    # Of 1000 s, 30 are the start, 120 and 60 the warning, and 10 two saves.
    assert slots_needed(layout, job(ended=1100.0), left_s, lead_s=120, now=1200.0) == number


def test_number_is_unknown_when_jobs_have_no_end(layout: SessionLayout) -> None:
    assert slots_needed(layout, job(ended=None, slot_s=None), 9.0, lead_s=120, now=0.0) is None
