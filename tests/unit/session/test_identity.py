from __future__ import annotations

from dataclasses import replace

import pytest

from phaseline.errors import SessionError
from phaseline.session.identity import SessionIdentity, load_identity, save_identity
from phaseline.session.layout import SessionLayout

IDENTITY = SessionIdentity(
    id="00ff",
    name="quickstart",
    created=1.5,
    config_fingerprint="abc",
    wandb_id="w1",
    phaseline_version="0.1.0",
    state="open",
    validated=[{"world_size": 2, "fingerprint": "abc", "phases": ["pretrain"]}],
    place="/runs/quickstart",
)


def test_identity_is_none_when_there_is_no_session(layout: SessionLayout) -> None:
    assert load_identity(layout) is None


def test_identity_comes_back_as_last_saved(layout: SessionLayout) -> None:
    layout.root.mkdir(parents=True)
    save_identity(layout, IDENTITY)
    save_identity(layout, replace(IDENTITY, state="finished"))
    assert load_identity(layout) == replace(IDENTITY, state="finished")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 2, "id": "00ff", "colour": "red"}', "does not hold what this version writes"),
        ('{"id": "00ff"}', r"has no format: .* Finish the session with the version that wrote it"),
        ('{"format": 3}', "has format 3, of a newer version; this one reads 2 to 2"),
        ('{"format": "2"}', "has the format '2', which no version writes"),
    ],
)
def test_identity_names_the_file_when_it_is_of_another_format(
    layout: SessionLayout, content: str, message: str
) -> None:
    layout.root.mkdir(parents=True)
    layout.session_file.write_text(content)
    with pytest.raises(SessionError, match=rf"session\.json {message}"):
        load_identity(layout)
