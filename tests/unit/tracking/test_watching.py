from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys

from typer.testing import CliRunner

from phaseline.cli import build_app
from phaseline.session.starting import announced
from phaseline.tracking.console import PhaseBanner, Progress
from phaseline.tracking.watching import Watching
from unit.tracking.session_builder import SessionBuilder, make_record


class Seen:
    def __init__(self) -> None:
        self.shown: list[object] = []

    def phase_started(self, banner: PhaseBanner) -> None:
        self.shown.append(banner)

    def update(self, progress: Progress) -> None:
        self.shown.append(progress)

    def note(self, text: str) -> None:
        self.shown.append(text)

    def phase_ended(self) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> list[object]:
        taken, self.shown = self.shown, []
        return taken


def _start(session: SessionBuilder, phase: str = "instruct") -> int:
    attempt = session.attempt()
    session.event(
        attempt, "phase_started", phase=phase, phase_step=0, num_steps=400, engine="zero1"
    )
    return attempt


def test_watching_shows_what_the_main_rank_shows(session: SessionBuilder) -> None:
    seen = Seen()
    watching = Watching(session.layout, seen)
    watching.look()
    assert (seen.take(), watching.is_over) == ([], False)

    attempt = _start(session)
    timing = {
        "train/tokens_per_s": 1e4,
        "train/mfu": 0.4,
        "train/phase_left_s": 60.0,
        "train/session_left_s": 90.0,
    }
    record = make_record(
        "train", "instruct", 7, {"train/loss": 2.5, "train/lr": 1e-3, "train/grad_norm": 0.5}
    )
    record["timing"] |= {f"instruct/{key}": value for key, value in timing.items()}
    validation = make_record("validation", "instruct", 7, {"validation/loss": 3.5})
    session.append(attempt, [record, validation])
    watching.look()
    banner, progress = seen.take()
    assert banner == PhaseBanner("instruct", 1, 2, 400, "zero1")
    assert progress == Progress(
        phase="instruct",
        phase_idx=1,
        num_phases=2,
        step=7,
        num_steps=400,
        global_step=7,
        loss=2.5,
        validation_loss=3.5,
        lr=1e-3,
        grad_norm=0.5,
        tokens_per_s=1e4,
        mfu=0.4,
        phase_left_s=60.0,
        session_left_s=90.0,
    )
    session.end(attempt)
    watching.look()
    assert seen.take() == ["attempt 1 ended: done"]
    assert watching.is_over


def test_watching_draws_the_newest_record_alone_and_goes_back_with_a_replay(
    session: SessionBuilder,
) -> None:
    seen = Seen()
    watching = Watching(session.layout, seen)
    first = _start(session, "pretrain")
    session.train(first, range(1, 200))
    watching.look()
    assert [getattr(item, "step", None) for item in seen.take()] == [None, 199]
    second = session.attempt((first, 100))
    session.train(second, range(101, 103))
    watching.look()
    progress, note = seen.take()
    assert isinstance(progress, Progress)
    assert (progress.step, progress.num_steps) == (102, 400)
    assert str(note).startswith("attempt 1 crashed: it was killed")
    assert dataclasses.replace(progress, step=400).is_complete


def test_watching_ends_a_phase_with_its_last_values_before_the_next_begins(
    session: SessionBuilder,
) -> None:
    seen = Seen()
    watching = Watching(session.layout, seen)
    attempt = _start(session, "pretrain")
    session.train(attempt, range(1, 11))
    watching.look()
    seen.take()
    session.validate(attempt, 10)
    watching.look()
    [progress] = seen.take()
    assert isinstance(progress, Progress)
    assert (progress.step, progress.validation_loss) == (10, 2.9)
    session.train(attempt, range(11, 401))
    session.event(
        attempt, "phase_started", time=1.76e9 + 400.5, phase="instruct", num_steps=50, engine="e"
    )
    later = make_record("train", "instruct", 1, {"train/loss": 1.0})
    later["timing"]["time"], later["global_step"] = 1.76e9 + 401, 401
    session.append(attempt, [later])
    watching.look()
    last, banner, first = seen.take()
    assert isinstance(last, Progress)
    assert isinstance(first, Progress)
    assert last.phase == "pretrain"
    assert last.is_complete
    assert isinstance(banner, PhaseBanner)
    assert (first.phase, first.step, first.num_steps) == ("instruct", 1, 50)


def test_watching_goes_on_while_a_launcher_is_at_work(session: SessionBuilder) -> None:
    watching = Watching(session.layout, Seen())
    session.end(_start(session))
    with announced(session.layout):
        assert not watching.is_over
    assert watching.is_over


def test_watch_command_waits_for_the_attempt_that_is_being_started(
    session: SessionBuilder,
) -> None:
    session.end(_start(session), reason="the old one")
    command = [sys.executable, "-m", "phaseline", "watch", str(session.layout.root)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with announced(session.layout):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        assert "waiting for attempt 2" in process.stdout.readline()
        session.end(_start(session, "pretrain"), reason="the new one")
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "phase 1/2 pretrain" in rest
    assert "attempt 2 ended: the new one" in rest
    assert "the old one" not in rest


def test_watching_ends_when_the_process_is_gone_without_a_word(session: SessionBuilder) -> None:
    seen = Seen()
    watching = Watching(session.layout, seen)
    attempt = _start(session)
    session.train(attempt, range(1, 3), phase_idx=1)
    code = (
        "import sys, time; from pathlib import Path; "
        "from phaseline.session.layout import SessionLayout; "
        "from phaseline.session.lease import Lease; "
        "Lease.acquire(SessionLayout(Path(sys.argv[1]))); print('held', flush=True); "
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(session.layout.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        is_over = [watching.is_over]
        watching.look(is_gone=is_over[0])
        seen.take()
        holder.kill()
    is_over.append(watching.is_over)
    assert is_over == [False, True]
    watching.look(is_gone=True)
    [note] = seen.take()
    assert str(note).startswith(f"attempt {attempt} crashed: it was killed")


def test_watch_command_ends_with_the_attempt(session: SessionBuilder) -> None:
    attempt = _start(session)
    session.train(attempt, range(1, 401), phase_idx=1)
    session.end(attempt)
    answer = CliRunner().invoke(build_app(["watch", "stop"]), ["watch", str(session.layout.root)])
    assert answer.exit_code == 0
    lines = [line[9:] for line in answer.output.splitlines()]
    assert lines[0] == "phase 2/2 instruct: 400 steps; zero1"
    assert lines[1].startswith("2/2 instruct step 400/400 (100%) | loss 2.0076 | lr 1.00e-03")
    assert lines[2] == "attempt 1 ended: done"


def test_watch_command_ends_without_a_word_on_ctrl_c(session: SessionBuilder) -> None:
    attempt = _start(session)
    session.train(attempt, range(1, 11), phase_idx=1)
    command = [sys.executable, "-m", "phaseline", "watch", str(session.layout.root)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    heading, line = process.stdout.readline(), process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=30)
    assert heading.endswith("instruct: 400 steps; zero1\n")
    assert "step 10/400" in line
    assert (process.returncode, rest, errors) == (0, "", "")


def test_watch_command_ends_when_nobody_reads_it_any_more(session: SessionBuilder) -> None:
    session.train(_start(session), range(1, 11), phase_idx=1)
    command = [sys.executable, "-m", "phaseline", "watch", str(session.layout.root)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
