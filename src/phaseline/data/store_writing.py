"""Writes a store chunk by chunk; memory does not grow with the corpus."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from itertools import chain
from math import prod
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from phaseline.data.encoded_chunk import SPLITS, EncodedChunk, Split, SplitChunk, token_dtype
from phaseline.data.labels import Form, require_same_form
from phaseline.data.repeated_ids import RepeatedIds
from phaseline.data.store import (
    STORE_FILE,
    UNMASKED,
    contents_file,
    labels_file,
    learnt_file,
    numbers_file,
    offsets_file,
    tokens_file,
)
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
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
        first, every = _peek(chunks)
        form = None if first is None else first.form
        writers = {split: _SplitWriter(files, folder, split, shape, form) for split in SPLITS}
        for chunk in every:
            ids.add(chunk.ids)
            require_same_form(chunk.form, form, chunk.first_id, name)
            _require_labels(chunk, name, shape)
            for split in SPLITS:
                writers[split].add(chunk.splits[split])
            num_samples += len(chunk.ids) // 8
            num_characters += chunk.num_characters
            add_reasons(dropped, chunk.dropped)
        ids.require_none()
        sides: dict[str, Any] = {split: writer.finish() for split, writer in writers.items()}
    if shape == "labelled":
        most = max(writer.largest_label for writer in writers.values())
        sides["classes"] = most + 1
        sides["form"] = None if form is None else [form.dtype, form.shape]
    return {
        "source": name,
        "shape": shape,
        "dtype": dtype.str,
        "samples": num_samples,
        "characters": num_characters,
        "dropped": dict(dropped),
        **sides,
    }


def _peek(chunks: Iterable[EncodedChunk]) -> tuple[EncodedChunk | None, Iterator[EncodedChunk]]:
    """The first chunk, and all of them."""
    iterator = iter(chunks)
    first = next(iterator, None)
    return first, iterator if first is None else chain([first], iterator)


def _require_labels(chunk: EncodedChunk, name: str, shape: Shape) -> None:
    """Raises if samples are of another shape than their source says, as far as labels tell."""
    for side in chunk.splits.values():
        expected = len(side.contents) if shape == "labelled" else 0
        if len(side.labels) != expected:
            found = "without" if shape == "labelled" else "with"
            raise DataError(
                f"data source {name!r} has the shape {shape!r}, but gives samples {found} a "
                f"label, near {chunk.first_id!r}. Correct its `shape` or its samples."
            )


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
        form: Form | None,
    ) -> None:
        self._contents = _ArrayFile(files, contents_file(folder, split), np.dtype("<u8"))
        self._labels: _ArrayFile | None = None
        self._numbers: _ArrayFile | None = None
        self._tokens: _TokenFiles | None = None
        if shape == "labelled":
            self._labels = _ArrayFile(files, labels_file(folder, split), np.dtype("<i8"))
        if form is None:
            self._tokens = _TokenFiles(files, folder, split, shape)
        else:
            path, dtype = numbers_file(folder, split), np.dtype(form.dtype)
            self._numbers = _ArrayFile(files, path, dtype, form.shape)
        self.largest_label = -1

    def add(self, chunk: SplitChunk) -> None:
        self._contents.add(chunk.contents)
        if self._labels is not None:
            self._labels.add(chunk.labels)
            labels = np.frombuffer(chunk.labels, "<i8")
            self.largest_label = int(labels.max(initial=self.largest_label))
        if self._tokens is not None:
            self._tokens.add(chunk)
        if self._numbers is not None:
            self._numbers.add(chunk.numbers)

    def finish(self) -> dict[str, int]:
        """Completes the files; returns how much is in them."""
        for file in (self._contents, self._labels, self._numbers):
            if file is not None:
                file.finish()
        if self._tokens is not None:
            return {"documents": self._contents.length, **self._tokens.finish()}
        num_samples = self._contents.length
        return {"documents": num_samples, "sequences": num_samples, "tokens": num_samples}


class _TokenFiles:
    """One side's sequences."""

    def __init__(self, files: ExitStack, folder: Path, split: Split, shape: Shape) -> None:
        self._tokens: IO[bytes] = files.enter_context(tokens_file(folder, split).open("wb"))
        self._learnt: IO[bytes] | None = None
        if shape not in UNMASKED:
            self._learnt = files.enter_context(learnt_file(folder, split).open("wb"))
        self._offsets = _ArrayFile(files, offsets_file(folder, split), np.dtype("<i8"))
        self._offsets.add(np.zeros(1, "<i8").tobytes())
        self._num_tokens = self._num_learnt = 0

    def add(self, chunk: SplitChunk) -> None:
        self._tokens.write(chunk.tokens)
        if self._learnt is not None:
            self._learnt.write(chunk.learnt)
        self._num_learnt += chunk.learnt.count(1)
        offsets = np.cumsum(np.frombuffer(chunk.lengths, "<i8")) + self._num_tokens
        self._offsets.add(offsets.astype("<i8").tobytes())
        self._num_tokens = int(offsets[-1]) if len(offsets) else self._num_tokens

    def finish(self) -> dict[str, int]:
        """Completes the files; returns how much is in them."""
        self._offsets.finish()
        return {
            "sequences": self._offsets.length - 1,
            "tokens": self._num_tokens,
            "learnt_tokens": self._num_learnt,
        }


class _ArrayFile:
    """A `.npy` file that grows by items of one shape: its header is written again at the end."""

    def __init__(
        self, files: ExitStack, path: Path, dtype: np.dtype[Any], item: tuple[int, ...] = ()
    ) -> None:
        self.length = 0
        self._dtype, self._item = dtype, item
        self._item_bytes = dtype.itemsize * prod(item)
        self._file: IO[bytes] = files.enter_context(path.open("w+b"))
        self._write_header()
        self._header_bytes = self._file.tell()

    def add(self, data: bytes) -> None:
        self._file.write(data)
        self.length += len(data) // self._item_bytes

    def finish(self) -> None:
        self._file.seek(0)
        self._write_header()
        # numpy leaves room in a header for its length to grow.
        assert self._file.tell() == self._header_bytes, "the header grew into the data"

    def _write_header(self) -> None:
        header = {
            "descr": self._dtype.str,
            "fortran_order": False,
            "shape": (self.length, *self._item),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
