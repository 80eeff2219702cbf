"""Small live engines with every kind of state that a checkpoint has to carry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from phaseline.checkpoint.disk import Disk
from phaseline.checkpoint.retention import Retention
from phaseline.checkpoint.store import CheckpointStore, Origin, SavedPosition, SavedReport
from phaseline.config.sections import OptimizerSection
from phaseline.distributed.engines import Engine, EngineSettings, build_engine
from phaseline.distributed.world import World
from phaseline.models.optimizers import build_optimizer
from unit.covered_lines import covered


class Odd(torch.nn.Module):
    """Tied embeddings, buffers, a frozen parameter, parameters of one element and of none."""

    counter: torch.Tensor
    scratch: torch.Tensor

    def __init__(self, seed: int, *, width: int = 5) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = torch.nn.Embedding(7, width)
        self.mix = torch.nn.Linear(width, width)
        self.head = torch.nn.Linear(width, 7, bias=False)
        self.head.weight = self.embed.weight
        self.frozen = torch.nn.Parameter(torch.randn(width), requires_grad=False)
        self.gain = torch.nn.Parameter(torch.randn(1))
        self.shift = torch.nn.Parameter(torch.randn(()))
        self.register_buffer("counter", torch.tensor(seed))
        self.register_buffer("running", torch.randn(width))
        self.register_buffer("scratch", torch.randn(2), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        self.counter += 1
        hidden = self.mix(self.embed(ids)) * self.gain + self.shift + self.frozen
        logits: torch.Tensor = self.head(hidden)
        return logits


def build(world: World, seed: int, optimizer: str = "adamw", *, width: int = 5) -> Engine:
    """An engine that has not taken a step."""
    module = Odd(seed, width=width)
    arguments = {"momentum": 0.9} if optimizer == "sgd" else {}
    section = OptimizerSection(name=optimizer, lr=0.01, arguments=arguments)
    settings = EngineSettings(
        kind="plain", zero_stage=1, micro_batch_size=4, accumulation_steps=1, clip_norm=None
    )
    return build_engine(
        module, build_optimizer(module, section, device=world.device), settings, world
    )


def train(engine: Engine, steps: range) -> None:
    """Takes steps whose data depend on nothing but their number."""
    for step in steps:
        torch.manual_seed(step)
        ids, targets = torch.randint(7, (4, 3)), torch.randint(7, (4, 3))
        engine.begin_micro_step(is_last=True)
        logits = engine.model(ids)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        engine.backward(loss)
        assert not engine.step().skipped


def everything(engine: Engine) -> dict[str, torch.Tensor]:
    """Bytes of all that must survive, by name."""
    found = {f"module/{k}": v.clone() for k, v in engine.module.state_dict().items()}
    for fragment in engine.state_fragments():
        for key, value in fragment.state.items():
            found[f"{key}/{fragment.name}"] = torch.as_tensor(value).clone()
    return found


def require_equal(left: Engine, right: Engine) -> None:
    """Compares two engines bit for bit."""
    ours, theirs = everything(left), everything(right)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert value.dtype == theirs[key].dtype, key
        assert torch.equal(value, theirs[key]), key


def store_in(
    folder: Path,
    world: World,
    *,
    attempt: int = 1,
    retention: Retention | None = None,
    disk: Disk | None = None,
) -> CheckpointStore:
    """A store that nobody fences."""
    return CheckpointStore(
        folder,
        world,
        Origin(session="s", attempt=attempt, config_fingerprint="f"),
        retention or Retention(keep_last=2),
        fence=lambda: None,
        disk=disk,
        timeout_s=5,
    )


def save(
    store: CheckpointStore, engine: Engine, position: SavedPosition, state: dict[str, Any]
) -> SavedReport:
    """Saves, and waits until it is published."""
    store.save(engine, position, state)
    [report] = store.wait()
    return report


def at(step: int, *, final: bool = False) -> SavedPosition:
    """A position in the phase `only`."""
    return SavedPosition(
        phase="only",
        phase_step=step,
        global_step=100 + step,
        tokens=64 * step,
        final=final,
        committed=covered((1, 3), (2, step)),
    )
