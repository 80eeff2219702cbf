"""A session's directory in which a link leads out is refused before anything is written."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from phaseline.errors import ExitCode
from phaseline.session.confinement import LeadsOutError, require_confined
from phaseline.session.layout import SessionLayout


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_text("of somebody")
    return folder


@pytest.mark.parametrize(
    "link",
    [
        "phases",
        "attempts",
        "lease",
        "jobs",
        "exports",
        "report.html",
        "wandb",
        "wandb/follower.lock",
        "synced/wandb",
        "phases/a/run-1/final",
        "phases/a/run-1/checkpoints/step-00000001.a0001",
        "attempts/0001/metrics.jsonl",
    ],
)
@pytest.mark.parametrize("target", ["outside", "outside/file", "outside/new", "."])
def test_link_that_leads_out_is_named(
    tmp_path: Path, layout: SessionLayout, outside: Path, link: str, target: str
) -> None:
    path = layout.root / link
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / target)
    with pytest.raises(LeadsOutError, match=rf"{link} is a link that leads to ") as caught:
        require_confined(layout)
    assert caught.value.exit_code is ExitCode.USAGE


def test_relative_link_that_climbs_out_is_named(layout: SessionLayout, outside: Path) -> None:
    (layout.root / "phases").mkdir(parents=True)
    (layout.root / "phases" / "a").symlink_to("../../outside")
    with pytest.raises(LeadsOutError, match=r"phases/a is a link that leads to .*outside"):
        require_confined(layout)


def test_link_to_itself_is_named(layout: SessionLayout) -> None:
    layout.root.mkdir(parents=True)
    layout.session_file.symlink_to(layout.session_file)
    with pytest.raises(LeadsOutError, match=r"session\.json is a link that leads"):
        require_confined(layout)


def test_links_inside_and_the_way_to_the_session_are_its_owners_choice(
    tmp_path: Path, layout: SessionLayout, outside: Path
) -> None:
    (layout.root / "attempts" / "0001").mkdir(parents=True)
    (layout.root / "attempts" / "newest").symlink_to("0001")
    (layout.root / "wandb" / "run-1").mkdir(parents=True)
    (layout.root / "wandb" / "latest-run").symlink_to("run-1")
    # As wandb itself links a log of its own.
    (layout.root / "wandb" / "run-1" / "debug-core.log").symlink_to(outside / "file")
    (layout.root / "wandb" / "debug.log").symlink_to("run-0/logs/debug.log")  # long gone
    require_confined(layout)
    (tmp_path / "short").symlink_to(layout.root)
    require_confined(SessionLayout(tmp_path / "short"))
    require_confined(SessionLayout(tmp_path / "absent"))


def test_folder_that_goes_away_meanwhile_is_no_matter(
    layout: SessionLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = layout.root / "phases" / "a"
    gone.mkdir(parents=True)
    scan = os.scandir

    def scan_late(folder: Path) -> Any:
        if folder == gone.resolve():
            gone.rmdir()
        return scan(folder)

    monkeypatch.setattr("phaseline.session.confinement.os.scandir", scan_late)
    require_confined(layout)
    assert not gone.exists()


def test_deep_folders_take_no_deep_stack(layout: SessionLayout, outside: Path) -> None:
    deep = layout.root.joinpath(*["d"] * 150)
    deep.mkdir(parents=True)
    (deep / "link").symlink_to(outside)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        with pytest.raises(LeadsOutError, match=r"d/link is a link that leads to .*outside"):
            require_confined(layout)
    finally:
        sys.setrecursionlimit(limit)
