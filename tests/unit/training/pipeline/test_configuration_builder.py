from __future__ import annotations

import re
from pathlib import Path

import pytest

from phaseline.errors import ConfigurationError
from phaseline.training.pipeline.configuration_builder import (
    ConfigurationBuilder,
    TrainingConfiguration,
)
from phaseline.training_pipeline import TrainingPipeline

_TEXT = """\
session: {name: test, root: runs}
model: {config: {model_type: llama}}
defaults:
  data: {source: python_stdlib, sequence_length: 16}
  batch: {global_size: 8, micro_size: 4}
  optimizer: {lr: 0.01}
  objective: causal_lm
  duration: 10 steps
phases:
"""
_PLAIN = "  - {name: plain, engine: {kind: plain}}\n"
_STAGE_2 = "  - {name: stage_2, engine: {zero_stage: 2}}\n"
_STAGE_3 = "  - {name: stage_3, engine: {zero_stage: 3}}\n"


def session_file(folder: Path, *phases: str) -> Path:
    path = folder / "session.yaml"
    path.write_text(_TEXT + "".join(phases), encoding="utf-8")
    return path


def build(path: Path, *overrides: str, in_place: bool) -> TrainingConfiguration:
    return ConfigurationBuilder(path, overrides=overrides).build(dp_world_size=1, in_place=in_place)


def test_build_refuses_zero_3_when_several_phases_run_in_one_process(tmp_path: Path) -> None:
    path = session_file(tmp_path, _PLAIN, _STAGE_3, _STAGE_2)
    message = (
        rf"^1 fault in the configuration:\n"
        rf"  phases\[1\]\.engine\.zero_stage is 3 .* \({re.escape(str(path))}\); "
        rf"it must be 0, 1 or 2 .*`phaseline launch {re.escape(str(path))}`"
    )
    with pytest.raises(ConfigurationError, match=message):
        build(path, in_place=True)


def test_build_names_every_phase_and_the_whole_command_when_zero_3_is_refused(
    tmp_path: Path,
) -> None:
    path = session_file(tmp_path, _PLAIN, _STAGE_2)
    overrides = ("phases[*].engine.kind=deepspeed", "phases[*].engine.zero_stage=3")
    command = re.escape(f"launch {path} -o 'phases[*].engine.kind=deepspeed' -o ")
    with pytest.raises(ConfigurationError, match=command) as refused:
        build(path, *overrides, in_place=True)
    assert [fault.path for fault in refused.value.faults] == [
        "phases[0].engine.zero_stage",
        "phases[1].engine.zero_stage",
    ]


@pytest.mark.parametrize(
    ("phases", "in_place"),
    [
        pytest.param([_STAGE_3], True, id="alone in one process"),
        pytest.param([_STAGE_3, _PLAIN], False, id="in fresh processes"),
        pytest.param([_STAGE_2, _PLAIN], True, id="no stage 3"),
    ],
)
def test_build_takes_the_session_when_no_phase_needs_the_memory_of_a_zero_3_engine(
    phases: list[str], in_place: bool, tmp_path: Path
) -> None:
    configuration = build(session_file(tmp_path, *phases), in_place=in_place)
    assert len(configuration.layouts) == len(phases)


def test_pipeline_leaves_nothing_when_zero_3_is_refused(tmp_path: Path) -> None:
    path, session = session_file(tmp_path, _STAGE_3, _PLAIN), tmp_path / "session"
    command = re.escape(f"`phaseline launch {path} --session {session}`")
    with pytest.raises(ConfigurationError, match=command):
        TrainingPipeline(path, session_dir=session).run()
    assert list(tmp_path.iterdir()) == [path]
