"""Text that a model writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from phaseline.distributed.seeding import position_seed, seed_all
from phaseline.models.compilation import eager


class Coder(Protocol):
    """What generation needs of a tokenizer."""

    @property
    def eos_id(self) -> int:
        """The token that ends a text."""

    @property
    def pad_id(self) -> int:
        """The token that fills a row."""

    def encode(self, text: str) -> list[int]:
        """Text to tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """Tokens to text."""


@dataclass(frozen=True)
class Sample:
    """A prompt and what the model wrote after it."""

    prompt: str
    completion: str
    complete: bool
    """Whether the model ended it by itself."""


def most_new_tokens(module: Any) -> int | None:
    """Tokens that a model can write after one: it has no positions for more. None: no limit."""
    longest = getattr(getattr(module, "config", None), "max_position_embeddings", None)
    return max(1, longest - 1) if isinstance(longest, int) else None


@torch.no_grad()
def generate(
    module: Any,
    coder: Coder,
    prompts: Sequence[tuple[int, str]],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    in_step: bool = False,
    is_unwanted: Callable[[], bool] = lambda: False,
    until: Sequence[str] = (),
) -> list[Sample]:
    """Continues each prompt by itself, so that a sample depends on nothing but its own index.

    Args:
        module: A bare transformers model, in evaluation mode.
        coder: The tokenizer.
        prompts: Index and text of each.
        max_new_tokens: Tokens per sample, at most; fewer where the model has fewer positions.
        temperature: 0 takes the most likely token.
        seed: Of the position; each prompt's index is mixed in.
        in_step: Whether the ranks hold the model in parts, so that each must run as many
            forwards as the one that has most to write. Every rank then gives as many prompts.
        is_unwanted: Asked after every token; once it says so, a sample ends where it is.
        until: Texts that end a sample, which then stops before the first of them.

    Returns:
        One sample per prompt, in order.
    """
    device = next(module.parameters()).device
    most = most_new_tokens(module)
    room = max_new_tokens if most is None else min(max_new_tokens, most)
    num_given = 0

    def is_cut(ids: torch.Tensor, _scores: object, **_unused: object) -> torch.Tensor:
        ends = is_unwanted()
        if until and not ends:
            written = coder.decode(ids[0, num_given:].tolist())
            ends = any(text in written for text in until)
        return torch.full((len(ids),), ends, dtype=torch.bool, device=ids.device)

    samples = []
    for idx, prompt in prompts:
        ids = coder.encode(prompt) or [coder.eos_id]
        if most is not None:
            ids = ids[-(most + 1 - room) :]
        num_given = len(ids)
        seed_all(position_seed(seed, idx), device)
        inputs = torch.tensor([ids], device=device)
        arguments = {"temperature": temperature} if temperature > 0 else {}
        with eager(module):
            output = module.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=room,
                do_sample=temperature > 0,
                eos_token_id=coder.eos_id,
                pad_token_id=coder.pad_id,
                synced_gpus=in_step,
                stopping_criteria=[is_cut],
                **arguments,
            )
        written = output[0, num_given:].tolist()
        text = coder.decode([token for token in written if token != coder.eos_id])
        kept = _before(text, until)
        complete = coder.eos_id in written or kept != text
        samples.append(Sample(prompt, kept, complete))
    return samples


def _before(text: str, ends: Sequence[str]) -> str:
    """What stands before the first of some texts."""
    return text[: min((text.find(end) for end in ends if end in text), default=len(text))]
