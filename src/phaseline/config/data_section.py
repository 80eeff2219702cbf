"""What a session file may say of data: the tokenizer, sources, and how samples become rows."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Literal

from pydantic import Field

from phaseline.config.section import Section


class TrainTokenizer(Section):
    """A byte-level BPE tokenizer that is trained on a source and cached."""

    source: str = Field(
        examples=["python_stdlib"], description="Data source whose text it is trained on."
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="The source's arguments.")
    vocab_size: int = Field(4096, ge=260, le=1_000_000, description="Entries in the vocabulary.")


class TokenizerSection(Section):
    """How text becomes tokens: `train`, or plain bytes if it is absent."""

    train: TrainTokenizer | None = Field(
        None, description="Train a byte-level BPE and cache it; null: one token per byte."
    )


class FiltersSection(Section):
    """What of a source is kept. What is left out is counted by reason."""

    min_chars: int | None = Field(
        None, ge=1, examples=["200"], description="Samples with fewer characters are left out."
    )
    max_chars: int | None = Field(
        None, ge=1, examples=["100_000"], description="Samples with more are left out."
    )
    keep_if: str | None = Field(
        None,
        examples=["my_package.filters:is_english"],
        description="`module:attribute` of a function that takes a sample and returns whether "
        "it is kept.",
    )
    deduplicate: bool = Field(
        False, description="Of samples that are equal but for their ids, only the first is kept."
    )

    @property
    def is_given(self) -> bool:
        """Whether anything could be left out."""
        return self != FiltersSection()


class SourceSection(Section):
    """One source of samples and its share of the mixture."""

    source: str = Field(
        examples=["python_stdlib"], description="Registered name or `module:attribute`."
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="The source's arguments.")
    filters: FiltersSection = FiltersSection()
    weight: float = Field(1.0, gt=0, description="Share of the samples, relative to the others.")


class DataSection(Section):
    """What a phase trains on."""

    sources: tuple[SourceSection, ...] = Field(
        min_length=1,
        examples=["[{source: python_stdlib}]"],
        description="The mixture. `source: NAME` with `arguments` and `filters` stands for a "
        "single one.",
    )
    sequence_length: int = Field(ge=8, examples=["256"], description="Tokens per sequence.")
    held_out_frac: float = Field(
        0.02, gt=0, lt=1, description="Share of the documents that is only ever validated on."
    )
    packing: bool = Field(
        True,
        description="Put several documents into one sequence: texts end to end, others as they fit "
        "best; false: each begins a sequence of its own, and the rest is padding.",
    )
    separate_documents: bool = Field(
        True,
        description="Documents that share a sequence do not attend to each other, and the positions "
        "of each begin at 0; false: for models that cannot keep them apart.",
    )
    order: Literal["shuffled", "sequential"] = Field(
        "shuffled",
        description="shuffled: anew in every epoch; sequential: as the sources give them, for a "
        "curriculum. Pairs are then packed as they follow each other, which wastes more positions.",
    )
    num_workers: int = Field(
        0,
        ge=0,
        le=64,
        description="Processes per rank that read batches ahead, for data on slow disks; 0: the "
        "training process reads them itself, which is faster where they are in memory.",
    )
    prefetch: int = Field(
        4, ge=1, le=1024, description="Micro-batches that each worker holds ready."
    )

    @property
    def source_names(self) -> tuple[str, ...]:
        """Of each source, as metrics are named: no two are alike."""
        names = [
            re.sub(r"\W+", "_", entry.source.rpartition(":")[2], flags=re.ASCII)
            for entry in self.sources
        ]
        count = Counter(names)
        return tuple(
            name if count[name] == 1 else f"{name}_{source_idx}"
            for source_idx, name in enumerate(names)
        )
