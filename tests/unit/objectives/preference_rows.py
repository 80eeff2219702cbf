"""Batches of preferences for tests, and what both answers of a pair are worth by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from phaseline.data.batch import Batch
from phaseline.data.batch_arrays import BatchAssembler
from phaseline.data.cutting import build_rows
from phaseline.data.rows import Rows
from unit.data.stores import EOS, LEARNT_FROM, side_of

LENGTH, VOCAB_SIZE = 48, 1000
Answers = list[list[int]]
"""Of each pair the chosen sequence and then the rejected, prompts included, without their ends."""


def drawn_answers(num_pairs: int, seed: int = 0) -> Answers:
    """Pairs that share a prompt and have answers of many lengths, most of which fit in a row."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(num_pairs):
        prompt = generator.integers(0, LEARNT_FROM, generator.integers(1, 6)).tolist()
        for _ in range(2):
            size = generator.integers(1, 11)
            found.append([*prompt, *generator.integers(LEARNT_FROM, EOS, size).tolist()])
    return found


def rows_of(answers: Answers, *, is_packed: bool = True) -> Rows:
    return build_rows("preferences", side_of(answers), LENGTH, is_packed=is_packed)


def batches_of(
    rows: Rows, micro_size: int | None = None, *, num_filler: int = 0
) -> Iterator[Batch]:
    """All rows in order, so many at a time; the last batch is filled up."""
    micro_size = micro_size or rows.num_rows + num_filler
    assembler = BatchAssembler([rows], sequence_length=LENGTH, pad_id=0, is_separate=True)
    ids = np.stack([np.zeros(rows.num_rows, np.int64), np.arange(rows.num_rows)], axis=1)
    for first in range(0, rows.num_rows, micro_size):
        yield Batch.from_arrays(assembler.assemble(ids[first : first + micro_size], micro_size))


def filler_of(rows: Rows, num_rows: int) -> Batch:
    assembler = BatchAssembler([rows], sequence_length=LENGTH, pad_id=0, is_separate=True)
    return Batch.from_arrays(assembler.assemble(np.zeros((0, 2), np.int64), num_rows))


def alone(answers: Answers) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs of every sequence and the places of the targets that are learnt."""
    for sequence in answers:
        tokens = torch.tensor([*sequence, EOS])
        yield tokens, torch.nonzero(tokens[1:] >= LEARNT_FROM).flatten()


def logps_alone(module: Any, answers: Answers) -> torch.Tensor:
    """Log-probability of each learnt token added up, one sequence at a time. [pairs, 2]"""
    sums = []
    for tokens, places in alone(answers):
        logits = module(input_ids=tokens[None, :-1], use_cache=False).logits[0]
        sums.append(sum(logits.log_softmax(-1)[place, tokens[place + 1]] for place in places))
    return torch.stack([torch.as_tensor(value) for value in sums]).view(-1, 2)


def lengths_alone(answers: Answers) -> torch.Tensor:
    return torch.tensor([float(len(places)) for _, places in alone(answers)]).view(-1, 2)


def tiny_llama(seed: int = 0) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    built = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(2.0)
    return built.float().train()


class Given(torch.nn.Module):
    """Answers with log-probabilities that somebody has thought up, each spread over its answer."""

    def __init__(self, logps: Sequence[float], answers: Answers) -> None:
        super().__init__()
        lengths = [len(places) for _, places in alone(answers)]
        self.each = [-logp / length for logp, length in zip(logps, lengths, strict=True)]
        self.batch: Batch | None = None

    @contextmanager
    def losses_of(self, _targets: torch.Tensor) -> Iterator[None]:
        yield

    def forward(self, input_ids: torch.Tensor) -> Any:
        batch = self.batch
        assert batch is not None
        assert batch.document_ids is not None
        assert batch.pair_ids is not None
        losses = torch.zeros(input_ids.shape)
        for row, time in torch.nonzero(batch.targets != -100).tolist():
            document = int(batch.document_ids[row, time])
            pair = int(batch.pair_ids[row, document // 2])
            losses[row, time] = self.each[2 * pair + document % 2]
        return SimpleNamespace(logits=losses)
