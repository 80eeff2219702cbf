from __future__ import annotations

from pathlib import Path

import pytest

from phaseline.errors import ExitCode, SessionError
from phaseline.session.layout import SessionLayout
from phaseline.session.stored_config import load_stored_config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"config\.yaml, which the session runs with, is missing\. Restore it"),
        (b"\xff\xfe", r"config\.yaml, which the session runs with, is no text"),
        (b"session: [", r"config\.yaml, which .*cannot be read: configuration is no YAML"),
        (
            b"format: 2\nsession: {}",
            r"config\.yaml of the session is no configuration that this version",
        ),
        (b"session: {}", r"config\.yaml has no format: it was written by a version before the"),
        (b"format: 99", r"config\.yaml has format 99, of a newer version; this one reads 2 to 2"),
        (b"format: true", r"config\.yaml has the format True, which no version writes"),
    ],
)
def test_stored_configuration_that_cannot_be_used_is_named(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    layout = SessionLayout(tmp_path)
    if content is not None:
        layout.config_file.write_bytes(content)
    with pytest.raises(SessionError, match=message) as caught:
        load_stored_config(layout)
    assert caught.value.exit_code is ExitCode.USAGE
