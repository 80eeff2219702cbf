from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from phaseline.errors import ExitCode
from phaseline.resilience.stop_flag import StopFlag
from phaseline.session.records import read_records
from phaseline.training.pipeline.images import InPlace
from phaseline.training.pipeline.orchestrator import PipelineOrchestrator
from phaseline.training.pipeline.session_manager import OpenSession
from unit.training.pipeline.sessions import configure, open_session, publish


@pytest.fixture
def session(tmp_path: Path) -> Iterator[OpenSession]:
    session = open_session(configure(tmp_path))
    yield session
    session.end(ExitCode.STOPPED, "a test")


def decide(session: OpenSession) -> tuple[str, int, str | None]:
    """The next task, by its kind, its phase and the checkpoint that it goes on from."""
    configuration = configure(session.layout.root.parent)
    orchestrator = PipelineOrchestrator(
        configuration, session, images=InPlace(), stop_flag=StopFlag()
    )
    task = orchestrator._decide()
    return task.kind, task.phase_idx, None if task.point is None else task.point.folder.name


def validated(session: OpenSession, *phases: str, world_size: int = 1) -> None:
    assert session.identity is not None
    record = {
        "world_size": world_size,
        "fingerprint": session.identity.config_fingerprint,
        "phases": list(phases),
    }
    session.save(replace(session.identity, validated=[record]))


def test_every_phase_is_validated_before_anything_is_trained(session: OpenSession) -> None:
    assert decide(session) == ("validate", 0, None)
    validated(session, "first")
    assert decide(session) == ("validate", 1, None)
    validated(session, "first", "second")
    assert decide(session) == ("train", 0, None)


def test_phases_are_validated_again_when_the_world_or_the_settings_changed(
    session: OpenSession,
) -> None:
    validated(session, "first", "second", world_size=2)
    assert decide(session) == ("validate", 0, None)
    assert session.identity is not None
    validated(session, "first", "second")
    record = {**session.identity.validated[0], "fingerprint": "another"}
    session.save(replace(session.identity, validated=[record]))
    assert decide(session) == ("validate", 0, None)


def test_phase_goes_on_from_its_newest_checkpoint(session: OpenSession) -> None:
    validated(session, "first", "second")
    publish(session.layout, "first", 3, 1)
    publish(session.layout, "first", 6, 1)
    assert decide(session) == ("train", 0, "step-00000006.a0001")


def test_next_phase_starts_from_the_last_checkpoint_of_the_one_before(
    session: OpenSession,
) -> None:
    validated(session, "first", "second")
    publish(session.layout, "first", 10, 1, final=True)
    assert decide(session) == ("train", 1, "step-00000010.a0001")
    publish(session.layout, "second", 4, 1)
    assert decide(session) == ("train", 1, "step-00000004.a0001")


def test_phase_that_is_done_is_not_validated_again(session: OpenSession) -> None:
    publish(session.layout, "first", 10, 1, final=True)
    assert decide(session) == ("validate", 1, None)


def test_session_is_finalized_when_its_last_phase_is_done(session: OpenSession) -> None:
    publish(session.layout, "first", 10, 1, final=True)
    publish(session.layout, "second", 10, 1, final=True)
    assert decide(session)[0] == "finalize"


def test_checkpoint_that_does_not_verify_or_is_not_trusted_is_passed_over(
    session: OpenSession,
) -> None:
    validated(session, "first", "second")
    publish(session.layout, "first", 3, 1)
    bad = publish(session.layout, "first", 6, 1)
    (bad / "a.bin").write_bytes(b"other byte")
    publish(session.layout, "first", 9, 7)  # of an attempt that nobody adopted
    assert decide(session) == ("train", 0, "step-00000003.a0001")
    [event] = [
        record
        for record in read_records(session.attempt.events_file)
        if record["event"] == "checkpoint_rejected"
    ]
    assert "a.bin does not have the contents" in event["problem"]


def test_deciding_changes_nothing(session: OpenSession) -> None:
    publish(session.layout, "first", 3, 1)
    before = sorted(path for path in session.layout.root.rglob("*"))
    assert decide(session) == decide(session)
    assert sorted(path for path in session.layout.root.rglob("*")) == before
