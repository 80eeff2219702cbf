from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from phaseline.config.inheritance import (
    describe_start,
    lora_fate,
    outside_weights,
    pretrained_weights,
    source_phase,
)
from phaseline.config.model_section import InheritSection, LoraSection, ModelSection
from phaseline.errors import ConfigurationError
from unit.config.session_text import VALID, load

THIRD = "  - {name: third, objective: causal_lm, duration: 5 steps}\n"
LORA = "trainable.lora={rank: 4}"
BEST = "phases[first].checkpoint.keep_best={metric: loss}"
EVERY = "phases[first].evaluate.every=10 steps"
MERGED = "with their LoRA merged into them"
ANEW = "and the optimizer begins anew"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], f"third starts from the last weights of second, {ANEW}"),
        (
            ["phases[third].inherit.optimizer=keep"],
            "third starts from the last weights of second, and the optimizer's state is kept",
        ),
        (["phases[third].inherit.weights=fresh"], f"third starts from fresh weights, {ANEW}"),
        (
            [BEST, EVERY, "phases[third].inherit={weights: 'phase:first', at: best}"],
            f"third starts from the best weights of first, {ANEW}",
        ),
        (
            [f"phases[second].{LORA}", f"phases[third].{LORA}"],
            f"third starts from the last weights of second, with their LoRA kept, {ANEW}",
        ),
        (
            [f"phases[second].{LORA}", "phases[third].trainable.lora={rank: 2}"],
            f"third starts from the last weights of second, {MERGED} and a new LoRA of rank 2, {ANEW}",
        ),
        (
            [f"phases[second].{LORA}", "phases[third].inherit.lora=drop"],
            f"third starts from the last weights of second, with their LoRA dropped, {ANEW}",
        ),
        (
            ["phases[third].inherit.weights='hub:org/name@v1'"],
            f"third starts from the weights of hub:org/name@v1, {ANEW}",
        ),
    ],
)
def test_describe_start_says_weights_adapters_and_optimizer(
    tmp_path: Path, overrides: list[str], sentence: str
) -> None:
    config = load(tmp_path, *overrides, text=VALID + THIRD)
    assert describe_start(config, 2) == sentence


def test_first_phase_starts_from_pretrained_weights_or_else_from_fresh_ones(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert (source_phase(config, 0), outside_weights(config, 0)) == (None, None)
    assert (source_phase(config, 1), outside_weights(config, 1)) == (0, None)
    text = VALID.replace(
        "config: {model_type: llama, max_position_embeddings: 64}", f"pretrained: {tmp_path}"
    )
    config = load(tmp_path, "phases[second].inherit.weights=pretrained", text=text)
    assert outside_weights(config, 0) == outside_weights(config, 1) == str(tmp_path)
    assert source_phase(config, 1) is None


def test_pretrained_is_a_folder_where_one_is_and_else_a_name_on_the_hub(tmp_path: Path) -> None:
    assert pretrained_weights(ModelSection()) is None
    assert pretrained_weights(ModelSection(pretrained=str(tmp_path))) == str(tmp_path)
    assert pretrained_weights(ModelSection(pretrained="org/name")) == "hub:org/name"
    of_hub = ModelSection(pretrained="hub:org/name", revision="v1")
    assert pretrained_weights(of_hub) == "hub:org/name@v1"


def test_adapters_are_kept_by_themselves_only_where_the_phase_has_the_same() -> None:
    unsaid, one, other = InheritSection(), LoraSection(rank=4), LoraSection(rank=4, alpha=8)
    assert lora_fate(unsaid, one, LoraSection(rank=4, dropout=0.5)) == "keep"
    assert lora_fate(unsaid, one, other) == "merge"
    assert lora_fate(unsaid, one, None) == "merge"
    assert lora_fate(InheritSection(lora="drop"), one, one) == "drop"


def test_adapters_are_refused_where_their_package_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "peft" else find(name)
    )
    with pytest.raises(
        ConfigurationError,
        match=r"phases\[0\]\.trainable\.lora needs the package peft.*pip install",
    ):
        load(tmp_path, f"phases[first].{LORA}")
