"""What the configuration may say of phases that train on samples with a label."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from phaseline.config.loading import load_config
from phaseline.config.model_head import ModelHead, model_head
from phaseline.errors import ConfigurationError

_TEXT = """\
session: {name: test}
model: {config: {model_type: vit}}
phases:
  - name: first
    objective: classification
    duration: 100 steps
    data: {source: digits}
    batch: {global_size: 8, micro_size: 4}
    optimizer: {lr: 3e-4}
"""
_OF_TWO_KINDS = """\
session: {name: test}
model: {factory: "phaseline.errors:Fault"}
defaults:
  duration: 100 steps
  data: {sequence_length: 64, packing: false, scale_images: false}
  batch: {global_size: 8, micro_size: 4}
  optimizer: {lr: 3e-4}
phases:
  - {name: text, objective: causal_lm, data: {source: python_stdlib}}
  - {name: images, objective: classification, data: {source: digits, sequence_length: null}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "session.yaml"
    path.write_text(_TEXT)
    return path


def test_images_need_neither_a_length_nor_a_tokenizer_and_name_their_classes(path: Path) -> None:
    config = load_config(path).config
    [phase] = config.phases
    assert phase.data.sequence_length is None
    assert (phase.global_size, phase.tokens_per_step, phase.step_text) == (8, 8, "8 samples")
    assert model_head(config, phase.objective) == ModelHead("classes", tuple("0123456789"))
    assert model_head(config, "causal_lm") == ModelHead("language")


def test_source_without_its_package_is_refused_with_how_to_install_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(
        ConfigurationError,
        match=r"data\.source is 'digits', but the package sklearn that it reads with is not "
        r"installed \(.*session\.yaml:7\)\. Install phaseline\[digits\]",
    ):
        load_config(path)


def test_defaults_of_text_are_no_fault_beside_images_if_the_length_is_taken_back(
    path: Path,
) -> None:
    path.write_text(_OF_TWO_KINDS)
    text, images = load_config(path).config.phases
    assert (text.step_text, images.step_text) == ("8 x 64 tokens", "8 samples")
    path.write_text(_OF_TWO_KINDS.replace(", sequence_length: null", ""))
    with pytest.raises(ConfigurationError, match="set it to null in this phase"):
        load_config(path)
