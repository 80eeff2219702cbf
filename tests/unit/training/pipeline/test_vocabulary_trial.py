"""Models of the user's own that have no entry for some token, in the ways that tables are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from phaseline.errors import ConfigurationError
from phaseline.session.layout import AttemptLayout
from phaseline.training.pipeline.validation import PhaseValidation
from unit.training.phases.phase_runtimes import RuntimeMaker

_TABLES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "embedding": lambda ids, table: functional.embedding(ids, table),
    "embedding_of_torch": lambda ids, table: torch.embedding(table, ids),
    "item": lambda ids, table: table[ids],
    "item_of_a_column": lambda ids, table: table[ids, :],
    "index_select": lambda ids, table: table.index_select(0, ids.flatten()).view(*ids.shape, -1),
    "one_hot": lambda ids, table: functional.one_hot(ids, len(table)).float() @ table,
}


class Small(torch.nn.Module):
    """Knows some tokens by a table, and predicts some."""

    def __init__(self, num_taken: int, num_predicted: int, read: str = "embedding") -> None:
        super().__init__()
        self.tokens = torch.nn.Parameter(torch.randn(num_taken, 8))
        # Smaller than a vocabulary, and no fault: a model has so many positions.
        self.places = torch.nn.Embedding(40, 8)
        self.head = torch.nn.Linear(8, num_predicted)
        self._read = _TABLES[read]

    def forward(self, ids: torch.Tensor, position_ids: torch.Tensor | None = None) -> torch.Tensor:
        return self.predict(self._read(ids, self.tokens), position_ids)

    def predict(self, states: torch.Tensor, position_ids: torch.Tensor | None) -> torch.Tensor:
        if position_ids is None:
            position_ids = torch.arange(states.shape[1]).expand(states.shape[:2])
        logits: torch.Tensor = self.head(states + self.places(position_ids))
        return logits


def _try(maker: RuntimeMaker, folder: Path, build: Callable[[int], torch.nn.Module]) -> None:
    runtime = maker.make(build=build)
    PhaseValidation(runtime, AttemptLayout(1, folder)).run()


@pytest.mark.parametrize("read", _TABLES)
def test_trial_says_which_tokens_a_model_takes_when_the_tokenizer_has_more(
    maker: RuntimeMaker, tmp_path: Path, read: str
) -> None:
    name = "" if read == "one_hot" else r" \(tokens\)"
    with pytest.raises(
        ConfigurationError,
        match=rf"model takes token ids below 65{name}, but the tokenizer has 259 entries, its "
        "special tokens included. Build it for the `vocab_size`",
    ):
        _try(maker, tmp_path, lambda vocab_size: Small(65, vocab_size, read))


def test_trial_names_the_module_when_the_table_is_an_embedding(
    maker: RuntimeMaker, tmp_path: Path
) -> None:
    class Embedded(Small):
        def __init__(self, vocab_size: int) -> None:
            super().__init__(1, vocab_size)
            self.wte = torch.nn.Embedding(65, 8)

        def forward(
            self, ids: torch.Tensor, position_ids: torch.Tensor | None = None
        ) -> torch.Tensor:
            return self.predict(self.wte(ids), position_ids)

    with pytest.raises(ConfigurationError, match=r"takes token ids below 65 \(wte\.weight\)"):
        _try(maker, tmp_path, Embedded)


def test_trial_says_which_tokens_a_model_predicts_when_the_tokenizer_has_more(
    maker: RuntimeMaker, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="model predicts token ids below 65, but the tok"):
        _try(maker, tmp_path, lambda vocab_size: Small(vocab_size, 65))


@pytest.mark.parametrize("read", _TABLES)
def test_trial_lets_a_model_be_when_it_has_all_tokens(
    maker: RuntimeMaker, tmp_path: Path, read: str
) -> None:
    _try(maker, tmp_path, lambda vocab_size: Small(vocab_size, vocab_size + 5, read))
