from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch

from phaseline.errors import ExitCode
from phaseline.resilience.stop_flag import StopFlag
from phaseline.session.records import read_records
from phaseline.training.pipeline.images import InPlace
from phaseline.training.pipeline.orchestrator import PipelineOrchestrator, Task
from phaseline.training.pipeline.session_manager import OpenSession
from phaseline.training.pipeline.trial_record import TrialPlace, TrialRecord
from unit.training.pipeline.sessions import configure, open_session, publish

if TYPE_CHECKING:
    from phaseline.distributed.world import World


@pytest.fixture
def session(tmp_path: Path) -> Iterator[OpenSession]:
    session = open_session(configure(tmp_path))
    yield session
    session.end(ExitCode.STOPPED, "a test")


class AloneWorld:
    """As much of a lone rank's world as deciding needs."""

    device = torch.device("cpu")
    dp_world_size = 1


def orchestrator_of(session: OpenSession, *overrides: str) -> PipelineOrchestrator:
    configuration = configure(session.layout.root.parent, *overrides)
    return PipelineOrchestrator(configuration, session, images=InPlace(), stop_flag=StopFlag())


def next_task(session: OpenSession, *overrides: str) -> Task:
    return orchestrator_of(session, *overrides)._decide(cast("World", AloneWorld()))


def decide(session: OpenSession) -> tuple[str, int, str | None]:
    """The next task, by its kind, its phase and the checkpoint that it goes on from."""
    task = next_task(session)
    return task.kind, task.phase_idx, None if task.point is None else task.point.folder.name


def validated(session: OpenSession, *phase_idxs: int) -> None:
    """Puts on record that phases were tried as they are."""
    assert session.identity is not None
    config = configure(session.layout.root.parent).config
    place = TrialPlace.of(cast("World", AloneWorld()))
    for idx in phase_idxs:
        records = TrialRecord(config, place, session.identity.validated).with_trial(idx)
        session.save(replace(session.identity, validated=records))


def test_every_phase_is_validated_before_anything_is_trained(session: OpenSession) -> None:
    assert decide(session) == ("validate", 0, None)
    validated(session, 0)
    assert decide(session) == ("validate", 1, None)
    validated(session, 1)
    assert decide(session) == ("train", 0, None)


def test_checkpoint_is_tried_once_per_kind_of_engine(session: OpenSession) -> None:
    assert next_task(session).tries_checkpoint
    validated(session, 0)
    assert not next_task(session).tries_checkpoint
    other = "phases[second].engine={kind: deepspeed, zero_stage: 1}"
    assert next_task(session, other).tries_checkpoint


def test_only_the_phase_whose_settings_changed_is_validated_again(session: OpenSession) -> None:
    validated(session, 0, 1)
    task = next_task(session, "phases[second].batch.micro_size=2")
    assert (task.kind, task.phase_idx) == ("validate", 1)
    task = next_task(session, "session.notes=other", "tracking.interval_steps=3")
    assert task.kind == "train"


@pytest.mark.parametrize(
    ("fresh", "device", "stages", "expected"),
    [
        (True, "cpu", (None, None), "validate validate train | train"),
        (True, "cuda", (None, None), "validate validate | train | train"),
        (True, "cpu", (3, None), "validate | validate train | train"),
        (True, "cpu", (None, 3), "validate validate | train | train"),
        (True, "cpu", (3, 3), "validate | validate | train | train"),
        (True, "cuda", (3, 2), "validate | validate | train | train"),
        (False, "cpu", (None, 3), "validate validate train train"),
    ],
)
def test_image_is_replaced_where_something_is_left_in_it(
    session: OpenSession,
    fresh: bool,
    device: str,
    stages: tuple[int | None, int | None],
    expected: str,
) -> None:
    engines = [
        f"phases[{idx}].engine={{kind: deepspeed, zero_stage: {stage}}}"
        for idx, stage in enumerate(stages)
        if stage is not None
    ]
    orchestrator = orchestrator_of(session, *engines)
    world: Any = AloneWorld()
    world.device = torch.device(device)
    tasks = [Task(kind=kind, phase_idx=idx) for kind in ("validate", "train") for idx in (0, 1)]
    shown = [tasks[0].kind]
    for done, task in pairwise(tasks):
        is_replaced = fresh and orchestrator._needs_fresh_image(world, done, task)
        shown += ["|"] * is_replaced + [task.kind]
    assert " ".join(shown) == expected


def test_phase_goes_on_from_its_newest_checkpoint(session: OpenSession) -> None:
    validated(session, 0, 1)
    publish(session.layout, "first", 3, 1)
    publish(session.layout, "first", 6, 1)
    assert decide(session) == ("train", 0, "step-00000006.a0001")


def test_next_phase_starts_from_the_last_checkpoint_of_the_one_before(
    session: OpenSession,
) -> None:
    validated(session, 0, 1)
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
    validated(session, 0, 1)
    publish(session.layout, "first", 3, 1)
    bad = publish(session.layout, "first", 6, 1)
    (bad / "a.bin").write_bytes(b"other byte")
    session.layout.attempt(1).metrics_file.unlink()  # nothing was recorded after step 3
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
