"""What is read from the source of transformers is what its classes do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phaseline.checkpoint.foreign_checks import weights_can_be_read
from phaseline.config.architectures import activations, find_architecture, has_head, model_types
from phaseline.config.checks.architectures import model_config_is_known
from phaseline.config.loading import load_config
from phaseline.config.sections import Config
from phaseline.errors import ConfigurationError
from unit.config.session_text import VALID, write

_COMMON = (
    *("llama", "gpt2", "gpt_neox", "gpt_neo", "gptj", "opt", "bloom", "falcon", "phi", "phi3"),
    *("mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "gemma", "gemma2", "gemma3_text"),
    *("olmo2", "starcoder2", "stablelm", "granite", "cohere", "mamba", "bert", "roberta", "vit"),
)


def _findings(values: dict[str, Any]) -> list[str]:
    config = Config.model_validate(
        {
            "session": {"name": "test"},
            "model": {"config": values},
            "phases": [
                {
                    "name": "first",
                    "objective": "causal_lm",
                    "duration": "1 steps",
                    "data": {"sources": [{"source": "python_stdlib"}], "sequence_length": 8},
                    "batch": {"global_size": 1, "micro_size": 1},
                    "optimizer": {"lr": 1.0},
                }
            ],
        }
    )
    return [f"{finding.loc[-1]} {finding.problem}" for finding in model_config_is_known(config)]


@pytest.mark.parametrize("model_type", _COMMON)
def test_model_config_is_known_takes_what_the_class_itself_says(model_type: str) -> None:
    from transformers import AutoConfig

    values: dict[str, Any] = AutoConfig.for_model(model_type).to_dict()
    # What transformers adds when it writes a configuration.
    for key in ("transformers_version", "_name_or_path"):
        values.pop(key, None)
    assert _findings({**values, "model_type": model_type}) == []


@pytest.mark.parametrize("model_type", _COMMON)
def test_model_config_is_known_refuses_what_no_class_takes(model_type: str) -> None:
    [found] = _findings({"model_type": model_type, "hiden_sizee": 64})
    assert found.startswith("hiden_sizee is no field of ")


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "llama", "rope_theta": 5e5},
        {"model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"model_type": "llama", "torch_dtype": "float32", "num_labels": 3},
        {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4},
        {"model_type": "llama", "num_key_value_heads": None, "sliding_window": None},
        {"model_type": "gpt2", "hidden_size": 48, "num_attention_heads": 6, "n_inner": None},
        {"model_type": "qwen3", "hidden_size": 100, "head_dim": 16},
        {"model_type": "mistral", "sliding_window": None},
        {"model_type": "gemma2", "layer_types": ["full_attention"], "num_hidden_layers": 1},
        {"model_type": "vit", "image_size": 8, "num_channels": 1},
    ],
    ids=lambda values: "-".join(map(str, values)),
)
def test_model_config_is_known_agrees_with_the_class_when_values_are_odd(
    values: dict[str, Any],
) -> None:
    from transformers import AutoConfig

    built = {**AutoConfig.for_model(**values).to_dict()}
    known = AutoConfig.for_model(values["model_type"]).to_dict()
    is_taken = not set(values) & set(built) - set(known) - {"model_type"}
    assert (_findings(values) == []) is is_taken


def test_find_architecture_reads_the_class_without_importing_it() -> None:
    code = (
        "import sys; from phaseline.config.architectures import *;"
        "found = find_architecture('gpt2'); print(found.name, found.aliases['hidden_size'],"
        "found.defaults['n_positions'], 'transformers' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["GPT2Config", "n_embd", "1024", "False", "False"]


def test_tables_of_transformers_are_found() -> None:
    assert {"llama", "gpt2", "gpt-sw3", "vit"} <= set(model_types())
    assert {"gelu", "silu", "relu"} <= set(activations())
    assert has_head("llama", "language")
    assert not has_head("vit", "language")
    assert has_head("vit", "classes")
    assert not has_head("mamba", "reward")
    assert find_architecture("none_of_them") is None


def test_load_config_names_line_of_field_when_it_is_an_override(tmp_path: Path) -> None:
    override = "model.config.hiden_size=8"
    with pytest.raises(ConfigurationError, match=rf"\(-o {override}\)\. Did you mean hidden_size"):
        load_config(write(tmp_path, VALID), [override])


@pytest.mark.parametrize("vocab_size", ["abc", "[1]", "{a: 1}", "1e300", "null", "true"])
def test_load_config_words_a_vocabulary_that_is_none_when_weights_have_one(
    tmp_path: Path, vocab_size: str
) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(Path(__file__).parent / "broken" / "architecture", weights)
    (weights / "config.json").write_text('{"model_type": "llama", "vocab_size": 100}')
    overrides = [
        f"model.config.vocab_size={vocab_size}",
        f"phases[0].inherit.weights={weights}",
    ]
    with pytest.raises(ConfigurationError, match=r"model\.config\.vocab_size is .* \(-o model"):
        load_config(write(tmp_path, VALID), overrides, rules=weights_can_be_read(None))
