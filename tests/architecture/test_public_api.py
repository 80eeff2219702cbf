"""What the package offers to a user's program."""

from __future__ import annotations

import pytest

import phaseline


def test_public_names_are_these() -> None:
    assert phaseline.__all__ == ["TrainingPipeline", "__version__", "load_config"]
    assert dir(phaseline) == sorted(phaseline.__all__)


@pytest.mark.parametrize("name", phaseline.__all__)
def test_public_name_is_found(name: str) -> None:
    assert getattr(phaseline, name) is not None


def test_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        phaseline.Trainer  # noqa: B018
