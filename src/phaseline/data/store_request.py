"""One store that a phase needs: what decides its content, and how it is made."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from phaseline.data.cache import Cache, Proceed, Report
from phaseline.data.encoded_chunk import ChunkEncoder, EncodedChunk, in_chunks
from phaseline.data.encoding_pool import encode_in_order
from phaseline.data.fingerprints import fingerprint_of
from phaseline.data.repeated_ids import require_distinct
from phaseline.data.shards import PARTS, Parts, Shard, find_parts, read_parts, write_part
from phaseline.data.sources import describe_source
from phaseline.data.store import STORE_VERSION
from phaseline.data.store_writing import add_reasons, finish_store, write_store
from phaseline.errors import DataError
from phaseline.session.stored import parse_object, read_file

if TYPE_CHECKING:
    from pathlib import Path

    from phaseline.config.data_section import Learn
    from phaseline.data.progress import Progress
    from phaseline.data.sources import Sample, Source
    from phaseline.data.split import SplitRule
    from phaseline.data.tokenizer import Tokenizer

STORES = "stores"

_SKIPPED_FILE = "skipped.json"


@dataclass(frozen=True)
class Workshop:
    """What all stores are made with.

    Attributes:
        cache: Where they are kept.
        num_processes: So many encode.
        report: Told what is done.
        proceed: Called between samples; what it raises ends the work.
        progress: Told how far a source is.
    """

    cache: Cache
    num_processes: int
    report: Report
    proceed: Proceed
    progress: Progress


@dataclass(frozen=True)
class StoreRequest:
    """All that decides the content of one store.

    Attributes:
        name: The source's name.
        source: The source.
        source_fingerprint: Of its content.
        tokenizer: Encodes it.
        learn: Which tokens of pairs and chats are learnt.
        rule: Which documents are held out.
    """

    name: str
    source: Source
    source_fingerprint: str
    tokenizer: Tokenizer
    learn: Learn
    rule: SplitRule

    @property
    def fingerprint(self) -> str:
        """Names the store."""
        parts = dict(self.tokenizer.parts)
        if self.source.shape not in ("chats", "preferences"):
            del parts["chat template"]
        return fingerprint_of(
            STORE_VERSION,
            self.source_fingerprint,
            sorted(parts.items()),
            self.learn if self.source.shape in ("pairs", "chats") else None,
            (self.rule.seed, self.rule.frac, self.rule.ids),
            *([self.classes] if self.source.shape == "labelled" else []),
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the source's labels, in order; empty where it does not tell."""
        return tuple(getattr(self.source, "classes", None) or ())

    def find(self, cache: Cache) -> Path | None:
        """The store, if it was made."""
        return cache.find(STORES, self.fingerprint)

    def remove_damaged(self, cache: Cache) -> Path | None:
        """Reads all of the store, and takes it away if it is damaged; the file that is."""
        return cache.remove_damaged(STORES, self.fingerprint)

    def obtain(self, shop: Workshop) -> Path:
        """The store, made now if it is not there: from the parts that shards left, or anew.

        Raises:
            DataError: The source cannot be used, or shards of it are missing.
        """
        build = partial(self._build, shop)
        entry = shop.cache.obtain(STORES, self.fingerprint, build, shop.report, shop.proceed)
        for folder in shop.cache.entries(PARTS, f"{self.fingerprint}-*of*"):
            shop.cache.remove(folder)
        return entry

    def obtain_part(self, shop: Workshop, shard: Shard) -> Parts | None:
        """Makes one shard's part of the store; the parts that there are now.

        Returns:
            None: The store is made already, and needs no parts.
        """
        if self.find(shop.cache) is not None:
            return None
        build = partial(self._build_part, shop, shard)
        name = shard.entry(self.fingerprint)
        shop.cache.obtain(PARTS, name, build, shop.report, shop.proceed)
        return find_parts(shop.cache, self.fingerprint)

    def _build(self, shop: Workshop, folder: Path) -> None:
        parts = find_parts(shop.cache, self.fingerprint)
        reading = _Reading(self, shop)
        if parts is None:
            shop.report(f"preparing {self.name}{describe_source(self.source)}")
            chunks = closing(reading.encoded())
        else:
            shop.report(f"putting {parts.count} shards of {self.name} together")
            chunks = closing(read_parts(parts, self.name))
        with chunks as every:
            facts = write_store(
                folder,
                reading.shown(every),
                name=self.name,
                shape=self.source.shape,
                vocab_size=self.tokenizer.vocab_size,
                confirm=lambda digests: require_distinct(self.source.samples(), self.name, digests),
            )
        if parts is not None:
            path = parts.folders[1] / _SKIPPED_FILE
            remedy = "Remove the folder that it is in, and prepare the shard again."
            reading.skipped = parse_object(read_file(path, remedy=remedy), path, remedy=remedy)
        self._require_classes(facts.get("classes", 0))
        if self.classes:
            facts |= {"classes": len(self.classes), "class_names": self.classes}
        dropped = Counter(facts["dropped"])
        add_reasons(dropped, reading.skipped)
        finish_store(folder, {**facts, "dropped": dict(dropped)})

    def _require_classes(self, num_seen: int) -> None:
        if self.classes and num_seen > len(self.classes):
            raise DataError(
                f"data source {self.name!r} gives the label {num_seen - 1}, but lists "
                f"{len(self.classes)} classes, so that labels end at {len(self.classes) - 1}. "
                "List all of them, or correct the labels."
            )

    def _build_part(self, shop: Workshop, shard: Shard, folder: Path) -> None:
        shop.report(f"preparing shard {shard} of {self.name}")
        reading = _Reading(self, shop)
        with closing(reading.encoded(shard)) as chunks:
            write_part(folder, reading.shown(chunks))
        (folder / _SKIPPED_FILE).write_text(json.dumps(reading.skipped), encoding="utf-8")


@dataclass
class _Reading:
    """One pass over a source.

    Attributes:
        request: Which source.
        shop: What it is made with.
        skipped: What the source itself left out, by reason; known at the end.
    """

    request: StoreRequest
    shop: Workshop
    skipped: dict[str, int] = field(default_factory=dict)

    def encoded(self, shard: Shard | None = None) -> Generator[EncodedChunk]:
        """The chunks of the source, or those of one shard, in order."""
        request = self.request
        encoder = ChunkEncoder(request.name, request.tokenizer, request.learn, request.rule)
        chunks = in_chunks(self._samples())
        mine = chunks if shard is None else islice(chunks, shard.number - 1, None, shard.count)
        return encode_in_order(
            encoder, mine, num_processes=self.shop.num_processes, proceed=self.shop.proceed
        )

    def shown(self, chunks: Iterator[EncodedChunk]) -> Iterator[EncodedChunk]:
        """The same chunks; the progress is told of each."""
        progress = self.shop.progress
        progress.begin(self.request.name)
        try:
            for chunk in chunks:
                yield chunk
                progress.advance(len(chunk.ids) // 8, chunk.num_characters)
        finally:
            progress.end()

    def _samples(self) -> Iterator[Sample]:
        for sample in self.request.source.samples():
            self.shop.proceed()
            yield sample
        self.skipped = dict(getattr(self.request.source, "skipped", {}))


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
