from __future__ import annotations

from typing import Any

import torch

from phaseline.models.export import stored_tensors


def test_experts_are_stored_one_by_one_as_transformers_stores_them() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=8,
        hidden_size=4,
        intermediate_size=6,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
    )
    module: Any = MixtralForCausalLM(config)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    whole = module.get_parameter(name).detach()
    found = stored_tensors(module, name, whole)
    prefix = "model.layers.0.block_sparse_moe.experts"
    assert set(found) == {
        f"{prefix}.{idx}.{part}.weight" for idx in (0, 1) for part in ("w1", "w3")
    }
    assert torch.equal(found[f"{prefix}.1.w3.weight"], whole[1, 6:])
    planned = stored_tensors(module, name, whole.to("meta"))
    assert {key: tensor.shape for key, tensor in planned.items()} == {
        key: tensor.shape for key, tensor in found.items()
    }


def test_parameters_of_a_model_of_ones_own_keep_their_names() -> None:
    value = torch.ones(2, 2)
    assert stored_tensors(torch.nn.Linear(2, 2), "weight", value) == {"weight": value}
