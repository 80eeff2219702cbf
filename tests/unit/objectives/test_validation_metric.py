from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from phaseline.errors import ConfigurationError
from phaseline.objectives.validation_metric import LogitsTap, Seen, build_metrics


class Counted:
    name = "counted"
    measures = ("units",)
    needs_logits = False

    def sums(self, seen: Seen) -> torch.Tensor:
        return seen.is_unit.sum().view(1)

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"counted": sums["units"]}


class Again(Counted):
    """Has the name of the other."""


class Shouting(Counted):
    name = "Counted!"


class Looking(Counted):
    name = "looking"
    needs_logits = True


class Nothing:
    name = "nothing"


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    """This file by a name that a configuration may have."""
    monkeypatch.setitem(sys.modules, "own_metrics", sys.modules[__name__])


def build(*names: str, has_logits: bool = True) -> tuple[Any, ...]:
    full = [f"own_metrics:{name}" for name in names]
    return build_metrics(full, path="phases[0].evaluate.metrics", has_logits=has_logits)


def test_metrics_are_built_in_order() -> None:
    assert [metric.name for metric in build("Looking", "Counted")] == ["looking", "counted"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["Missing"], r"metrics\[0\] is 'own_metrics:Missing', which cannot be imported"),
        (["Nothing"], r"which has no measures, needs_logits, sums, metrics\. Write it as"),
        (["Shouting"], r"whose name is 'Counted!'; it must be lower-case"),
        (["Counted", "Again"], r"metrics\[1\] is 'own_metrics:Again', whose name counted another"),
    ],
)
def test_what_is_no_metric_is_refused_in_words(names: list[str], expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        build(*names)


def test_metric_of_logits_is_refused_where_there_are_none() -> None:
    assert build("Counted", has_logits=False)
    with pytest.raises(ConfigurationError, match=r"needs logits, and engine\.linear_cross"):
        build("Looking", has_logits=False)


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_tap_passes_a_forward_on_and_keeps_its_logits(is_wrapped: bool, tmp_path: Path) -> None:
    class Doubling(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> Any:
            return SimpleNamespace(logits=2 * ids) if is_wrapped else 2 * ids

    model = Doubling()
    tap = LogitsTap(model)
    assert tap.module is model
    said = tap(torch.ones(2))
    assert torch.equal(said.logits if is_wrapped else said, torch.full((2,), 2.0))
    assert tap.logits is not None
    assert torch.equal(tap.logits, torch.full((2,), 2.0))
    assert LogitsTap(torch.nn.DataParallel(model)).module is model
