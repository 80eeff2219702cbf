from __future__ import annotations

import sys

import pytest
import torch

from phaseline.config.model_section import TrainableSection
from phaseline.config.sections import OptimizerSection
from phaseline.distributed.engines import deepspeed_private as private
from phaseline.errors import ConfigurationError, EngineError
from phaseline.models.optimizers import Lion, build_optimizer, parameter_groups
from phaseline.models.trainable import prepare_trainable as freeze

CPU = torch.device("cpu")


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(5, 4)
        self.proj = torch.nn.Linear(4, 3)
        self.final_norm = torch.nn.LayerNorm(3)


def section(**changes: object) -> OptimizerSection:
    return OptimizerSection.model_validate({"lr": 0.01, "weight_decay": 0.5, **changes})


def test_groups_leave_norms_and_biases_undecayed() -> None:
    model = Model()
    decayed, kept = parameter_groups(model, section())
    assert decayed["weight_decay"] == 0.5
    assert kept["weight_decay"] == 0.0
    assert {id(p) for p in decayed["params"]} == {id(model.embed.weight), id(model.proj.weight)}


def test_groups_hold_trainable_parameters_only() -> None:
    model = Model()
    freeze(model, TrainableSection(freeze=(r"^embed", r"norm")), path="phases[0].trainable")
    held = {id(p) for group in parameter_groups(model, section()) for p in group["params"]}
    assert held == {id(model.proj.weight), id(model.proj.bias)}


def test_freeze_is_refused_when_a_pattern_matches_nothing() -> None:
    with pytest.raises(ConfigurationError, match=r"freeze\[1\] is 'nope', which matches no"):
        freeze(Model(), TrainableSection(freeze=("embed", "nope")), path="phases[0].trainable")


def test_freeze_is_refused_when_nothing_is_left_to_train() -> None:
    with pytest.raises(ConfigurationError, match="freezes every parameter"):
        freeze(Model(), TrainableSection(freeze=(".",)), path="phases[0].trainable")


def test_freeze_thaws_what_an_earlier_phase_froze() -> None:
    model = Model()
    freeze(model, TrainableSection(freeze=("embed",)), path="p")
    freeze(model, TrainableSection(), path="p")
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD), ("lion", Lion)]
)
def test_optimizer_is_built_by_name(name: str, kind: type[torch.optim.Optimizer]) -> None:
    optimizer = build_optimizer(Model(), section(name=name), device=CPU)
    assert type(optimizer) is kind
    assert {group["lr"] for group in optimizer.param_groups} == {0.01}


def test_adamw_takes_its_arguments() -> None:
    optimizer = build_optimizer(
        Model(), section(arguments={"betas": [0.8, 0.9], "eps": 1e-6}), device=CPU
    )
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    assert optimizer.defaults["eps"] == 1e-6


def test_lion_equals_the_paper_written_out() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(7))
    expected, average = weight.detach().clone(), torch.zeros(7)
    optimizer = Lion([weight], lr=0.1, betas=(0.9, 0.99), weight_decay=0.2)
    for _ in range(4):
        gradient = torch.randn(7)
        weight.grad = gradient.clone()
        optimizer.step()
        update = torch.sign(0.9 * average + 0.1 * gradient)
        expected = expected - 0.1 * (update + 0.2 * expected)
        average = 0.99 * average + 0.01 * gradient
    torch.testing.assert_close(weight.detach(), expected)


def test_cpu_adam_is_refused_with_the_reason_where_it_was_not_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    private.import_deepspeed()
    monkeypatch.setitem(sys.modules["deepspeed.git_version_info"].installed_ops, "cpu_adam", False)
    with pytest.raises(EngineError, match=r"was made without it; .* Set optimizer\.name to adamw"):
        build_optimizer(Model(), section(name="cpu_adam"), device=CPU)
