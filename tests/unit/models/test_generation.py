from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from phaseline.data.tokenizer import Tokenizer
from phaseline.models.generation import Sample, generate

CODER = Tokenizer.of_bytes()


class Echo(torch.nn.Module):
    """Writes a fixed text, or random letters when it samples."""

    def __init__(self, text: str = "", *, ends: bool = True, longest: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(max_position_embeddings=longest)
        self.ids = [*CODER.encode(text), *([CODER.eos_id] if ends else [])]
        self.asked: list[dict[str, Any]] = []

    def generate(self, inputs: torch.Tensor, **arguments: Any) -> torch.Tensor:
        self.asked.append({"ids": inputs[0].tolist(), **arguments})
        if arguments["do_sample"]:
            return torch.cat([inputs, torch.randint(97, 123, (1, 8))], dim=1)
        return torch.cat([inputs, torch.tensor([self.ids])], dim=1)


def write(module: Echo, *prompts: str, temperature: float = 0.0, seed: int = 1) -> list[Sample]:
    return generate(
        module,
        CODER,
        list(enumerate(prompts)),
        max_new_tokens=8,
        temperature=temperature,
        seed=seed,
    )


@pytest.mark.parametrize("ends", [True, False])
def test_generate_gives_the_new_text_and_whether_it_ended_by_itself(ends: bool) -> None:
    assert write(Echo("été", ends=ends), "a", "b") == [
        Sample("a", "été", ends),
        Sample("b", "été", ends),
    ]


def test_generate_depends_on_nothing_but_the_prompts_own_index() -> None:
    first, second = write(Echo(), "a", "b", temperature=1.0)
    assert first.completion != second.completion
    [alone] = generate(Echo(), CODER, [(1, "b")], max_new_tokens=8, temperature=1.0, seed=1)
    assert alone == second
    assert write(Echo(), "a", temperature=1.0, seed=2)[0] != first


def test_generate_cuts_a_prompt_that_leaves_no_room() -> None:
    module = Echo("x", longest=12)
    write(module, "0123456789")
    assert module.asked[0]["ids"] == CODER.encode("6789")


@pytest.mark.parametrize(("longest", "asked"), [(12, 8), (8, 7), (3, 2), (2, 1)])
def test_generate_writes_less_when_the_model_has_fewer_positions(longest: int, asked: int) -> None:
    module = Echo("x", longest=longest)
    write(module, "0123456789")
    [call] = module.asked
    assert call["max_new_tokens"] == asked
    assert len(call["ids"]) + asked == longest


def test_generate_begins_with_the_end_of_a_text_when_the_prompt_is_empty() -> None:
    module = Echo("x")
    assert write(module, "")[0].completion == "x"
    assert module.asked[0]["ids"] == [CODER.eos_id]


def test_generate_ends_a_sample_where_it_is_once_it_is_unwanted() -> None:
    module, answers = Echo("x"), [False, True]
    generate(
        module,
        CODER,
        [(0, "ab")],
        max_new_tokens=8,
        temperature=0.0,
        seed=1,
        is_unwanted=lambda: answers.pop(0),
    )
    [is_cut] = module.asked[0]["stopping_criteria"]
    ids = torch.tensor([[1, 2, 3]])
    assert [is_cut(ids, None).tolist() for _ in range(2)] == [[False], [True]]


def test_generate_gives_a_temperature_only_when_it_samples() -> None:
    module = Echo("x")
    write(module, "a")
    write(module, "a", temperature=0.5)
    greedy, sampled = module.asked
    assert "temperature" not in greedy
    assert (greedy["do_sample"], sampled["do_sample"], sampled["temperature"]) == (False, True, 0.5)
