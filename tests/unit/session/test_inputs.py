from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from phaseline.errors import UnreachableFileError
from phaseline.session.inputs import hash_of


def test_file_that_is_gone_has_no_hash(tmp_path: Path) -> None:
    assert hash_of(tmp_path / "config.json") == ""


def test_file_that_cannot_be_read_just_now_is_not_taken_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.json"
    path.write_text("{}")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UnreachableFileError, match=f"{path} cannot be read or written now"):
        hash_of(path)
