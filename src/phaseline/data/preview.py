"""Samples as a phase will learn them: decoded from their tokens, with the mask visible."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import numpy as np

from phaseline.data.cache import Cache, Report
from phaseline.data.encoding import Dropped, EncodedSample, EncodedSequence, SampleEncoder
from phaseline.data.labels import Form
from phaseline.data.sources import build_source
from phaseline.data.tokenizer_building import build_tokenizer

if TYPE_CHECKING:
    from phaseline.config.sections import Config, PhaseSection
    from phaseline.data.sources import Source
    from phaseline.data.tokenizer import Tokenizer

_NAMES = {1: ("",), 2: ("chosen", "rejected")}


@dataclass(frozen=True)
class Run:
    """Tokens that follow each other and are all learnt or all only read.

    Attributes:
        text: As they are decoded, special tokens written out.
        is_learnt: Whether they are predicted.
    """

    text: str
    is_learnt: bool


@dataclass(frozen=True)
class PreviewedSequence:
    """One sequence of a sample.

    Attributes:
        source: The source's name.
        sample_id: The sample's id.
        name: Which of the sample's sequences; empty if it has one.
        num_tokens: Tokens, the learnt ones included.
        num_learnt: Tokens that are predicted.
        runs: What is read and what is learnt, in order.
        dropped: Why the sample is left out; empty if it is not.
        label: Its class and, if it has one, the class's name; empty of samples without.
        numbers: Shape, type and range of an image or a row of features; empty of texts.
    """

    source: str
    sample_id: str
    name: str = ""
    num_tokens: int = 0
    num_learnt: int = 0
    runs: tuple[Run, ...] = ()
    dropped: str = ""
    label: str = ""
    numbers: str = ""


def preview(
    config: Config, phase: PhaseSection, num_samples: int, report: Report
) -> Iterator[PreviewedSequence]:
    """Encodes the first samples of each source of a phase.

    Args:
        config: The session.
        phase: The phase.
        num_samples: So many of each source.
        report: Told if a tokenizer has to be made first.

    Raises:
        DataError: A source or a sample cannot be used.
    """
    cache = Cache.configured(config.preparation)
    tokenizer = build_tokenizer(config.tokenizer, cache, report)
    encoder = SampleEncoder(tokenizer, phase.data.learn)
    for section in phase.data.sources:
        source = build_source(section.source, section.arguments)
        for sample in islice(source.samples(), num_samples):
            (encoded,) = encoder.encode([sample])
            if isinstance(encoded, Dropped):
                yield PreviewedSequence(section.source, sample.id, dropped=encoded.reason)
                continue
            if encoded.label is not None:
                yield _labelled(section.source, sample.id, encoded, source, tokenizer)
                continue
            names = _NAMES[len(encoded.sequences)]
            for name, sequence in zip(names, encoded.sequences, strict=True):
                runs = tuple(_runs(sequence, tokenizer))
                yield PreviewedSequence(
                    section.source,
                    sample.id,
                    name,
                    len(sequence.tokens),
                    int(_mask(sequence).sum()),
                    runs,
                )


def _labelled(
    source_name: str, sample_id: str, sample: EncodedSample, source: Source, tokenizer: Tokenizer
) -> PreviewedSequence:
    label, names = sample.label, getattr(source, "classes", None)
    assert label is not None
    name = names[label] if names and label < len(names) else str(label)
    words = str(label) if name == str(label) else f"{label} ({name})"
    if sample.numbers is not None:
        form = Form(sample.numbers.dtype.str, sample.numbers.shape)
        numbers = f"{form}, {sample.numbers.min():g} to {sample.numbers.max():g}"
        return PreviewedSequence(source_name, sample_id, label=words, numbers=numbers)
    [sequence] = sample.sequences
    text = tokenizer.decode(sequence.tokens.tolist(), special=True)
    return PreviewedSequence(
        source_name,
        sample_id,
        num_tokens=len(sequence.tokens),
        runs=(Run(text, is_learnt=False),),
        label=words,
    )


def _runs(sequence: EncodedSequence, tokenizer: Tokenizer) -> Iterator[Run]:
    mask = _mask(sequence)
    edges = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(mask)]
    for first, last in pairwise(edges):
        text = tokenizer.decode(sequence.tokens[first:last].tolist(), special=True)
        yield Run(text, bool(mask[first]))


def _mask(sequence: EncodedSequence) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.ones(len(sequence.tokens), bool) if sequence.learnt is None else sequence.learnt
