"""What a session file may say of data: the tokenizer, sources, and how samples become rows."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Literal

from pydantic import Field

from phaseline.config.bounds import Characters, Processes, SequenceLength, Share
from phaseline.config.path_text import PathText
from phaseline.config.section import Section


class TrainingText(Section):
    """A source whose text a tokenizer is trained on."""

    source: str = Field(
        examples=["python_stdlib"], description="Registered name or `module:attribute`."
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="The source's arguments.")


class TrainTokenizer(Section):
    """A byte-level BPE tokenizer that is trained on sources and cached."""

    source: str | None = Field(
        None,
        examples=["python_stdlib"],
        description="Data source whose text it is trained on; or several as `sources`.",
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="The source's arguments.")
    sources: tuple[TrainingText, ...] = Field(
        (),
        examples=["[{source: python_stdlib}]"],
        description="Several sources, read one after the other, instead of `source`.",
    )
    vocab_size: int = Field(
        4096,
        ge=260,
        le=1_000_000,
        description="Entries in the vocabulary, special tokens included.",
    )

    @property
    def texts(self) -> tuple[TrainingText, ...]:
        """The sources, whichever way they are written."""
        if self.source is None:
            return self.sources
        return (TrainingText(source=self.source, arguments=self.arguments),)


class TokenizerSection(Section):
    """How text becomes tokens: `pretrained`, `train`, or plain bytes if neither is given."""

    pretrained: PathText | None = Field(
        None,
        min_length=1,
        examples=["models/base"],
        description="A folder that transformers saved a tokenizer in, relative to the folder you "
        "start in, or the name of a model on the Hugging Face hub. A hub model is looked for on "
        "this machine first; what was found once needs no network again.",
    )
    revision: str | None = Field(
        None, examples=["main"], description="Commit, branch or tag of a hub model; null: main."
    )
    train: TrainTokenizer | None = Field(
        None, description="Train a byte-level BPE and cache it; null: one token per byte."
    )
    eos: str | None = Field(
        None,
        min_length=1,
        examples=["'<|endoftext|>'"],
        description="Token that ends a sequence; null: the pretrained tokenizer's, else `<eos>`.",
    )
    pad: str | None = Field(
        None,
        min_length=1,
        examples=["'<pad>'"],
        description="Token that fills rows up; null: the pretrained tokenizer's, or its eos where "
        "it has none; else `<pad>`.",
    )
    special_tokens: tuple[str, ...] = Field(
        (),
        examples=["['<think>', '</think>']"],
        description="Further tokens that no text becomes, only a chat template's own words.",
    )
    chat_template: str | None = Field(
        None,
        min_length=1,
        examples=["chat.jinja"],
        description="How chats are written: a jinja template, or the path of a file with one. "
        "null: the pretrained tokenizer's; else turns as `<|im_start|>role`, the text and the eos "
        "token.",
    )


Learn = Literal["answers", "all"]


class FiltersSection(Section):
    """What of a source is kept. What is left out is counted by reason."""

    min_chars: Characters | None = Field(
        None, examples=["200"], description="Samples with fewer characters are left out."
    )
    max_chars: Characters | None = Field(
        None, examples=["100_000"], description="Samples with more are left out."
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
    weight: Share = Field(1.0, description="Share of the samples, relative to the others.")


class HeldOutSection(Section):
    """What is only validated on, where it is not a share: exactly one of `ids` and `source`."""

    ids: tuple[str, ...] = Field(
        (),
        examples=["['*/test/*']"],
        description="Documents whose id matches one of these patterns, written as for file "
        "names; `*` also stands for slashes.",
    )
    source: str | None = Field(
        None,
        examples=["text_files"],
        description="A source of its own, all of which is held out; the others are all trained on.",
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="The source's arguments.")


class DataSection(Section):
    """What a phase trains on."""

    sources: tuple[SourceSection, ...] = Field(
        min_length=1,
        examples=["[{source: python_stdlib}]"],
        description="The mixture. `source: NAME` with `arguments` and `filters` stands for a "
        "single one.",
    )
    sequence_length: SequenceLength | None = Field(
        None,
        examples=["256"],
        description="Tokens per sequence; only images and rows of features have none.",
    )
    held_out_frac: float = Field(
        0.02,
        gt=0,
        lt=1,
        description="Share of the documents that is only ever validated on; has no effect with "
        "`held_out`.",
    )
    held_out: HeldOutSection | None = Field(
        None, examples=["{ids: ['*/test/*']}"], description="What is held out instead of a share."
    )
    learn: Learn = Field(
        "answers",
        description="Of pairs and chats: `answers` learns completions and the assistant's turns, "
        "`all` learns every token. Of text every token is learnt, of preferences the answers.",
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
    scale_images: bool = Field(
        True,
        description="Pixels, which are whole numbers from 0 to 255, are divided by 255; false: the "
        "model gets them as they are.",
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
    def tokens_per_row(self) -> int:
        """What a row counts in positions, durations and speeds: 1 where it holds no tokens."""
        return self.sequence_length or 1

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


class PreparationSection(Section):
    """How data is prepared. What comes out does not depend on it."""

    processes: Processes | None = Field(
        None,
        examples=["8"],
        description="Processes that tokenise, besides the one that reads; null: one per core.",
    )
    cache: PathText | None = Field(
        None,
        min_length=1,
        examples=["/scratch/phaseline"],
        description="Folder that prepared data is kept in, shared by all sessions that name it; "
        "null: $PHASELINE_CACHE, else ~/.cache/phaseline.",
    )
