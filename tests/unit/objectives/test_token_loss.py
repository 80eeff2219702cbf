from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from phaseline.data.batch import Batch
from phaseline.errors import ConfigurationError
from phaseline.objectives import Objective, build_objective, require_shape
from phaseline.objectives.causal_lm import CausalLM
from phaseline.objectives.sft import SupervisedFineTuning


class Answering(torch.nn.Module):
    """Answers with losses while it has targets: ten times the target."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: torch.Tensor | None = None

    @contextmanager
    def losses_of(self, targets: torch.Tensor) -> Iterator[None]:
        self.targets = targets
        yield
        self.targets = None

    def forward(self, input_ids: torch.Tensor) -> Any:
        assert self.targets is not None
        assert self.targets.shape == input_ids.shape
        return SimpleNamespace(logits=10.0 * self.targets)


class Fixed(torch.nn.Module):
    """Answers with given logits, bare or as transformers does."""

    def __init__(self, logits: torch.Tensor, *, wrapped: bool = False) -> None:
        super().__init__()
        self.logits, self.wrapped = logits, wrapped
        self.arguments: dict[str, Any] = {}

    def forward(self, input_ids: torch.Tensor, **arguments: Any) -> Any:
        assert input_ids.dtype == torch.int64
        self.arguments = arguments
        return SimpleNamespace(logits=self.logits) if self.wrapped else self.logits


def reference(logits: torch.Tensor, targets: torch.Tensor) -> list[list[float]]:
    """Minus log of the softmax, number by number."""
    return [
        [
            0.0 if target == -100 else math.log(sum(math.exp(x) for x in row)) - row[target]
            for row, target in zip(rows, row_targets, strict=True)
        ]
        for rows, row_targets in zip(logits.tolist(), targets.tolist(), strict=True)
    ]


@pytest.mark.parametrize("name", ["causal_lm", "sft"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_token_losses_equal_the_definition_and_are_zero_where_ignored(
    name: str, wrapped: bool
) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5)
    targets = torch.tensor([[1, -100, 4, 0], [-100, -100, -100, 2]])
    rows = Batch(torch.zeros(2, 4, dtype=torch.int64), targets, 2)
    losses = build_objective(name, path="p").losses(Fixed(logits, wrapped=wrapped), rows).values
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, torch.tensor(reference(logits, targets)))
    assert losses[targets == -100].tolist() == [0.0] * 4


def test_token_losses_have_no_gradient_where_ignored() -> None:
    logits = torch.randn(1, 3, 5, requires_grad=True)
    rows = Batch(torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[-100, 2, -100]]), 1)
    CausalLM().token_losses(Fixed(logits), rows).sum().backward()  # type: ignore[no-untyped-call]  # torch does not type it
    assert logits.grad is not None
    assert [bool(row.any()) for row in logits.grad[0]] == [False, True, False]


def test_token_losses_are_fp32_when_the_logits_are_not() -> None:
    rows = Batch(torch.zeros(1, 1, dtype=torch.int64), torch.tensor([[3]]), 1)
    logits = torch.zeros(1, 1, 8, dtype=torch.bfloat16)
    losses = CausalLM().token_losses(Fixed(logits), rows)
    assert losses.dtype == torch.float32
    assert float(losses) == pytest.approx(math.log(8))


def test_token_losses_of_a_batch_of_filler_are_zero_and_can_be_trained_on() -> None:
    logits = torch.randn(2, 3, 5, requires_grad=True)
    rows = Batch(torch.zeros(2, 3, dtype=torch.int64), torch.full((2, 3), -100), 0)
    loss = SupervisedFineTuning().token_losses(Fixed(logits), rows).sum()
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_token_losses_ask_transformers_for_no_cache() -> None:
    model = Fixed(torch.zeros(1, 1, 4))
    rows = Batch(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64), 1)
    CausalLM().token_losses(model, rows)
    assert model.arguments == {}
    model.generation_config = torch.nn.Module()
    CausalLM().token_losses(model, rows)
    assert model.arguments == {"use_cache": False}


@pytest.mark.parametrize("wrapped", [False, True])
def test_token_losses_are_the_models_own_when_it_takes_targets(wrapped: bool) -> None:
    model = Answering()
    rows = Batch(torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[3, 4]]), 1)
    through = torch.nn.DataParallel(model) if wrapped else model
    losses = CausalLM().token_losses(through, rows)
    assert losses.tolist() == [[30.0, 40.0]]
    assert model.targets is None


def test_objective_of_ones_own_is_built_by_its_path() -> None:
    found = build_objective("phaseline.objectives.sft:SupervisedFineTuning", path="p")
    assert isinstance(found, SupervisedFineTuning)


def test_objective_of_ones_own_is_refused_on_data_of_another_shape() -> None:
    require_shape(SupervisedFineTuning(), "chats", path="p")
    with pytest.raises(
        ConfigurationError,
        match=r"phases\[1\]\.objective is sft, whose `shapes` are pairs, chats, but the phase's "
        r"data are text \(`text`\)",
    ):
        require_shape(SupervisedFineTuning(), "text", path="phases[1].objective")


def test_objective_of_ones_own_is_refused_when_it_does_not_say_what_it_trains_on() -> None:
    nameless = cast(Objective, object())
    with pytest.raises(ConfigurationError, match=r"p is object, which does not say .* `shapes`"):
        require_shape(nameless, "text", path="p")


def test_objective_is_refused_with_its_place_when_it_cannot_be_imported() -> None:
    with pytest.raises(ConfigurationError, match=r"phases\[1\]\.objective is 'json:Nope', which"):
        build_objective("json:Nope", path="phases[1].objective")


class Asking(torch.nn.Module):
    """Keeps what it is told of the documents in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[torch.Tensor | None, torch.Tensor | None]] = []

    def forward(
        self,
        input_ids: torch.Tensor,
        document_ids: torch.Tensor | None,
        position_ids: torch.Tensor | None,
    ) -> torch.Tensor:
        self.told.append((position_ids, document_ids))
        return torch.zeros(*input_ids.shape, 5)


def test_model_is_told_where_documents_begin_when_its_forward_asks() -> None:
    ids = torch.zeros(1, 5, dtype=torch.int64)
    positions = torch.tensor([[0, 1, 0, 0, 1]])
    model = Asking()
    CausalLM().token_losses(model, Batch(ids, ids, 1, position_ids=positions))
    CausalLM().token_losses(model, Batch(ids, ids, 1))
    [(told_positions, told_documents), nothing] = model.told
    assert told_positions is positions
    assert told_documents is not None
    assert told_documents.tolist() == [[0, 0, 1, 2, 2]]
    assert nothing == (None, None)
