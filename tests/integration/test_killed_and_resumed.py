"""The promise in one story: a session of two phases that is killed ends as one that was not.

`make test` has this one; every other kind of moment is in test_interruptions.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.launched import attempts, launch, require_same_phase, view
from phaseline.errors import ExitCode
from phaseline.session.layout import SessionLayout
from phaseline.session.records import read_records

CONFIG = Path(__file__).parent / "two_ranks.yaml"
SHORTER = ("-o", "phases[first].duration=7 steps", "-o", "phases[second].duration=5 steps")
# A minute or more: a smooth session and two starts of the rough one, on two ranks each.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The smooth session and the rough one."""
    folder = tmp_path_factory.mktemp("killed")
    cache = {"PHASELINE_CACHE": str(folder / "cache")}
    smooth, rough = folder / "smooth", folder / "rough"
    launched = launch(CONFIG, smooth, *SHORTER, log=folder / "smooth.log", variables=cache)
    assert launched.wait() == ExitCode.FINISHED, launched.output
    # A rank, between two checkpoints of the first phase.
    killed = {**cache, "KILL_AT": "1:step:first:6"}
    launched = launch(CONFIG, rough, *SHORTER, log=folder / "rank.log", variables=killed)
    assert launched.wait() == ExitCode.FAILED, launched.output
    assert "Attempt 1 failed." in launched.output
    assert "step-00000004.a0001" in launched.output
    launched = launch(CONFIG, rough, *SHORTER, log=folder / "last.log", variables=cache)
    assert launched.wait() == ExitCode.FINISHED, launched.output
    return smooth, rough


def test_final_weights_and_optimizer_are_bit_equal(sessions: tuple[Path, Path]) -> None:
    for phase in ("first", "second"):
        require_same_phase(*sessions, phase)


def test_every_step_is_recorded_once_with_the_same_numbers(sessions: tuple[Path, Path]) -> None:
    smooth, rough = map(view, sessions)
    assert rough == smooth
    steps = [record["global_step"] for record in rough if record["kind"] == "train"]
    assert steps == list(range(1, 13))


def test_session_starts_an_image_per_phase_and_few_for_trials(
    sessions: tuple[Path, Path],
) -> None:
    smooth, rough = map(SessionLayout, sessions)
    # Trials share one image, which that of ZeRO-3 ends; each phase has its own.
    assert num_images(smooth, 1) == 3
    # What was tried once is not tried again.
    assert len(attempts(rough.root)) == 2
    validated = [
        record["phase"]
        for number in attempts(rough.root)
        for record in read_records(rough.attempt(number).events_file)
        if record["event"] == "phase_validated"
    ]
    assert validated == ["first", "second"]
    assert num_images(rough, 2) == 2


def num_images(layout: SessionLayout, attempt: int) -> int:
    events = read_records(layout.attempt(attempt).events_file)
    return sum(1 for event in events if event["event"] == "image_started")
