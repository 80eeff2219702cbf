from __future__ import annotations

import math
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from phaseline.data.batch import Batch
from phaseline.objectives import distillation
from phaseline.objectives.base import Losses
from phaseline.objectives.distillation import Direction, Distillation, divergence_losses

DIRECTIONS: tuple[Direction, ...] = ("forward", "reverse")
ROWS, TIME, VOCABULARY = 2, 5, 7


class Fixed(torch.nn.Module):
    """Answers with its own logits, whatever it is asked."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, input_ids: torch.Tensor) -> Any:
        assert input_ids.shape == self.logits.shape[:2]
        return SimpleNamespace(logits=self.logits)


def drawn(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(ROWS, TIME, VOCABULARY, generator=generator)


def batch() -> Batch:
    """The first of two rows has a masked prompt, the second a masked end."""
    targets = torch.arange(ROWS * TIME).view(ROWS, TIME) % VOCABULARY
    targets[0, :2] = -100
    targets[1, -1] = -100
    return Batch(torch.zeros_like(targets), targets, ROWS)


def softmax(row: list[float], temperature: float) -> list[float]:
    weights = [math.exp(value / temperature) for value in row]
    return [weight / sum(weights) for weight in weights]


def reference(
    student: torch.Tensor,
    teacher: torch.Tensor,
    targets: torch.Tensor,
    settings: tuple[float, float, str],
) -> list[tuple[float, float, float]]:
    """Loss, cross entropy and divergence of every target, number by number."""
    weight, temperature, direction = settings
    found = []
    for row, taught, target in zip(
        student.flatten(0, 1).tolist(),
        teacher.flatten(0, 1).tolist(),
        targets.flatten().tolist(),
        strict=True,
    ):
        if target == -100:
            found.append((0.0, 0.0, 0.0))
            continue
        entropy = -math.log(softmax(row, 1.0)[target])
        first, second = softmax(taught, temperature), softmax(row, temperature)
        if direction == "reverse":
            first, second = second, first
        kl = sum(p * math.log(p / q) for p, q in zip(first, second, strict=True))
        found.append(
            ((1 - weight) * entropy + weight * temperature * temperature * kl, entropy, kl)
        )
    return found


def run(
    student: torch.Tensor, teacher: torch.Tensor, settings: tuple[float, float, Direction]
) -> tuple[Losses, torch.nn.Module]:
    weight, temperature, direction = settings
    objective = Distillation("phase:before", weight, temperature, direction)
    objective.teach_with(Fixed(teacher))
    model = Fixed(student)
    return objective.losses(model, batch()), model


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_losses_are_those_taken_number_by_number(
    direction: Direction, temperature: float, weight: float
) -> None:
    student, teacher = drawn(1), drawn(2)
    found, _ = run(student, teacher, (weight, temperature, direction))
    expected = reference(student, teacher, batch().targets, (weight, temperature, direction))
    assert found.values.dtype == torch.float32
    losses, entropies, divergences = (list(part) for part in zip(*expected, strict=True))
    assert found.values.flatten().tolist() == pytest.approx(losses, rel=1e-5, abs=1e-6)
    assert found.measures is not None
    assert not found.measures.requires_grad
    sums = [sum(entropies), sum(divergences)]
    assert found.measures.tolist() == pytest.approx(sums, rel=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_is_that_of_the_plain_formula(
    direction: Direction, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two rows at a time, so that the last chunk is short.
    monkeypatch.setattr(distillation, "_MOST_ELEMENTS", 3 * VOCABULARY)
    weight, temperature = 0.4, 1.7
    student, teacher = drawn(3).to(dtype), drawn(4).to(dtype)
    scales = torch.linspace(0.5, 2.0, ROWS * TIME).view(ROWS, TIME)
    targets = batch().targets
    chunked = student.clone().requires_grad_()
    values, _, _ = divergence_losses(
        chunked,
        teacher,
        targets,
        weight=weight,
        temperature=temperature,
        direction=direction,
    )
    (values * scales).sum().backward()  # type: ignore[no-untyped-call]  # torch's
    plain = student.double().requires_grad_()
    log_q = torch.log_softmax(plain / temperature, dim=-1)
    log_p = torch.log_softmax(teacher.double() / temperature, dim=-1)
    pairs = {"forward": (log_p, log_q), "reverse": (log_q, log_p)}
    first, second = pairs[direction]
    divergence = (first.exp() * (first - second)).sum(-1)
    picked = torch.log_softmax(plain, dim=-1).gather(-1, targets.clamp(min=0).unsqueeze(-1))
    mixed = (weight - 1) * picked.squeeze(-1) + weight * temperature**2 * divergence
    (mixed * scales * (targets != -100)).sum().backward()  # type: ignore[no-untyped-call]  # torch's
    assert chunked.grad is not None
    assert plain.grad is not None
    assert chunked.grad.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(chunked.grad.double(), plain.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_teacher_that_is_the_student_has_nothing_to_teach(direction: Direction) -> None:
    logits = drawn(5)
    found, model = run(logits, logits.clone(), (1.0, 2.0, direction))
    assert found.values.abs().max() < 1e-5
    found.values.sum().backward()  # type: ignore[no-untyped-call]  # torch's
    [parameter] = model.parameters()
    assert parameter.grad is not None
    assert parameter.grad.abs().max() < 1e-6


def test_teacher_gets_no_gradient() -> None:
    objective = Distillation("phase:before")
    teacher = Fixed(drawn(6))
    objective.teach_with(teacher)
    losses = objective.losses(Fixed(drawn(7)), batch())
    losses.values.sum().backward()  # type: ignore[no-untyped-call]  # torch's
    assert teacher.logits.grad is None


def test_metrics_are_the_measures_and_the_cross_entropy_is_one_of_them() -> None:
    objective = Distillation("phase:before")
    means = {"loss": 3.0, "cross_entropy": 2.0, "kl": 1.0}
    assert objective.metrics(means) == {"cross_entropy": 2.0, "kl": 1.0}
    assert objective.cross_entropy in objective.measures


# Not ru_maxrss, which begins with the memory of the process that starts this one.
_MEASURE = r"""
import pathlib, re, torch
from phaseline.objectives import distillation
from phaseline.objectives.distillation import divergence_losses

distillation._MOST_ELEMENTS = 1 << 20
torch.set_num_threads(1)
rows, vocabulary = 2048, 16384
logits = torch.full((1, rows, vocabulary), 0.5).requires_grad_()
taught = torch.ones(1, rows, vocabulary)
targets = torch.zeros(1, rows, dtype=torch.int64)
status = pathlib.Path("/proc/self/status")
peak = lambda: 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
before = peak()
values, _, _ = divergence_losses(
    logits, taught, targets, weight=0.5, temperature=2.0, direction="DIRECTION"
)
torch.autograd.grad(values.sum(), logits)
print((peak() - before) / (4 * rows * vocabulary))
"""


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_beside_the_logits_their_gradient_alone_is_held_whole(direction: Direction) -> None:
    # In a process of its own: the most memory that a process ever had never goes down. What is
    # freed goes back at once, so that holes in the heap do not count.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    program = _MEASURE.replace("DIRECTION", direction)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    # The plain formula holds 6.
    copies = float(done.stdout)
    assert 0.5 < copies < 1.4
