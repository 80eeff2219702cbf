"""Interrupted equals uninterrupted, bit for bit, wherever the interruption falls.

One session of two phases on two ranks runs through. Another, of the same configuration, is
interrupted at every kind of moment and started again each time with the same command. The
tests below look at what the two left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from integration.launched import (
    Launched,
    attempts,
    interrupt,
    launch,
    require_same_phase,
    view,
    wait_until,
    wandb_steps,
)
from phaseline.cluster.verdict import judge
from phaseline.errors import ExitCode
from phaseline.session.attempts import read_adopted, read_error, read_outcome
from phaseline.session.layout import SessionLayout
from phaseline.session.records import read_records
from phaseline.tracking.follower import wait_for_follower

CONFIG = Path(__file__).parent / "two_ranks.yaml"
# Eleven starts, all of them before the first test.
pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.extended("eleven starts of two ranks, each killed or stopped elsewhere"),
]


@dataclass
class Story:
    """What happened.

    Attributes:
        smooth: The session that ran through.
        rough: The session that was interrupted.
        codes: Exit code of each start of the rough one.
        logs: What each start showed.
        survivors: Ranks that outlived their killed launcher.
        half_written: Whether the kill during a save left a half-written folder.
    """

    smooth: Path
    rough: Path
    codes: list[int] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    survivors: list[psutil.Process] = field(default_factory=list)
    half_written: bool = False


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("interruptions")
    found = Story(folder / "smooth", folder / "rough")
    cache = {"PHASELINE_CACHE": str(folder / "cache")}
    assert launch(CONFIG, found.smooth, log=folder / "smooth.log", variables=cache).wait() == 0, (
        folder / "smooth.log"
    ).read_text()
    layout = SessionLayout(found.rough)

    def start(kill_at: str = "") -> Launched:
        log = folder / f"rough-{len(found.codes)}.log"
        variables = {**cache, "KILL_AT": kill_at} if kill_at else cache
        return launch(CONFIG, found.rough, log=log, variables=variables)

    def end(launched: Launched) -> None:
        found.codes.append(launched.wait())
        found.logs.append(launched.output)

    # Start-up, from outside: before the ranks have met.
    launched = start()
    wait_until(lambda: bool(attempts(found.rough)), launched, "the first attempt")
    launched.rank(1).kill()
    end(launched)
    end(start("0:step:first:6"))
    end(start("1:save:first:8"))
    found.half_written = any(layout.phase("first").checkpoints_dir.glob(".aside-*"))
    end(start("0:publish:first:12"))
    end(start("0:edge:first:0"))
    end(start("1:validation:second:5"))
    # The launcher itself, in the middle of a phase.
    launched = start()
    wait_until(lambda: _step_of(found.rough, "second") >= 6, launched, "step 6 of the second phase")
    ranks = launched.descendants()
    launched.process.kill()
    end(launched)
    _, found.survivors = psutil.wait_procs(ranks, timeout=10)
    # Ctrl-C.
    launched = start()
    wait_until(lambda: _began_training(found.rough, attempt=8), launched, "training")
    interrupt(launched)
    end(launched)
    end(start())
    end(start())
    for session in (found.smooth, found.rough):
        assert wait_for_follower(session, 30)
    return found


def _step_of(session: Path, phase: str) -> int:
    return max((r["phase_step"] for r in view(session) if r["phase"] == phase), default=0)


def _began_training(session: Path, *, attempt: int) -> bool:
    events = SessionLayout(session).attempt(attempt).events_file
    return any(event["event"] == "phase_started" for event in read_records(events))


def test_final_state_is_bit_equal_after_every_interruption(story: Story) -> None:
    for phase in ("first", "second"):
        require_same_phase(story.smooth, story.rough, phase)


def test_metrics_view_is_equal_after_every_interruption(story: Story) -> None:
    smooth, rough = view(story.smooth), view(story.rough)
    assert rough == smooth
    steps = [r["global_step"] for r in rough if r["kind"] == "train"]
    assert steps == list(range(1, 27))


def test_exit_codes_say_how_each_start_ended(story: Story) -> None:
    assert story.codes == [1, 1, 1, 1, 1, 1, -9, 75, 0, 0]


def test_each_start_resumes_the_newest_checkpoint(story: Story) -> None:
    layout = SessionLayout(story.rough)
    resumed = [read_adopted(layout.attempt(number)) for number in attempts(story.rough)]
    steps = [
        None
        if adopted is None or adopted.resumed_from is None
        else adopted.resumed_from.split("/")[1] + adopted.resumed_from[-14:-6]
        for adopted in resumed
    ]
    assert steps[:6] == [
        None,
        None,
        "first00000004",
        "first00000004",
        "first00000008",
        "first00000014",
    ]
    # Killed at a time of its own, so only the phase is certain.
    assert all(step is not None and step.startswith("second") for step in steps[7:])


def test_a_kill_during_a_save_leaves_nothing_that_counts(story: Story) -> None:
    assert story.half_written
    folders = SessionLayout(story.rough).phase("first").checkpoints_dir.iterdir()
    assert not [path for path in folders if path.name.startswith(".aside-")]


def test_no_rank_outlives_its_launcher(story: Story) -> None:
    assert story.survivors == []


def test_a_stop_on_request_is_an_outcome_and_no_error(story: Story) -> None:
    layout = SessionLayout(story.rough)
    stopped = layout.attempt(8)
    outcome = read_outcome(stopped)
    assert outcome is not None
    assert outcome.code is ExitCode.STOPPED
    assert read_error(stopped) is None
    assert "Run the same command to resume." in story.logs[7]
    assert "Traceback" not in story.logs[7]


def test_a_finished_session_says_so_and_starts_nothing(story: Story) -> None:
    assert len(attempts(story.rough)) == 9
    assert "The session is finished." in story.logs[9]
    assert judge(SessionLayout(story.rough), since=8).code is ExitCode.FINISHED


def test_a_killed_rank_is_told_with_what_is_saved_and_how_to_go_on(story: Story) -> None:
    text = story.logs[2]
    assert "Attempt 3 failed." in text
    assert "step-00000004.a0002" in text
    assert "Run the same command to resume." in text


def test_wandb_has_every_record_once_over_all_attempts(story: Story) -> None:
    for session in (story.smooth, story.rough):
        assert wandb_steps(session) == [record["seq"] for record in view(session)]
