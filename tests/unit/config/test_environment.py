from __future__ import annotations

from pathlib import Path

import pytest

from phaseline.config.loading import load_config
from phaseline.errors import ConfigurationError
from unit.config.session_text import VALID, write

MODE = ("tracking", "wandb", "mode")


@pytest.mark.parametrize("section", ["", "tracking: {wandb: {mode: online, project: mine}}\n"])
@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ("disabled", "disabled"),
        ("offline", "offline"),
        ("online", "online"),
        ("dryrun", "offline"),
        ("run", "online"),
        ("shared", "online"),
    ],
)
def test_wandb_mode_of_the_environment_wins_over_the_file(
    tmp_path: Path, section: str, given: str, mode: str
) -> None:
    path = write(tmp_path, VALID + section)
    loaded = load_config(path, variables={"WANDB_MODE": given})
    assert loaded.config.tracking.wandb.mode == mode
    assert loaded.config.tracking.wandb.project == ("mine" if section else "phaseline")
    assert loaded.locate(MODE) == "WANDB_MODE in the environment"


@pytest.mark.parametrize("variables", [{}, {"WANDB_MODE": ""}, {"WANDB_MODE": " "}])
def test_file_decides_where_the_environment_says_nothing(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    path = write(tmp_path, VALID + "tracking: {wandb: {mode: disabled}}\n")
    loaded = load_config(path, variables=variables)
    assert loaded.config.tracking.wandb.mode == "disabled"
    assert loaded.locate(MODE).startswith(str(path))


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({"WANDB_DISABLED": "true"}, "disabled"),
        ({"WANDB_DISABLED": "1"}, "disabled"),
        ({"WANDB_DISABLED": "false"}, "online"),
        ({"WANDB_DISABLED": "true", "WANDB_MODE": "offline"}, "offline"),
    ],
)
def test_wandb_is_disabled_as_for_the_trainer_of_transformers(
    tmp_path: Path, variables: dict[str, str], mode: str
) -> None:
    path = write(tmp_path, VALID + "tracking: {wandb: {mode: online}}\n")
    loaded = load_config(path, variables=variables)
    assert loaded.config.tracking.wandb.mode == mode
    if mode == "disabled":
        assert loaded.locate(MODE) == "WANDB_DISABLED in the environment"


def test_override_wins_over_the_environment(tmp_path: Path) -> None:
    loaded = load_config(
        write(tmp_path), ["tracking.wandb.mode=online"], variables={"WANDB_MODE": "disabled"}
    )
    assert loaded.config.tracking.wandb.mode == "online"


def test_unknown_wandb_mode_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"tracking\.wandb\.mode is 'of' \(WANDB_MODE in the environment\); it must be one of "
        r"online, offline, disabled, run, dryrun, shared\. Unset WANDB_MODE\.",
    ):
        load_config(write(tmp_path), variables={"WANDB_MODE": "of"})


@pytest.mark.parametrize("section", ["tracking: 3\n", "tracking: {wandb: [offline]}\n"])
def test_broken_section_is_refused_as_without_the_environment(tmp_path: Path, section: str) -> None:
    path = write(tmp_path, VALID + section)
    with pytest.raises(ConfigurationError) as plain:
        load_config(path, variables={})
    with pytest.raises(ConfigurationError) as given:
        load_config(path, variables={"WANDB_MODE": "offline"})
    assert str(given.value) == str(plain.value)
