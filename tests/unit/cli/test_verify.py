from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from phaseline.cli import main
from phaseline.errors import ExitCode
from phaseline.session.layout import SessionLayout
from unit.checkpoint.made_checkpoints import make_checkpoint


def publish(layout: SessionLayout, step: int) -> Path:
    return make_checkpoint(layout.phase("only").checkpoints_dir, step, world_size=2, engine="zero1")


@pytest.fixture
def layout(tmp_path: Path) -> SessionLayout:
    layout = SessionLayout(tmp_path / "session")
    layout.root.mkdir()
    layout.session_file.write_text("{}")
    return layout


def verify(path: Path) -> int:
    with pytest.raises(SystemExit) as end:
        main(["verify", str(path)])
    return int(end.value.code or 0)


def test_verify_ends_well_when_every_checkpoint_is_whole(
    layout: SessionLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(layout, 5)
    publish(layout, 10)
    assert verify(layout.root) == ExitCode.FINISHED
    output = capsys.readouterr().out
    assert "step-00000005.a0001: zero1 on 2 rank(s), 1 files, 0.0 MiB" in output
    assert "2 of 2 checkpoints are whole" in output


def test_verify_names_the_file_when_a_bit_is_flipped(
    layout: SessionLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(layout, 5)
    (publish(layout, 10) / "a.bin").write_bytes(b"some bytez")
    assert verify(layout.root) == ExitCode.FAILED
    output = capsys.readouterr().out
    assert "BAD   phases/only/run-1/checkpoints/step-00000010.a0001" in output
    assert "a.bin does not have the contents" in output
    assert "1 of 2 checkpoints are whole" in output


@pytest.mark.parametrize("instead", [None, Path.mkdir, os.mkfifo])
def test_verify_names_a_checkpoint_that_lost_its_manifest(
    layout: SessionLayout,
    capsys: pytest.CaptureFixture[str],
    instead: Callable[[Path], None] | None,
) -> None:
    publish(layout, 5)
    manifest = publish(layout, 10) / "manifest.json"
    manifest.unlink()
    if instead is not None:
        instead(manifest)
    assert verify(layout.root) == ExitCode.FAILED
    output = capsys.readouterr().out
    assert "BAD   phases/only/run-1/checkpoints/step-00000010.a0001" in output
    assert "1 of 2 checkpoints are whole" in output


def test_verify_is_refused_when_the_folder_is_no_session(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(tmp_path) == ExitCode.USAGE
    assert "is no session directory: it has no session.json" in capsys.readouterr().err


def test_verify_names_a_checkpoint_that_was_renamed_or_put_into_another_phase(
    layout: SessionLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = publish(layout, 5)
    shutil.copytree(saved, saved.with_name("step-00000009.a0001"))
    shutil.copytree(saved, layout.phase("other").checkpoints_dir / saved.name)
    shutil.copytree(saved, layout.root / "phases" / "only" / "run-2" / "final" / saved.name)
    assert verify(layout.root) == ExitCode.FAILED
    output = capsys.readouterr().out
    told = "holds step 5 of only, saved by attempt 1: it was renamed, or put into another phase's"
    assert output.count(told) == 2
    assert "1 of 3 checkpoints are whole" in output
