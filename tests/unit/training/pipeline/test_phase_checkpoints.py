from __future__ import annotations

import errno
from pathlib import Path

import pytest

from phaseline.checkpoint.manifest import FileRecord
from phaseline.checkpoint.retention import Best
from phaseline.errors import CheckpointError, CheckpointUnreachableError, ExitCode
from phaseline.session.layout import SessionLayout
from phaseline.training.pipeline.phase_checkpoints import Wanted, choose
from unit.checkpoint.made_checkpoints import make_checkpoint

LOSS = Best("loss", "min")


@pytest.fixture
def folders(tmp_path: Path) -> dict[int, Path]:
    """Checkpoints of one phase by their step, the last one final, and one of another phase."""
    layout = SessionLayout(tmp_path)
    losses = {1: 3.0, 2: 1.0, 3: 2.0}
    found = {
        step: make_checkpoint(
            layout.phase("first").checkpoints_dir,
            step,
            phase="first",
            final=step == 3,
            validation={"loss": loss},
        )
        for step, loss in losses.items()
    }
    found[4] = make_checkpoint(layout.phase("second").checkpoints_dir, 4, phase="second")
    return found


@pytest.mark.parametrize(
    ("wanted", "step"),
    [
        (Wanted(phase="first"), 3),
        (Wanted(phase="first", step=1), 1),
        (Wanted(phase="first", best=LOSS), 2),
        (Wanted(phase="first", best=Best("loss", "max")), 1),
        (Wanted(phase="second"), 4),
    ],
)
def test_choose_takes_the_last_the_best_or_that_of_a_step(
    folders: dict[int, Path], wanted: Wanted, step: int
) -> None:
    for order in (1, -1):
        assert choose(wanted, [*folders.values()][::order], session=None) == folders[step]


def test_choose_takes_the_one_before_when_the_last_does_not_verify(
    folders: dict[int, Path],
) -> None:
    (folders[3] / "a.bin").write_bytes(b"other byte")
    said: list[str] = []
    found = choose(Wanted(phase="first"), [*folders.values()], session=None, say=said.append)
    assert found == folders[2]
    assert [text for text in said if "left out: " in text and "a.bin does not have" in text] == said
    assert len(said) == 1
    with pytest.raises(
        CheckpointError,
        match=r"no final checkpoint of first that can be read\. .*a\.bin does not have the contents",
    ):
        choose(Wanted(phase="first", final=True), [*folders.values()], session=None)


def test_choose_says_which_steps_there_are(folders: dict[int, Path]) -> None:
    with pytest.raises(
        CheckpointError, match=r"at step 9 that can be read\. There .* steps 1, 2, 3"
    ) as caught:
        choose(Wanted(phase="first", step=9), [*folders.values()], session=None)
    assert caught.value.exit_code is ExitCode.USAGE


def test_choose_leaves_checkpoints_of_another_session_alone(folders: dict[int, Path]) -> None:
    with pytest.raises(CheckpointError, match=r"no last checkpoint of first that can be read\.$"):
        choose(Wanted(phase="first"), [*folders.values()], session="another")


def test_choose_takes_no_older_one_where_the_last_cannot_be_looked_at_now(
    folders: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> FileRecord:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr("phaseline.checkpoint.manifest.hash_file", refuse)
    with pytest.raises(CheckpointUnreachableError, match="wait until the file system answers"):
        choose(Wanted(phase="first"), [*folders.values()], session=None)
