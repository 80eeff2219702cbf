from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from phaseline.cli import main


def test_sync_has_wandb_make_its_files_where_the_next_start_removes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def sync_session(*_: Any, **__: Any) -> None:
        assert os.environ["TMPDIR"] == tempfile.gettempdir()
        seen.append(Path(tempfile.gettempdir()).name)

    monkeypatch.setattr("phaseline.tracking.wandb_sync.sync_session", sync_session)
    with pytest.raises(SystemExit) as end:
        main(["sync", str(tmp_path)])
    assert end.value.code == 0
    [name] = seen
    assert name.startswith("phaseline-")
    assert not (Path(tempfile.gettempdir()) / name).exists()
