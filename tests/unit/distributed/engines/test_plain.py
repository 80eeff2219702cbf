from __future__ import annotations

import math

import pytest
import torch

from phaseline.distributed.engines import EngineSettings, build_engine
from phaseline.distributed.engines.plain import PlainEngine
from phaseline.distributed.world import World


def build(
    world: World, module: torch.nn.Module, *, accumulation_steps: int = 1, clip: float | None = None
) -> PlainEngine:
    settings = EngineSettings(
        kind="plain",
        zero_stage=1,
        micro_batch_size=2,
        accumulation_steps=accumulation_steps,
        clip_norm=clip,
    )
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    engine = build_engine(module, torch.optim.SGD(trained, lr=1.0, momentum=0.9), settings, world)
    assert isinstance(engine, PlainEngine)
    return engine


def seeded_linear() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)


def flat(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def step_with_gradient_of(engine: PlainEngine, scale: float) -> tuple[float, torch.Tensor]:
    before = flat(engine.module)
    engine.begin_micro_step(is_last=True)
    engine.backward(flat_loss(engine.model) * scale)
    report = engine.step()
    assert not report.skipped
    return report.grad_norm, flat(engine.module) - before


def flat_loss(module: torch.nn.Module) -> torch.Tensor:
    return torch.stack([parameter.sum() for parameter in module.parameters()]).sum()


@pytest.mark.parametrize(
    ("clip", "update_norm"), [(None, 8.0), (2.0, 2.0), (8.5, 8.0)], ids=["off", "above", "below"]
)
def test_step_scales_the_gradient_to_the_norm_only_when_it_is_larger(
    world: World, clip: float | None, update_norm: float
) -> None:
    # A gradient of 2 in each of 16 places has norm 8.
    engine = build(world, torch.nn.Linear(4, 4, bias=False), clip=clip)
    grad_norm, update = step_with_gradient_of(engine, 2.0)
    assert grad_norm == 8.0
    assert float(update.norm()) == pytest.approx(update_norm, rel=1e-5)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_step_is_skipped_and_leaves_no_trace_when_the_gradient_is_not_finite(
    world: World, poison: float
) -> None:
    engine = build(world, seeded_linear(), clip=1.0)
    before = flat(engine.module)
    engine.backward(flat_loss(engine.model) * poison)
    report = engine.step()
    assert report.skipped
    assert not math.isfinite(report.grad_norm)
    assert torch.equal(flat(engine.module), before)
    assert all(parameter.grad is None for parameter in engine.module.parameters())
    _, update = step_with_gradient_of(engine, 0.01)
    assert float(update.norm()) > 0


@pytest.mark.parametrize("accumulation_steps", [1, 2, 4])
def test_accumulation_equals_the_full_batch(world: World, accumulation_steps: int) -> None:
    torch.manual_seed(1)
    inputs, targets = torch.randn(8, 4), torch.randn(8, 3)
    reference = seeded_linear()
    optimizer = torch.optim.SGD(reference.parameters(), lr=1.0, momentum=0.9)
    engine = build(world, seeded_linear(), accumulation_steps=accumulation_steps)
    for _ in range(3):
        optimizer.zero_grad()
        ((reference(inputs) - targets) ** 2).mean().backward()
        optimizer.step()
        micro_batches = zip(
            inputs.chunk(accumulation_steps), targets.chunk(accumulation_steps), strict=True
        )
        for idx, (some_inputs, some_targets) in enumerate(micro_batches):
            engine.begin_micro_step(is_last=idx == accumulation_steps - 1)
            loss = ((engine.model(some_inputs) - some_targets) ** 2).sum()
            engine.backward(loss / targets.numel())
        assert not engine.step().skipped
    torch.testing.assert_close(flat(engine.module), flat(reference))


def test_param_groups_decide_the_learning_rate_of_the_next_step(world: World) -> None:
    engine = build(world, torch.nn.Linear(4, 4, bias=False))
    engine.param_groups[0]["lr"] = 0.5
    _, update = step_with_gradient_of(engine, 2.0)
    torch.testing.assert_close(update, torch.full((16,), -1.0))


def test_state_fragments_are_whole_parameters_in_the_modules_order(world: World) -> None:
    module = seeded_linear()
    module.bias.requires_grad_(False)
    engine = build(world, module)
    engine.backward(engine.model(torch.ones(2, 4)).sum())
    engine.step()
    fragments = list(engine.state_fragments())
    assert [(f.name, f.start, f.numel, f.shape, f.trainable) for f in fragments] == [
        ("weight", 0, 12, (3, 4), True),
        ("bias", 0, 3, (3,), False),
    ]
    assert list(fragments[0].tensors()) == ["momentum_buffer"]
    assert fragments[1].tensors() == {}
    fragments[0].weight.fill_(7)
    assert module.weight.eq(7).all()


def test_state_fragments_of_a_new_engine_change_nothing(world: World) -> None:
    used, untouched = build(world, seeded_linear()), build(world, seeded_linear())
    assert all(fragment.tensors() == {} for fragment in used.state_fragments())
    for engine in (used, untouched):
        step_with_gradient_of(engine, 1.0)
    assert torch.equal(flat(used.module), flat(untouched.module))


def test_close_releases_the_model(world: World) -> None:
    engine = build(world, seeded_linear())
    engine.close()
    assert list(engine.module.parameters()) == []
    assert engine.param_groups == []
