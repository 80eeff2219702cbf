from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from phaseline.errors import (
    ExitCode,
    SessionError,
)
from phaseline.session.layout import SessionLayout
from phaseline.session.stored import StoredFileError
from unit.checkpoint.made_checkpoints import make_checkpoint
from unit.training.pipeline.sessions import configure, open_session, publish, run_once


@pytest.fixture
def layout(tmp_path: Path) -> SessionLayout:
    return SessionLayout(tmp_path / "session")


def test_session_without_its_attempts_is_refused_rather_than_begun_anew(
    tmp_path: Path, layout: SessionLayout
) -> None:
    run_once(tmp_path)
    run_once(tmp_path)
    saved = publish(layout, "first", 5, 2)
    shutil.rmtree(layout.attempt(2).dir)
    message = f"attempts/0002 is missing, and {saved} was written by that attempt.*inherit.weights"
    with pytest.raises(SessionError, match=message) as told:
        open_session(configure(tmp_path))
    assert told.value.exit_code is ExitCode.USAGE  # another start would end the same
    assert layout.attempt_numbers() == [1]


def test_session_whose_newest_attempt_lost_what_it_stands_on_is_refused(
    tmp_path: Path, layout: SessionLayout
) -> None:
    run_once(tmp_path)
    saved = publish(layout, "first", 5, 1)
    layout.attempt(1).adopted_file.unlink()
    message = f"0001/adopted.json is missing, and {saved} was written by that attempt.*Put it back"
    with pytest.raises(SessionError, match=message):
        open_session(configure(tmp_path))


def test_what_an_attempt_stood_on_is_not_missed_once_a_later_one_has_taken_over(
    tmp_path: Path, layout: SessionLayout
) -> None:
    run_once(tmp_path)
    publish(layout, "first", 5, 1)
    run_once(tmp_path)
    layout.attempt(1).adopted_file.unlink()
    assert run_once(tmp_path) == 3


def test_attempt_of_another_session_takes_no_number_away(
    tmp_path: Path, layout: SessionLayout
) -> None:
    run_once(tmp_path)
    folder = layout.phase("first").checkpoints_dir
    make_checkpoint(folder, 900, 7, phase="first", session="another")
    (make_checkpoint(folder, 901, 7, phase="first") / "manifest.json").write_text("{")
    assert run_once(tmp_path) == 2


def test_session_without_its_identity_is_refused_rather_than_begun_anew(
    tmp_path: Path, layout: SessionLayout
) -> None:
    run_once(tmp_path)
    publish(layout, "first", 5, 1)
    layout.session_file.unlink()
    with pytest.raises(
        SessionError, match=r"session\.json is missing, and .* belongs to a session"
    ):
        open_session(configure(tmp_path))
    assert not layout.session_file.exists()


@pytest.mark.parametrize("is_headless", [False, True])
def test_checkpoints_without_any_record_are_refused_before_an_attempt_is_begun(
    tmp_path: Path, layout: SessionLayout, is_headless: bool
) -> None:
    run_once(tmp_path)
    saved = publish(layout, "first", 5, 1)
    if is_headless:
        (saved / "manifest.json").unlink()
    layout.session_file.unlink()
    shutil.rmtree(layout.attempts_dir)
    message = rf"session\.json and .*attempts are missing, and {saved} belongs to a session"
    with pytest.raises(SessionError, match=message):
        open_session(configure(tmp_path))
    assert not layout.session_file.exists()
    assert not layout.attempts_dir.exists()


def test_session_without_an_attempt_in_the_middle_is_refused(
    tmp_path: Path, layout: SessionLayout
) -> None:
    for _ in range(3):
        run_once(tmp_path)
    publish(layout, "first", 5, 2)
    shutil.rmtree(layout.attempt(2).dir)
    with pytest.raises(SessionError, match="attempts/0002 is missing") as caught:
        open_session(configure(tmp_path))
    assert caught.value.exit_code is ExitCode.USAGE


def test_session_whose_identity_was_changed_is_refused_rather_than_begun_anew(
    tmp_path: Path, layout: SessionLayout
) -> None:
    run_once(tmp_path)
    saved = publish(layout, "first", 5, 1)
    content = json.loads(layout.session_file.read_text())
    layout.session_file.write_text(json.dumps({**content, "id": content["id"][:-1] + "?"}))
    message = f"session.json says that the session is .*, and {saved}, which one of its attempts"
    with pytest.raises(StoredFileError, match=message):
        run_once(tmp_path)
    assert list(layout.attempt_numbers()) == [1]
