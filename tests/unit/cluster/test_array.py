from __future__ import annotations

from pathlib import Path

import pytest

from phaseline.cluster.array import member_of_array
from phaseline.config.loading import LoadedConfig, load_config
from phaseline.errors import UsageError
from unit.config.session_text import write


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedConfig:
    members = "[session.seed=1, 'session.seed=2 phases[first].optimizer.lr=1e-3']"
    return load_config(write(tmp_path), [f"cluster.array={members}"], session_dir=tmp_path / "s")


def test_member_has_overrides_and_a_directory_of_its_own(loaded: LoadedConfig) -> None:
    member = member_of_array(loaded, 1)
    assert member.overrides == ["session.seed=2", "phases[first].optimizer.lr=1e-3"]
    assert member.session_dir == loaded.session_dir.with_name("s-1")


@pytest.mark.parametrize(("idx", "found"), [(None, "is no job array"), (2, "has number 2")])
def test_member_is_refused_when_the_job_is_none(
    loaded: LoadedConfig, idx: int | None, found: str
) -> None:
    with pytest.raises(UsageError, match=f"has 2 members, and this job {found}"):
        member_of_array(loaded, idx)
