"""Preparation: every source of every phase becomes a store in the cache. No torch.

All processes of a machine may prepare at once: one works, the others wait. Preparing what is
prepared already only identifies the sources again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from phaseline.data.cache import Cache, Proceed, Report, always_proceed
from phaseline.data.cutting import build_rows
from phaseline.data.fingerprints import fingerprint_of
from phaseline.data.rows import Rows
from phaseline.data.sources import (
    Source,
    build_filtered_source,
    check_source,
    describe_source,
)
from phaseline.data.store import STORE_VERSION, SplitData, Store, read_store, write_store
from phaseline.data.tokenizer import Tokenizer, build_tokenizer
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from phaseline.config.data_section import SourceSection
    from phaseline.config.sections import Config, PhaseSection

_STORES = "stores"


@dataclass(frozen=True)
class PhaseRows:
    """Rows of one source in one phase.

    Attributes:
        fingerprint: Names the store's content.
        store: Where the rows are cut from.
        train: Rows of the phase's sequence length.
        held_out: Rows of its evaluation's sequence length.
    """

    fingerprint: str
    store: Store
    train: Rows
    held_out: Rows


def prepare(config: Config, report: Report, proceed: Proceed = always_proceed) -> None:
    """Prepares the data of all phases, as far as it is not in the cache.

    Args:
        config: The session.
        report: Told what is done, and what each phase has to train and validate on.
        proceed: Called between documents; what it raises ends the preparation. What was
            finished by then stays in the cache, and nothing half-done does.

    Raises:
        DataError: A source cannot be used, or leaves a phase nothing to train or validate on.
    """
    cache = Cache.of_user()
    proceed()
    tokenizer = build_tokenizer(config.tokenizer, cache, report, proceed)
    sources = _Sources()
    for phase in config.phases:
        sources.require_one_shape(phase)
        for request in _store_requests(config, phase, tokenizer, sources):
            build = partial(request.build, report, proceed)
            entry = cache.obtain(_STORES, request.fingerprint, build, report, proceed)
            proceed()
            rows = _cut(phase, request, entry)
            description = _describe(rows, phase.data.sequence_length)
            report(f"phase {phase.name}: {request.name}: {description}")


def open_rows(config: Config, phase: PhaseSection, tokenizer: Tokenizer) -> list[PhaseRows]:
    """Opens what `prepare` made for one phase, in the order of its sources.

    Raises:
        DataError: It is not there: the source or the cache changed since.
    """
    cache, sources = Cache.of_user(), _Sources()
    opened = []
    for request in _store_requests(config, phase, tokenizer, sources):
        entry = cache.find(_STORES, request.fingerprint)
        if entry is None:
            raise DataError(
                f"phase {phase.name}: data source {request.name!r} is not prepared: there is no "
                f"{_STORES}/{request.fingerprint} in {cache.root}. Start the session again, which "
                "prepares it; if this recurs, the source's content changes all the time."
            )
        opened.append(_cut(phase, request, entry))
    return opened


@dataclass(frozen=True)
class _StoreRequest:
    """All that decides the content of one store."""

    name: str
    source: Source
    source_fingerprint: str
    tokenizer: Tokenizer
    seed: int
    held_out_frac: float

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(
            STORE_VERSION,
            self.source_fingerprint,
            self.tokenizer.fingerprint,
            self.seed,
            self.held_out_frac,
        )

    def build(self, report: Report, proceed: Proceed, folder: Path) -> None:
        check_source(self.source)
        report(f"preparing {self.name}{describe_source(self.source)}")
        write_store(
            folder,
            self.source,
            self.tokenizer,
            seed=self.seed,
            held_out_frac=self.held_out_frac,
            proceed=proceed,
        )


class _Sources:
    """Builds and identifies every source once, however many phases use it."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Source, str]] = {}

    def find(self, section: SourceSection) -> tuple[Source, str]:
        """The source and its fingerprint."""
        key = repr((section.source, section.arguments, section.filters))
        if key not in self._known:
            source = build_filtered_source(section)
            self._known[key] = (source, source.fingerprint())
        return self._known[key]

    def require_one_shape(self, phase: PhaseSection) -> None:
        """Raises DataError if a phase mixes texts and pairs."""
        shapes = [(section.source, self.find(section)[0].shape) for section in phase.data.sources]
        if len({shape for _, shape in shapes}) > 1:
            found = ", ".join(f"{name} gives {shape}" for name, shape in shapes)
            raise DataError(
                f"phase {phase.name}: its data sources have different shapes: {found}. "
                "Mix sources of one shape, or put them into phases of their own."
            )


def _store_requests(
    config: Config, phase: PhaseSection, tokenizer: Tokenizer, sources: _Sources
) -> Iterator[_StoreRequest]:
    for section in phase.data.sources:
        source, fingerprint = sources.find(section)
        yield _StoreRequest(
            section.source,
            source,
            fingerprint,
            tokenizer,
            config.session.seed,
            phase.data.held_out_frac,
        )


def _cut(phase: PhaseSection, request: _StoreRequest, entry: Path) -> PhaseRows:
    store = read_store(entry)
    train_length = phase.data.sequence_length
    held_out_length = phase.evaluate.sequence_length or train_length
    cut = partial(build_rows, store.shape, is_packed=phase.data.packing)
    rows = PhaseRows(
        request.fingerprint,
        store,
        cut(store.train, train_length, is_ordered=phase.data.order == "sequential"),
        cut(store.held_out, held_out_length),
    )
    sides = (
        ("train on", store.train, rows.train, train_length),
        ("validate on", store.held_out, rows.held_out, held_out_length),
    )
    for purpose, data, side_rows, length in sides:
        if side_rows.num_rows == 0:
            raise DataError(_nothing_left(phase, request, purpose, data, length))
    return rows


def _nothing_left(
    phase: PhaseSection, request: _StoreRequest, purpose: str, data: SplitData, length: int
) -> str:
    return (
        f"phase {phase.name}: data source {request.name!r} leaves nothing to {purpose}: "
        f"{data.num_documents} documents with {len(data.tokens)} tokens on that side of the "
        f"split give no sequence of {length} tokens. Use more documents, another "
        f"`held_out_frac` (it is {request.held_out_frac}), or a shorter sequence length."
    )


def _describe(rows: PhaseRows, sequence_length: int) -> str:
    """What a phase gets from one source, in a line."""
    store = rows.store
    sides = (
        ("train", store.train, rows.train),
        ("held out", store.held_out, rows.held_out),
    )
    parts = [
        f"{label} {data.num_documents:,} documents, {len(data.tokens):,} tokens, "
        f"{side_rows.num_rows:,} sequences"
        for label, data, side_rows in sides
    ]
    useful = rows.train.num_useful / (rows.train.num_rows * sequence_length)
    parts[0] += f", {useful:.1%} of positions useful"
    dropped = dict(store.dropped)
    num_too_long = rows.train.num_dropped + rows.held_out.num_dropped
    if num_too_long:
        dropped["nothing to learn fits the sequence"] = num_too_long
    parts += [f"dropped {count:,} ({reason})" for reason, count in dropped.items()]
    num_truncated = rows.train.num_truncated + rows.held_out.num_truncated
    if num_truncated:
        parts.append(f"cut {num_truncated:,} at the end to fit the sequence")
    return "; ".join(parts)
