"""What a trained model thinks of texts: how likely they are, and how it goes on with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from phaseline.data.batch import Batch
from phaseline.data.tokenizer import Tokenizer
from phaseline.errors import UsageError
from phaseline.models.generation import generate
from phaseline.objectives.base import IGNORED_TARGET
from phaseline.objectives.token_loss import run_model


@dataclass(frozen=True)
class Likelihood:
    """Of some tokens, given those before them.

    Attributes:
        log_probability: Of all of them, in nats.
        is_greedy: Whether each was the likeliest one.
    """

    log_probability: float
    is_greedy: bool


class TextScorer:
    """Scores texts and continues them, on one device."""

    def __init__(
        self, module: torch.nn.Module, tokenizer: Tokenizer, *, max_length: int, batch_size: int
    ) -> None:
        """Takes a model in evaluation mode.

        Args:
            module: The bare model, on its device.
            tokenizer: Of the session.
            max_length: Tokens that a forward may have.
            batch_size: Rows of a forward.
        """
        self._module = module
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._batch_size = batch_size
        self._device = next(module.parameters()).device

    def continuations(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """How likely each continuation is after its context.

        Spaces at the end of a context belong to the continuation, as tokens have them. A text
        without a context follows the token that ends a sequence.

        Raises:
            UsageError: A continuation is longer than the model.
        """
        rows = []
        for context, continuation in pairs:
            head, tail = self._split(context, continuation)
            if len(tail) > self._max_length:
                raise UsageError(
                    f"A continuation has {len(tail)} tokens, and the model takes "
                    f"{self._max_length}. Leave the task out."
                )
            ids = (head + tail)[-(self._max_length + 1) :]
            rows.append((ids[:-1], tail))
        return self._score(rows)

    def wholes(self, texts: Sequence[str]) -> list[float]:
        """Log-probability of each text as a whole, in nats. Every token is predicted once."""
        windows = [self._windows(self._tokenizer.encode(text)) for text in texts]
        scores = iter(self._score([row for rows in windows for row in rows]))
        return [sum(next(scores).log_probability for _ in rows) for rows in windows]

    def go_on(
        self, context: str, *, until: Sequence[str], max_new_tokens: int, temperature: float = 0.0
    ) -> str:
        """What the model writes after a context, before the first of some texts.

        Raises:
            UsageError: The model cannot write, or not so much.
        """
        if not hasattr(self._module, "generate"):
            raise UsageError(
                f"The task has the model write, and a {type(self._module).__name__} has no "
                "`generate`. Take tasks that score texts."
            )
        if max_new_tokens >= self._max_length:
            raise UsageError(
                f"The task has the model write {max_new_tokens} tokens, and it takes "
                f"{self._max_length} with what it goes on with. Set the task's "
                "generation_kwargs.max_gen_toks to less."
            )
        [sample] = generate(
            self._module,
            self._tokenizer,
            [(0, context)],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=0,
            until=until,
        )
        return sample.completion

    def _split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        num_spaces = len(context) - len(context.rstrip())
        if num_spaces:
            continuation = context[-num_spaces:] + continuation
            context = context[:-num_spaces]
        if not context:
            return [self._tokenizer.eos_id], self._tokenizer.encode(continuation)
        head = self._tokenizer.encode(context)
        return head, self._tokenizer.encode(context + continuation)[len(head) :]

    def _windows(self, ids: list[int]) -> list[tuple[list[int], list[int]]]:
        """Inputs, and the tokens that their last ones predict: each once, after all it can have."""
        stream = [self._tokenizer.eos_id, *ids]
        found, done = [], 0
        while done < len(ids):
            end = min(done + self._max_length, len(ids))
            found.append((stream[max(0, end - self._max_length) : end], ids[done:end]))
            done = end
        return found

    @torch.no_grad()
    def _score(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[Likelihood]:
        """Rows of inputs, each with what its last ones predict; long ones first."""
        found = [Likelihood(0.0, is_greedy=True)] * len(rows)
        order = [idx for idx, (_, targets) in enumerate(rows) if targets]
        order.sort(key=lambda idx: -len(rows[idx][0]))
        for first in range(0, len(order), self._batch_size):
            chosen = order[first : first + self._batch_size]
            scores = self._score_batch([rows[idx] for idx in chosen])
            for idx, score in zip(chosen, scores, strict=True):
                found[idx] = score
        return found

    def _score_batch(self, rows: Sequence[tuple[list[int], list[int]]]) -> Iterator[Likelihood]:
        width = max(len(inputs) for inputs, _ in rows)
        shape = (len(rows), width)
        inputs = torch.full(shape, self._tokenizer.pad_id, dtype=torch.int64)
        targets = torch.full(shape, IGNORED_TARGET, dtype=torch.int64)
        for row_idx, (given, wanted) in enumerate(rows):
            inputs[row_idx, : len(given)] = torch.tensor(given)
            targets[row_idx, len(given) - len(wanted) : len(given)] = torch.tensor(wanted)
        batch = Batch(inputs, targets, len(rows)).to(self._device)
        logits = run_model(self._module, batch)
        for row, wanted_row in zip(logits, batch.targets, strict=True):
            counted = wanted_row != IGNORED_TARGET
            scores = torch.log_softmax(row[counted].float(), dim=-1)
            wanted = wanted_row[counted]
            picked = scores.gather(1, wanted.unsqueeze(1)).double().sum()
            is_greedy = bool((scores.argmax(dim=1) == wanted).all())
            yield Likelihood(float(picked), is_greedy)
