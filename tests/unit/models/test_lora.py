from __future__ import annotations

from typing import Any

import pytest
import torch

from phaseline.config.known_objectives import Head
from phaseline.config.model_head import ModelHead
from phaseline.config.model_section import LoraSection, ModelSection, TrainableSection
from phaseline.distributed.adapter_record import is_adapter, record_of
from phaseline.errors import ConfigurationError
from phaseline.models.build import build_model
from phaseline.models.lora import adapters_off
from phaseline.models.trainable import prepare_trainable

LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
}
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}


def build(config: dict[str, Any], **trainable: Any) -> Any:
    special = {"eos_token_id": 1, "pad_token_id": 0}
    module = build_model(ModelSection(config=config), vocab_size=20, special_ids=special)
    prepare_trainable(module, TrainableSection(**trainable), path="phases[0].trainable")
    return module


def trained(module: torch.nn.Module) -> list[str]:
    return [name for name, p in module.named_parameters() if p.requires_grad]


def test_adapters_stand_beside_every_linear_layer_but_the_output() -> None:
    module = build(LLAMA, lora=LoraSection(rank=2))
    record = record_of(module)
    assert record is not None
    assert len(record.modules) == 2 * 7
    assert not any("lm_head" in name for name in record.modules)
    assert all(is_adapter(name) for name in trained(module))
    assert len(trained(module)) == 2 * len(record.modules)
    assert type(module).__name__ == "LlamaForCausalLM"
    assert module.lm_head.weight is module.model.embed_tokens.weight


@pytest.mark.parametrize("kind", ["reward", "classes"])
def test_adapters_leave_a_head_alone(kind: Head) -> None:
    special = {"eos_token_id": 1, "pad_token_id": 0}
    section = ModelSection(config=LLAMA)
    module = build_model(section, vocab_size=20, special_ids=special, head=ModelHead(kind))
    prepare_trainable(module, TrainableSection(lora=LoraSection(rank=2)), path="trainable")
    record = record_of(module)
    assert record is not None
    assert len(record.modules) == 2 * 7
    assert not module.get_parameter("score.weight").requires_grad


def test_adapters_change_nothing_before_the_first_step() -> None:
    ids = torch.arange(8).view(1, 8)
    torch.manual_seed(1)
    plain = build(LLAMA).eval()
    torch.manual_seed(1)
    adapted = build(LLAMA, lora=LoraSection(targets=("q_proj",), dropout=0.5)).eval()
    assert torch.equal(plain(input_ids=ids).logits, adapted(input_ids=ids).logits)


def test_targets_and_what_is_trained_besides_go_by_expressions() -> None:
    lora = LoraSection(targets=(r"layers\.1.*q_proj", "down"))
    module = build(LLAMA, lora=lora, train=("norm", r"layers\.1.*q_proj"))
    record = record_of(module)
    assert record is not None
    assert sorted(record.modules) == [
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
        "model.layers.1.self_attn.q_proj",
    ]
    besides = [name for name in trained(module) if not is_adapter(name)]
    assert "model.layers.1.self_attn.q_proj.base_layer.weight" in besides
    assert len(besides) == 1 + 2 * 2 + 1  # and the norms


def test_gpt2_keeps_its_weights_the_other_way_round() -> None:
    module = build(GPT2, lora=LoraSection(rank=2, targets=("c_attn",)))
    record = record_of(module)
    assert record is not None
    assert record.modules == {"transformer.h.0.attn.c_attn": True}
    a = module.get_parameter("transformer.h.0.attn.c_attn.lora_A.default.weight")
    b = module.get_parameter("transformer.h.0.attn.c_attn.lora_B.default.weight")
    assert (tuple(a.shape), tuple(b.shape)) == ((2, 16), (48, 2))


def test_target_that_matches_no_linear_layer_is_refused() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"trainable\.lora\.targets\[1\] is 'query', which matches no linear layer\. They end "
        "in down_proj, gate_proj",
    ):
        build(LLAMA, lora=LoraSection(targets=("q_proj", "query")))


def test_lora_is_refused_where_there_is_nothing_to_adapt() -> None:
    section = TrainableSection(lora=LoraSection())
    with pytest.raises(ConfigurationError, match="Embedding has no linear layer"):
        prepare_trainable(torch.nn.Embedding(2, 2), section, path="phases[0].trainable")


def test_record_comes_back_from_json_as_it_was() -> None:
    record = record_of(build(LLAMA, lora=LoraSection(rank=2, alpha=3.0, targets=("q_proj",))))
    assert record is not None
    assert type(record).from_json(record.to_json()) == record
    assert record.scale == 1.5


@pytest.mark.parametrize(
    ("freeze", "train", "expected"),
    [
        ((), ("head",), ["head.weight"]),
        (("embed", "body"), (r"body\.bias",), ["body.bias", "head.weight"]),
        ((".",), ("embed",), ["embed.weight"]),
    ],
)
def test_train_thaws_what_freeze_froze_and_stands_for_itself_alone(
    freeze: tuple[str, ...], train: tuple[str, ...], expected: list[str]
) -> None:
    module = torch.nn.ModuleDict(
        {
            "embed": torch.nn.Embedding(2, 2),
            "body": torch.nn.Linear(2, 2),
            "head": torch.nn.Linear(2, 2, bias=False),
        }
    )
    prepare_trainable(module, TrainableSection(freeze=freeze, train=train), path="p")
    assert trained(module) == expected


def test_train_is_refused_when_it_matches_nothing() -> None:
    with pytest.raises(ConfigurationError, match=r"p\.train\[0\] is 'heads', which matches no par"):
        prepare_trainable(torch.nn.Linear(2, 2), TrainableSection(train=("heads",)), path="p")


def test_model_computes_as_its_base_while_adapters_are_off_and_they_stay_trainable() -> None:
    ids = torch.arange(8).view(1, 8)
    torch.manual_seed(1)
    plain = build(LLAMA).eval()
    torch.manual_seed(1)
    adapted = build(LLAMA, lora=LoraSection(rank=2)).eval()
    for name, parameter in adapted.named_parameters():
        if is_adapter(name):
            parameter.data.fill_(0.5)
    before, flags = adapted(input_ids=ids).logits, trained(adapted)
    with adapters_off(adapted):
        assert torch.equal(adapted(input_ids=ids).logits, plain(input_ids=ids).logits)
        assert trained(adapted) == flags
    assert torch.equal(adapted(input_ids=ids).logits, before)
    assert not torch.equal(before, plain(input_ids=ids).logits)
    assert trained(adapted) == flags
    with adapters_off(plain):  # nothing to switch
        pass
