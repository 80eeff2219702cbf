"""Writes a store chunk by chunk; memory does not grow with the corpus."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from phaseline.data.encoded_chunk import SPLITS, EncodedChunk, Split, SplitChunk, token_dtype
from phaseline.data.encoding import SEQUENCES_PER_SAMPLE
from phaseline.data.repeated_ids import RepeatedIds
from phaseline.data.store import (
    STORE_FILE,
    contents_file,
    learnt_file,
    offsets_file,
    tokens_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from phaseline.data.sources.protocol import Shape

_MAX_REASONS = 32
_OTHER_REASONS = "other reasons"


def write_store(
    folder: Path,
    chunks: Iterable[EncodedChunk],
    *,
    name: str,
    shape: Shape,
    vocab_size: int,
    confirm: Callable[[set[bytes]], None],
) -> dict[str, Any]:
    """Writes a source's chunks, in the order in which they come, into an empty folder.

    Args:
        folder: Empty.
        chunks: All of the source.
        name: The source's.
        shape: Of its samples.
        vocab_size: Of the tokenizer.
        confirm: Given digests that two ids have, raises if those are the same.

    Returns:
        What `store.json` says, which is written last: `finish_store`.
    """
    dtype = token_dtype(vocab_size)
    dropped: Counter[str] = Counter()
    num_samples = num_characters = 0
    with ExitStack() as files:
        ids = files.enter_context(RepeatedIds(folder, confirm))
        writers = {split: _SplitWriter(files, folder, split, shape) for split in SPLITS}
        for chunk in chunks:
            ids.add(chunk.ids)
            for split in SPLITS:
                writers[split].add(chunk.splits[split])
            num_samples += len(chunk.ids) // 8
            num_characters += chunk.num_characters
            add_reasons(dropped, chunk.dropped)
        ids.require_none()
        sides: dict[str, Any] = {split: writer.finish() for split, writer in writers.items()}
    return {
        "source": name,
        "shape": shape,
        "dtype": dtype.str,
        "samples": num_samples,
        "characters": num_characters,
        "dropped": dict(dropped),
        **sides,
    }


def finish_store(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes `store.json`."""
    text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    (folder / STORE_FILE).write_text(text, encoding="utf-8")


def add_reasons(total: Counter[str], more: Mapping[str, int]) -> None:
    """Adds counts by reason. Some reasons quote a message, so there may be any number of them."""
    for reason, count in more.items():
        is_kept = reason in total or len(total) < _MAX_REASONS
        total[reason if is_kept else _OTHER_REASONS] += count


class _SplitWriter:
    def __init__(
        self,
        files: ExitStack,
        folder: Path,
        split: Split,
        shape: Shape,
    ) -> None:
        self._tokens: IO[bytes] = files.enter_context(tokens_file(folder, split).open("wb"))
        self._learnt: IO[bytes] | None = None
        if shape != "text":
            self._learnt = files.enter_context(learnt_file(folder, split).open("wb"))
        self._offsets = _ArrayFile(files, offsets_file(folder, split), np.dtype("<i8"))
        self._contents = _ArrayFile(files, contents_file(folder, split), np.dtype("<u8"))
        self._offsets.add(np.zeros(1, "<i8").tobytes())
        self._sequences_per_sample = SEQUENCES_PER_SAMPLE[shape]
        self._num_tokens = self._num_learnt = 0

    def add(self, chunk: SplitChunk) -> None:
        self._tokens.write(chunk.tokens)
        if self._learnt is not None:
            self._learnt.write(chunk.learnt)
        self._num_learnt += chunk.learnt.count(1)
        offsets = np.cumsum(np.frombuffer(chunk.lengths, "<i8")) + self._num_tokens
        self._offsets.add(offsets.astype("<i8").tobytes())
        self._num_tokens = int(offsets[-1]) if len(offsets) else self._num_tokens
        self._contents.add(chunk.contents)

    def finish(self) -> dict[str, int]:
        """Completes the files; returns how much is in them."""
        for file in (self._offsets, self._contents):
            file.finish()
        num_sequences = self._offsets.length - 1
        return {
            "documents": num_sequences // self._sequences_per_sample,
            "sequences": num_sequences,
            "tokens": self._num_tokens,
            "learnt_tokens": self._num_learnt,
        }


class _ArrayFile:
    """A `.npy` file of one dimension that grows: its header is written again at the end."""

    def __init__(self, files: ExitStack, path: Path, dtype: np.dtype[Any]) -> None:
        self.length = 0
        self._dtype = dtype
        self._file: IO[bytes] = files.enter_context(path.open("w+b"))
        self._write_header()
        self._header_bytes = self._file.tell()

    def add(self, data: bytes) -> None:
        self._file.write(data)
        self.length += len(data) // self._dtype.itemsize

    def finish(self) -> None:
        self._file.seek(0)
        self._write_header()
        # numpy leaves room in a header for its length to grow.
        assert self._file.tell() == self._header_bytes, "the header grew into the data"

    def _write_header(self) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, header)
