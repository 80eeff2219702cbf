"""Broken session files: each says at its end which faults it must be refused with."""

from __future__ import annotations

from pathlib import Path

import pytest

from phaseline.checkpoint.foreign_checks import weights_can_be_read
from phaseline.config.loading import load_config
from phaseline.errors import ConfigurationError

_FOLDER = Path(__file__).parent / "broken"
_FILES = sorted(_FOLDER.glob("*.yaml"))
_MARK = "# fault: "


def test_broken_files_cover_every_kind_of_fault() -> None:
    assert len(_FILES) >= 70


@pytest.mark.parametrize("file", _FILES, ids=lambda file: str(file.stem))
def test_load_config_names_path_line_value_and_fix_when_file_is_broken(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(_FOLDER)
    lines = file.read_text(encoding="utf-8").splitlines()
    expected = [line.removeprefix(_MARK) for line in lines if line.startswith(_MARK)]
    with pytest.raises(ConfigurationError, match="in the configuration:") as raised:
        load_config(Path(file.name), rules=weights_can_be_read(None))
    assert [str(fault) for fault in raised.value.faults] == expected
    assert expected
    for fault in raised.value.faults:
        assert fault.location.startswith(f"{file.name}:")
        assert fault.problem
        assert fault.fix
