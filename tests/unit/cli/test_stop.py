from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from phaseline.cli import main
from phaseline.errors import ExitCode
from phaseline.session.attempts import Outcome, read_outcome, take_attempt, write_outcome
from phaseline.session.identity import SessionIdentity, save_identity
from phaseline.session.layout import AttemptLayout, SessionLayout
from phaseline.session.lease import Lease
from phaseline.session.starting import announced
from phaseline.session.stop_request import read_stop_request


@pytest.fixture
def layout(tmp_path: Path) -> SessionLayout:
    """A session that was created and never run."""
    layout = SessionLayout(tmp_path / "s")
    layout.root.mkdir()
    identify(layout, "open")
    return layout


@pytest.fixture
def lease(layout: SessionLayout) -> Iterator[Lease]:
    """Held by this process."""
    lease = Lease.acquire(layout)
    yield lease
    lease.release()


def identify(layout: SessionLayout, state: str) -> None:
    identity = SessionIdentity(
        id="0",
        name="tiny",
        created=0.0,
        config_fingerprint="",
        wandb_id="",
        phaseline_version="",
        state="finished" if state == "finished" else "open",
        validated=[],
        place="",
    )
    save_identity(layout, identity)


def stop(layout: SessionLayout, *options: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["stop", str(layout.root), *options])
    return int(end.value.code or 0)


def end(attempt: AttemptLayout, code: ExitCode) -> None:
    write_outcome(attempt, Outcome(code=code, reason="a test", time=time.time()))


def test_stop_asks_the_attempt_that_runs_and_says_which(
    layout: SessionLayout, lease: Lease, capsys: pytest.CaptureFixture[str]
) -> None:
    end(take_attempt(layout), ExitCode.STOPPED)
    running = take_attempt(layout)
    assert stop(layout) == 0
    shown = capsys.readouterr().out
    assert f"Attempt 2 of {layout.root} (process " in shown
    assert "is asked to stop." in shown
    assert read_stop_request(running) is not None
    assert read_stop_request(layout.attempt(1)) is None
    assert stop(layout) == 0
    assert "had been asked to stop before." in capsys.readouterr().out


def test_stop_refuses_where_there_is_no_session(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stop(SessionLayout(tmp_path)) == ExitCode.USAGE
    assert "is no session" in capsys.readouterr().err


def test_stop_refuses_when_no_attempt_has_begun(
    layout: SessionLayout, lease: Lease, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stop(layout) == ExitCode.USAGE
    assert "No attempt" in capsys.readouterr().err


def test_stop_refuses_when_nothing_runs_and_says_how_the_last_attempt_ended(
    layout: SessionLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt = take_attempt(layout)
    assert stop(layout) == ExitCode.USAGE
    assert "attempt 1 ended (killed: it left no word)" in capsys.readouterr().err
    end(attempt, ExitCode.STOPPED)
    assert stop(layout) == ExitCode.USAGE
    assert "attempt 1 ended (stopped: a test)" in capsys.readouterr().err
    assert read_stop_request(attempt) is None


def test_stop_refuses_when_the_attempt_has_ended_and_still_holds_the_session(
    layout: SessionLayout, lease: Lease, capsys: pytest.CaptureFixture[str]
) -> None:
    end(take_attempt(layout), ExitCode.STOPPED)
    assert stop(layout) == ExitCode.USAGE
    assert "no other has begun" in capsys.readouterr().err


def test_stop_refuses_when_the_session_is_finished(
    layout: SessionLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    end(take_attempt(layout), ExitCode.FINISHED)
    identify(layout, "finished")
    assert stop(layout) == ExitCode.USAGE
    assert "is finished; there is nothing to stop" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "answer", "words"),
    [
        (ExitCode.STOPPED, 0, "Attempt 1 ended: stopped: a test."),
        (ExitCode.FINISHED, 0, "Attempt 1 ended: finished: a test."),
        (None, 1, "Attempt 1 ended: killed: it left no word."),
    ],
)
def test_stop_waits_for_the_end_and_says_how_it_was(
    layout: SessionLayout,
    lease: Lease,
    capsys: pytest.CaptureFixture[str],
    code: ExitCode | None,
    answer: int,
    words: str,
) -> None:
    attempt = take_attempt(layout)

    def obey() -> None:
        while not attempt.stop_file.exists():
            time.sleep(0.01)
        if code is not None:
            end(attempt, code)
        lease.release()

    job = threading.Thread(target=obey)
    job.start()
    assert stop(layout, "--wait") == answer
    job.join()
    assert words in capsys.readouterr().out
    assert (read_outcome(attempt) is None) == (code is None)


def test_request_that_is_damaged_is_named_rather_than_waited_for(
    layout: SessionLayout, lease: Lease, capsys: pytest.CaptureFixture[str]
) -> None:
    del lease
    attempt = take_attempt(layout)
    attempt.stop_file.write_text("{")
    assert stop(layout) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert f"{attempt.stop_file} cannot be read" in error
    assert "Remove it, and ask with `phaseline stop`" in error


def test_stop_waits_for_the_attempt_that_is_being_started(
    layout: SessionLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    end(take_attempt(layout), ExitCode.STOPPED)
    taken: list[Lease] = []

    def begin() -> None:
        time.sleep(0.5)
        taken.append(Lease.acquire(layout))
        take_attempt(layout)

    starter = threading.Thread(target=begin)
    with announced(layout):
        starter.start()
        assert stop(layout) == 0
        starter.join()
    taken[0].release()
    shown = capsys.readouterr().out
    assert f"No attempt of {layout.root} runs yet, and a launcher is at work" in shown
    assert read_stop_request(layout.attempt(2)) is not None
