"""Models, batches and engines that the tests of engines share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from phaseline.config.sections import OptimizerSection
from phaseline.distributed.engines import Engine, EngineSettings, build_engine
from phaseline.distributed.world import World
from phaseline.models.optimizers import build_optimizer

ENGINES = {
    "plain": ("plain", 1),
    "zero0": ("deepspeed", 0),
    "zero1": ("deepspeed", 1),
    "zero2": ("deepspeed", 2),
    "zero3": ("deepspeed", 3),
}
VOCABULARY, WIDTH, LENGTH = 11, 6, 5
CLIP = 0.05
# Small enough that the tiny models here have partitions, sub-groups and kept parameters.
SMALL_PARTS = {"sub_group_size": 60, "stage3_param_persistence_threshold": 10}


class Mixed(torch.nn.Module):
    """Tied weights, frozen parameters, one of one element, a buffer, two parameter groups."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.body = torch.nn.Linear(WIDTH, WIDTH)
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.frozen = torch.nn.Parameter(torch.randn(7), requires_grad=False)
        self.sometimes = torch.nn.Linear(WIDTH, WIDTH)
        self.never = torch.nn.Linear(3, 2)
        self.head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("seen", torch.tensor([float(seed), 2.0]))

    def forward(self, ids: torch.Tensor, sometimes: bool = True) -> torch.Tensor:
        hidden = self.norm(torch.relu(self.body(self.embed(ids)))) * self.scale
        if sometimes:
            hidden = hidden + self.sometimes(hidden)
        logits: torch.Tensor = self.head(hidden)
        return logits


class Routed(torch.nn.Module):
    """A layer of experts; which of them works depends on the rows of the batch."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.mixture = Mixture()
        self.head = torch.nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: torch.Tensor, _sometimes: bool = True) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.mixture(self.embed(ids), int(ids[0, 0])))
        return logits


class Mixture(torch.nn.Module):
    """Three experts of one shape, so that a mix-up of two would go unnoticed."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, hidden: torch.Tensor, token: int) -> torch.Tensor:
        routed: torch.Tensor = hidden + self.experts[token % 3](hidden)
        return routed


@dataclass(frozen=True, kw_only=True)
class Case:
    """One engine on one layout of the global batch.

    Attributes:
        engine: A key of ENGINES.
        micro: Rows per micro-batch.
        accumulation: Micro-steps.
        clip: As in the configuration.
        precision: fp32 or bf16.
        offload: none or optimizer.
        optimizer: Its name.
        uses: When the model's part that works only sometimes does: always, alternate (by
            step), micro (in the first micro-step), rank (on the main rank).
        model: mixed or routed.
        settings: Further ones of the engine.
    """

    engine: str
    micro: int = 2
    accumulation: int = 2
    clip: float | None = CLIP
    precision: str = "fp32"
    offload: str = "none"
    optimizer: str = "adamw"
    uses: str = "always"
    model: str = "mixed"
    settings: dict[str, Any] = field(default_factory=dict)

    def sometimes(self, step: int, micro_step: int, rank: int) -> bool:
        """Whether the part works in a micro-step of a rank."""
        rules = {"alternate": step % 2 == 0, "micro": micro_step == 0, "rank": rank == 0}
        return rules.get(self.uses, True)


