from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from phaseline.config.model_head import ModelHead
from phaseline.config.model_section import LoraSection, ModelSection, TrainableSection
from phaseline.errors import ConfigurationError
from phaseline.models.build import build_model
from phaseline.models.reward_head import answer_with_rewards
from phaseline.models.trainable import prepare_trainable
from phaseline.objectives.reward_model import RewardModel
from unit.data.stores import EOS
from unit.objectives.preference_rows import (
    VOCAB_SIZE,
    Answers,
    alone,
    batches_of,
    drawn_answers,
    filler_of,
    rows_of,
)

KINDS: dict[str, dict[str, Any]] = {
    "llama": {"intermediate_size": 24, "num_key_value_heads": 1},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}


def model(kind: str = "llama") -> Any:
    torch.manual_seed(0)
    fields = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    section = ModelSection(config={"model_type": kind, **fields, **KINDS[kind]})
    special = {"eos_token_id": EOS, "pad_token_id": 0}
    built = build_model(
        section, vocab_size=VOCAB_SIZE, special_ids=special, head=ModelHead("reward")
    )
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(3.0)
    return built


def rewards_alone(module: Any, answers: Answers) -> torch.Tensor:
    """By transformers' own parts: the head on the last token before the end. [pairs, 2]"""
    trunk = getattr(module, module.base_model_prefix)
    found = []
    for tokens, places in alone(answers):
        hidden = trunk(input_ids=tokens[None, :-1]).last_hidden_state[0]
        found.append((hidden[places[-1]] * module.score.weight[0]).sum())
    return torch.stack(found).view(-1, 2)


def reference(rewards: torch.Tensor) -> torch.Tensor:
    """Bradley and Terry's: the log of the share that the chosen one has of both. [pairs]"""
    strengths = rewards.double().exp()
    return -(strengths[:, 0] / strengths.sum(dim=1)).log().float()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("micro_size", [1, 3, None])
@pytest.mark.parametrize("is_packed", [True, False])
def test_losses_and_measures_are_those_of_each_answer_alone(
    kind: str, micro_size: int | None, is_packed: bool
) -> None:
    answers, module, objective = drawn_answers(9), model(kind), RewardModel()
    found, sums = torch.zeros(9), torch.zeros(len(objective.measures))
    with torch.no_grad():
        rewards = rewards_alone(module, answers)
        for batch in batches_of(rows_of(answers, is_packed=is_packed), micro_size):
            losses = objective.losses(module, batch)
            assert batch.pair_ids is not None
            assert losses.measures is not None
            found[batch.pair_ids[losses.is_unit]] = losses.values[losses.is_unit]
            sums += losses.measures
    torch.testing.assert_close(found, reference(rewards), rtol=1e-4, atol=1e-5)
    margins = rewards[:, 0] - rewards[:, 1]
    expected = [(margins > 0).sum(), margins.sum(), rewards[:, 0].sum(), rewards[:, 1].sum()]
    torch.testing.assert_close(
        sums, torch.stack([value.float() for value in expected]), rtol=1e-4, atol=1e-4
    )
    assert 0 < sums[0] < 9


def test_gradient_is_that_of_each_answer_alone() -> None:
    answers, module = drawn_answers(6), model()
    names, parameters = zip(*module.named_parameters(), strict=True)
    expected = torch.autograd.grad(reference(rewards_alone(module, answers)).sum(), parameters)
    [batch] = batches_of(rows_of(answers), num_filler=1)
    found = torch.autograd.grad(RewardModel().losses(module, batch).values.sum(), parameters)
    for name, one, other in zip(names, found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, msg=name)


def test_loss_is_ln_2_when_nothing_is_preferred() -> None:
    module = model()
    module.score.weight.data.zero_()
    [batch] = batches_of(rows_of(drawn_answers(3)))
    losses = RewardModel().losses(module, batch)
    assert losses.values[losses.is_unit].tolist() == [pytest.approx(math.log(2))] * 3
    assert losses.measures is not None
    assert losses.measures.tolist() == [0.0] * 4


def test_filler_has_no_loss_and_can_be_trained_on() -> None:
    module = model()
    losses = RewardModel().losses(module, filler_of(rows_of(drawn_answers(3)), 2))
    losses.values.sum().backward()  # type: ignore[no-untyped-call]  # torch does not type it
    assert losses.values.tolist() == [[0.0], [0.0]]
    assert losses.is_unit is not None
    assert not losses.is_unit.any()
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


def test_head_is_a_parameter_of_a_model_that_transformers_knows() -> None:
    module = model()
    assert type(module).__name__ == "LlamaForSequenceClassification"
    names = [name for name, _ in module.named_parameters()]
    assert "score.weight" in names
    assert module.get_parameter("score.weight").shape == (1, 16)
    assert not any("lm_head" in name for name in names)


def test_head_gets_no_adapter_and_is_trained_beside_them() -> None:
    module = model()
    section = TrainableSection(lora=LoraSection(rank=2), train=("^score",))
    prepare_trainable(module, section, path="phases[0].trainable")
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    assert "score.weight" in trained
    assert not any("score" in name and "lora" in name for name in trained)


def test_model_without_a_head_for_every_position_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="whose head is not a linear layer called `score`"):
        answer_with_rewards(torch.nn.Linear(2, 2), path="model.config")
