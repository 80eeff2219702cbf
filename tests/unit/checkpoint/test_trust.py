from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from phaseline.checkpoint.manifest import Manifest
from phaseline.checkpoint.trust import list_inherited, list_trusted, newest_committed
from phaseline.session.attempts import Adopted, take_attempt, write_adopted
from phaseline.session.committed import CommittedLines
from phaseline.session.layout import SessionLayout
from unit.checkpoint.made_checkpoints import make_checkpoint


@pytest.fixture
def layout(tmp_path: Path) -> SessionLayout:
    return SessionLayout(tmp_path / "session")


def publish(layout: SessionLayout, step: int, attempt: int, phase: str = "only") -> Path:
    return make_checkpoint(layout.phase(phase).checkpoints_dir, step, attempt, phase=phase)


def begin(layout: SessionLayout) -> tuple[int, Adopted]:
    """A new attempt, as the session manager begins it."""
    attempt = take_attempt(layout)
    paths = [str(path.relative_to(layout.root)) for path in list_inherited(layout, attempt.number)]
    adopted = Adopted(checkpoints=tuple(paths), resumed_from=None, committed=())
    write_adopted(attempt, adopted)
    return attempt.number, adopted


def test_first_attempt_inherits_nothing_and_trusts_what_it_writes(layout: SessionLayout) -> None:
    number, adopted = begin(layout)
    assert adopted.checkpoints == ()
    path = publish(layout, 5, number)
    assert list_trusted(layout, number, adopted) == [path]


def test_chain_of_attempts_trusts_what_every_one_before_trusted(layout: SessionLayout) -> None:
    paths = []
    for step in (5, 10, 15):
        number, adopted = begin(layout)
        paths.append(publish(layout, step, number, phase=f"phase{step}"))
        assert list_trusted(layout, number, adopted) == paths
    assert list_inherited(layout, 4) == paths


def test_late_checkpoint_of_a_stale_attempt_is_never_trusted(layout: SessionLayout) -> None:
    begin(layout)
    early = publish(layout, 5, 1)
    second, adopted = begin(layout)
    late = publish(layout, 500, 1)
    own = publish(layout, 6, 2)
    assert list_trusted(layout, second, adopted) == [early, own]
    begin(layout)
    assert list_inherited(layout, 3) == [early, own]
    assert late not in list_inherited(layout, 4)


def test_attempt_that_died_before_it_adopted_is_passed_over(layout: SessionLayout) -> None:
    begin(layout)
    path = publish(layout, 5, 1)
    take_attempt(layout)
    assert list_inherited(layout, 3) == [path]


def test_checkpoint_that_was_removed_is_not_trusted(layout: SessionLayout) -> None:
    begin(layout)
    path = publish(layout, 5, 1)
    number, adopted = begin(layout)
    assert list_trusted(layout, number, adopted) == [path]
    shutil.rmtree(path)
    assert list_trusted(layout, number, adopted) == []


def test_attempt_inherits_nothing_when_it_is_alone(layout: SessionLayout) -> None:
    assert list_inherited(layout, 1) == []


def test_committed_lines_that_the_last_attempt_adopted_are_held_to_their_hash_too(
    layout: SessionLayout,
) -> None:
    begin(layout)
    saved = publish(layout, 5, 1)
    attempt = take_attempt(layout)
    stands_on = Manifest.load(saved).committed
    changed = CommittedLines(1, 7, "0" * 32)
    paths = (str(saved.relative_to(layout.root)),)
    write_adopted(attempt, Adopted(checkpoints=paths, resumed_from=None, committed=(changed,)))
    assert newest_committed(layout) == (*stands_on, changed)
