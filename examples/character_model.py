"""A model and a data set of your own, without transformers.

session: {name: characters}
model: {factory: "character_model:build", arguments: {width: 32}}
phases:
  - name: names
    objective: causal_lm
    duration: 20 steps
    data:
      source: "character_model:PlaceNames"
      sequence_length: 16
      held_out_frac: 0.2
      separate_documents: false  # a recurrent network sees what comes before, other names too
    batch: {global_size: 16, micro_size: 8}
    optimizer: {lr: 1e-2}
    engine: {kind: plain}
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from phaseline.data.sources import Document

_BEGINNINGS = ("Ald", "Bex", "Cran", "Dor", "East", "Fern", "Glen", "Hart", "Inver", "Kings")
_ENDINGS = ("borough", "bury", "by", "combe", "field", "ford", "ham", "mouth", "stead", "wick")


class CharacterModel(torch.nn.Module):
    """A recurrent network over tokens; without a trained tokenizer a token is one byte."""

    def __init__(self, vocab_size: int, width: int) -> None:
        """Makes the layers.

        Args:
            vocab_size: Entries of the tokenizer.
            width: Of the hidden state.
        """
        super().__init__()
        self.embed = torch.nn.Embedding(vocab_size, width)
        self.recurrent = torch.nn.GRU(width, width, batch_first=True)
        self.head = torch.nn.Linear(width, vocab_size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns logits. [batch, sequence] to [batch, sequence, vocabulary]"""
        hidden, _ = self.recurrent(self.embed(ids))
        logits: torch.Tensor = self.head(hidden)
        return logits


def build(vocab_size: int, width: int) -> torch.nn.Module:
    """What `model.factory` names: called with the tokenizer's size and `model.arguments`."""
    return CharacterModel(vocab_size, width)


class PlaceNames:
    """Names that could be on a map, each a document."""

    shape = "text"

    def fingerprint(self) -> str:
        """Changes when what `samples` yields does; raise the number when you edit it."""
        return "place-names-1"

    def samples(self) -> Iterator[Document]:
        """Yields every name, always in the same order."""
        for beginning in _BEGINNINGS:
            for ending in _ENDINGS:
                yield Document(id=beginning + ending, text=beginning + ending)
