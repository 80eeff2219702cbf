"""Trackers besides wandb, each in a follower of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from phaseline.config.tracking_section import TrackingSection
from phaseline.tracking import follower
from phaseline.tracking.console import Display
from phaseline.tracking.follower import start_follower, wait_for_follower
from phaseline.tracking.tracker import TENSORBOARD, describe_wandb, tracker_folder, tracker_names
from phaseline.training.pipeline.feed_notices import FeedNotices
from unit.tracking.followers import PATIENCE_S, follower_of, log_of, until
from unit.tracking.session_builder import SessionBuilder

PLUGINS = "unit.tracking.plugin_trackers"
LINES, RAISING, NEVER_OPENING = (
    f"{PLUGINS}:{name}" for name in ("Lines", "Raising", "NeverOpening")
)


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower finds the trackers of these tests."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def _lines(root: Path, name: str, file: str = "lines.jsonl") -> list[list[object]]:
    text = (tracker_folder(root, name) / file).read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("mode", "where", "line"),
    [
        ("offline", "", "wandb: offline; `phaseline sync runs/a` sends the run"),
        ("online", "", "wandb: online, project mine"),
        ("disabled", "WANDB_MODE", "wandb: disabled, by WANDB_MODE"),
    ],
)
def test_start_says_what_becomes_of_the_wandb_run(mode: str, where: str, line: str) -> None:
    section = TrackingSection.model_validate({"wandb": {"mode": mode, "project": "mine"}})
    assert describe_wandb(section, Path("runs/a"), where) == line


def test_tracker_names_are_those_that_are_asked_for() -> None:
    assert tracker_names(TrackingSection()) == ("wandb",)
    section = TrackingSection.model_validate(
        {"wandb": {"mode": "disabled"}, "tensorboard": True, "trackers": ["mine:Tracker"]}
    )
    assert tracker_names(section) == ("tensorboard", "mine:Tracker")
    assert tracker_folder(Path("s"), "my.parts:Mine") == Path("s/trackers/my.parts-Mine")


@pytest.mark.usefixtures("plugins")
def test_tracker_of_a_user_gets_every_record_and_event_of_a_restarted_session(
    session: SessionBuilder, parent: subprocess.Popen[bytes]
) -> None:
    root = session.layout.root
    first = session.attempt()
    session.train(first, range(1, 31))
    session.event(first, "phase_started", phase="pretrain")
    second = session.attempt((first, 20))
    session.train(second, range(21, 41))
    start_follower(root, parent.pid, LINES)
    session.end(second)
    assert wait_for_follower(root, PATIENCE_S, LINES), log_of(root, LINES)
    assert _lines(root, LINES) == [[5 * step, step] for step in range(1, 41)]
    assert _lines(root, LINES, "events.jsonl") == [
        [1, "phase_started"],
        [1, "attempt_lost"],
        [2, "attempt_ended"],
    ]
    assert (tracker_folder(root, LINES) / "closed").exists()
    assert not (root / "wandb").exists()


@pytest.mark.usefixtures("plugins")
def test_tracker_that_raises_is_made_anew_and_misses_nothing(
    session: SessionBuilder, parent: subprocess.Popen[bytes]
) -> None:
    root = session.layout.root
    attempt = session.attempt()
    session.train(attempt, range(1, 101))
    start_follower(root, parent.pid, RAISING)
    session.end(attempt)
    assert wait_for_follower(root, PATIENCE_S, RAISING), log_of(root, RAISING)
    assert log_of(root, RAISING).count("a new follower goes on: RuntimeError: as asked") == 3
    assert _lines(root, RAISING) == [[5 * step, step] for step in range(1, 101)]


@pytest.mark.usefixtures("plugins")
def test_follower_tries_later_and_later_until_the_attempt_is_over(
    session: SessionBuilder, parent: subprocess.Popen[bytes]
) -> None:
    root = session.layout.root
    attempt = session.attempt()
    session.train(attempt, range(1, 3))
    start_follower(root, parent.pid, NEVER_OPENING)
    until(lambda: "tries again in 5 s" in log_of(root, NEVER_OPENING))
    # It broke four times, which is said once.
    shown: list[str] = []
    notices = FeedNotices(root, [NEVER_OPENING], cast(Display, SimpleNamespace(note=shown.append)))
    notices.look()
    notices.look()
    assert shown == [
        f"{NEVER_OPENING} is not fed: the server of demo is down. The records stay in {root}."
    ]
    session.end(attempt)
    assert wait_for_follower(root, PATIENCE_S, NEVER_OPENING)
    lines = [line.partition(" ")[2] for line in log_of(root, NEVER_OPENING).splitlines()]
    broke = f"the feed to {NEVER_OPENING} broke"
    why = "ConnectionError: the server of demo is down"
    assert lines == [
        *[f"{broke}, a new follower goes on: {why}"] * 3,
        f"{broke}, a new follower tries again in 5 s: {why}",
        "the attempt is over, the records stay in the session",
    ]


def test_pauses_double_up_to_the_longest() -> None:
    orders = [follower._Order(Path("s"), "wandb", 1, 1, breakdowns) for breakdowns in range(12)]
    assert [order.pause_s for order in orders] == [0, 0, 0, 0, 5, 10, 20, 40, 80, 160, 300, 300]


def test_tensorboard_has_every_record_once_when_its_follower_is_killed(
    session: SessionBuilder, parent: subprocess.Popen[bytes]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    root = session.layout.root
    folder = tracker_folder(root, TENSORBOARD)
    _write_events_of_somebody_else(folder)
    [others] = folder.glob("events.*")
    first = session.attempt()
    session.train(first, range(1, 41))
    start_follower(root, parent.pid, TENSORBOARD)
    until(lambda: any(path != others for path in folder.glob("events.*")))
    killed = follower_of(root)
    killed.kill()
    killed.wait()
    # As a kill in the middle of a write leaves it.
    [torn] = set(folder.glob("events.*")) - {others}
    with torn.open("ab") as file:
        file.write(b"\x18\0\0\0\0\0\0\0torn")

    second = session.attempt((first, 30))
    session.train(second, range(31, 61))
    start_follower(root, parent.pid, TENSORBOARD)
    session.end(second)
    assert wait_for_follower(root, PATIENCE_S, TENSORBOARD), log_of(root, TENSORBOARD)

    seen = []
    for path in sorted(folder.glob("events.*")):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
        if "pretrain/train/loss" in events.Tags()["scalars"]:
            seen += [(e.step, e.wall_time) for e in events.Scalars("pretrain/train/loss")]
    assert seen == [(step, 1.76e9 + step) for step in range(1, 61)]


def _write_events_of_somebody_else(folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        writer.add_scalar("mine", 1.0, global_step=1000)
