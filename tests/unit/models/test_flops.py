from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from phaseline.models.flops import flops_per_token

SEQUENCE_LENGTH = 32
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 80,
}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 80}


def _model(values: dict[str, Any]) -> torch.nn.Module:
    values = dict(values)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    model: torch.nn.Module = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return model


def _counted(model: torch.nn.Module) -> float:
    """What torch counts per token, forward and backward."""
    ids = torch.randint(80, (2, SEQUENCE_LENGTH))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids).logits.sum().backward()
    return float(counter.get_total_flops()) / ids.numel()


@pytest.mark.parametrize("values", [LLAMA, {**LLAMA, "tie_word_embeddings": True}, GPT2])
def test_flops_are_those_that_torch_counts(values: dict[str, Any]) -> None:
    model = _model(values)
    # Besides, torch counts the angles of rotary positions, which are no part of the formula.
    assert flops_per_token(model, SEQUENCE_LENGTH) == pytest.approx(_counted(model), rel=2e-3)


def test_flops_of_frozen_weights_are_two_thirds() -> None:
    model = _model(LLAMA)
    trained = flops_per_token(model, SEQUENCE_LENGTH)
    head = model.get_parameter("lm_head.weight")
    head.requires_grad_(False)
    assert trained is not None
    assert flops_per_token(model, SEQUENCE_LENGTH) == trained - 2 * head.numel()


def test_flops_of_a_sliding_window_do_not_grow_beyond_it() -> None:
    model = _model({**LLAMA, "model_type": "mistral", "sliding_window": 8})
    short, long = flops_per_token(model, 8), flops_per_token(model, 800)
    assert short is not None
    assert short == long


@pytest.mark.parametrize(
    "model",
    [
        torch.nn.Linear(4, 4),
        _model({**LLAMA, "model_type": "mixtral", "num_local_experts": 4}),
    ],
)
def test_flops_are_absent_when_the_formula_is_not_about_the_model(model: torch.nn.Module) -> None:
    assert flops_per_token(model, SEQUENCE_LENGTH) is None


def test_flops_are_the_models_own_when_it_says_them() -> None:
    class Told(torch.nn.Module):
        def flops_per_token(self, sequence_length: int) -> int:
            return 10 * sequence_length

    assert flops_per_token(Told(), 7) == 70.0