def batch_of(step: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A global batch of ragged rows; two rows next to each other and the last have no target."""
    generator = torch.Generator().manual_seed(100 + step)
    ids = torch.randint(0, VOCABULARY, (rows, LENGTH + 1), generator=generator)
    targets = ids[:, 1:].clone()
    for row in range(rows):
        targets[row, 1 + row % LENGTH :] = -100
    targets[2:4] = -100
    targets[-1] = -100
    return ids[:, :-1], targets


def model_of(case: Case, seed: int) -> torch.nn.Module:
    return Routed(seed) if case.model == "routed" else Mixed(seed)


def optimizer_of(model: torch.nn.Module, name: str = "adamw") -> torch.optim.Optimizer:
    # Without decay, SGD's first momentum is the gradient itself.
    arguments, decay = ({"momentum": 0.9}, 0.0) if name == "sgd" else ({}, 0.1)
    section = OptimizerSection(name=name, lr=0.02, weight_decay=decay, arguments=arguments)
    return build_optimizer(model, section, device=torch.device("cpu"))


def settings_of(case: Case) -> EngineSettings:
    kind, stage = ENGINES[case.engine]
    return EngineSettings(
        kind=kind,
        zero_stage=stage,
        micro_batch_size=case.micro,
        accumulation_steps=case.accumulation,
        clip_norm=case.clip,
        precision=case.precision,
        offload=case.offload if kind == "deepspeed" and stage > 0 else "none",
        deepspeed=SMALL_PARTS if case.engine == "zero3" else {},
        **{"unused_parameters": case.model == "mixed" and kind == "deepspeed", **case.settings},
    )


def engine_of(case: Case, world: World, seed: int = 0) -> Engine:
    model = model_of(case, seed)
    return build_engine(model, optimizer_of(model, case.optimizer), settings_of(case), world)


def loss_sum(
    model: torch.nn.Module, ids: torch.Tensor, targets: torch.Tensor, sometimes: bool
) -> torch.Tensor:
    logits = model(ids, sometimes).float().flatten(0, 1)
    return torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum")


def rows_of(case: Case, world_size: int, micro_step: int, rank: int) -> slice:
    first = (micro_step * world_size + rank) * case.micro
    return slice(first, first + case.micro)


def train(
    engine: Engine, case: Case, world: World, steps: Iterable[int], poison: float = 1.0
) -> list[float]:
    """Trains; returns the reported norms. `poison` scales the main rank's first loss."""
    size, norms = world.dp_world_size, []
    for step in steps:
        ids, targets = batch_of(step, case.micro * case.accumulation * size)
        scale = size / int((targets != -100).sum())
        for micro_step in range(case.accumulation):
            rows = rows_of(case, size, micro_step, world.dp_rank)
            sometimes = case.sometimes(step, micro_step, world.dp_rank)
            engine.begin_micro_step(is_last=micro_step == case.accumulation - 1)
            loss = loss_sum(engine.model, ids[rows], targets[rows], sometimes) * scale
            if micro_step == 0 and world.is_main:
                loss = loss * poison
            engine.backward(loss)
        norms.append(engine.step().grad_norm)
    return norms


def reference(
    case: Case, world_size: int, steps: int
) -> tuple[list[float], dict[str, list[float]], dict[str, list[float]]]:
    """One process, the whole global batch, no engine: norms, weights, and first gradients."""
    model = model_of(case, 0)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = optimizer_of(model, case.optimizer)
    norms: list[float] = []
    first: dict[str, list[float]] = {}
    for step in range(steps):
        ids, targets = batch_of(step, case.micro * case.accumulation * world_size)
        num_targets = int((targets != -100).sum())
        total = torch.zeros(())
        for micro_step in range(case.accumulation):
            for rank in range(world_size):
                rows = rows_of(case, world_size, micro_step, rank)
                sometimes = case.sometimes(step, micro_step, rank)
                total = total + loss_sum(model, ids[rows], targets[rows], sometimes)
        (total / num_targets).backward()  # type: ignore[no-untyped-call]
        for parameter in trained.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        largest = case.clip if case.clip is not None else float("inf")
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained.values(), largest)))
        if step == 0:
            first = {n: p.grad.flatten().tolist() for n, p in trained.items() if p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
    weights = {name: p.detach().flatten().tolist() for name, p in model.named_parameters()}
    return norms, weights, first


def pieces(engine: Engine, key: str = "weight") -> dict[str, list[tuple[int, list[float]]]]:
    """This rank's pieces of every parameter's weights, or of a state of the optimizer."""
    found: dict[str, list[tuple[int, list[float]]]] = {}
    for fragment in engine.state_fragments():
        values = fragment.weight if key == "weight" else fragment.tensors().get(key)
        if values is not None and fragment.numel:
            piece = (fragment.start, values.detach().double().tolist())
            found.setdefault(fragment.name, []).append(piece)
    return found


def put_together(ranks: list[dict[str, list[Any]]]) -> dict[str, list[float]]:
    """The pieces of all ranks as whole parameters."""
    whole: dict[str, dict[int, float]] = {}
    for rank in ranks:
        for name, parts in rank.items():
            for start, values in parts:
                whole.setdefault(name, {}).update(enumerate(values, start))
    return {name: [values[i] for i in range(len(values))] for name, values in whole.items()}
