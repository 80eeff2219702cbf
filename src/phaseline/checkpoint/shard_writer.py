"""Safetensors files that are written a tensor at a time, none of them larger than is wanted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch

from phaseline.checkpoint.snapshot import dtype_name
from phaseline.checkpoint.tensor_files import INDEX_FILE, SINGLE_FILE
from phaseline.session.files import fsync_file

Plan = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype of every tensor, by name, in the order in which they will be written."""


class ShardWriter:
    """Lays files out beforehand, so that no more than one tensor is ever held. A context manager.

    One file where everything fits into it, else several with transformers' index.
    """

    def __init__(self, folder: Path, plan: Plan, *, max_bytes: int) -> None:
        """Divides the tensors over files.

        Args:
            folder: Where they go.
            plan: What will be written.
            max_bytes: Largest size of a file's tensors; one that is larger has a file of its own.
        """
        self._folder = folder
        self._plan = plan
        self._waiting = list(plan)
        shards: list[list[str]] = [[]]
        size = 0
        for name in plan:
            num_bytes = _num_bytes(plan, name)
            if shards[-1] and size + num_bytes > max_bytes:
                shards.append([])
                size = 0
            shards[-1].append(name)
            size += num_bytes
        count = len(shards)
        self._shards = {
            SINGLE_FILE if count == 1 else f"model-{idx:05d}-of-{count:05d}.safetensors": names
            for idx, names in enumerate(shards, 1)
        }
        self._file_of = {name: file for file, names in self._shards.items() for name in names}
        self._open: tuple[str, BinaryIO] | None = None

    @property
    def files(self) -> list[str]:
        """Names of the files."""
        return list(self._shards)

    def __enter__(self) -> ShardWriter:  # noqa: PYI034 - Self is newer than Python 3.10
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
        if error is None:
            assert not self._waiting, f"{self._waiting[0]} was planned and not written"
            self._write_index()

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Writes the next tensor of the plan."""
        shape, dtype = self._plan[name]
        expected = self._waiting.pop(0)
        assert name == expected
        assert (tuple(tensor.shape), tensor.dtype) == (shape, dtype)
        if self._open is None or self._open[0] != self._file_of[name]:
            self._begin(self._file_of[name])
        assert self._open is not None
        data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        self._open[1].write(memoryview(data.numpy()))  # type: ignore[arg-type]  # numpy arrays are buffers

    def _begin(self, file: str) -> None:
        self._close()
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        begin = 0
        for name in self._shards[file]:
            shape, dtype = self._plan[name]
            end = begin + _num_bytes(self._plan, name)
            header[name] = {
                "dtype": dtype_name(dtype, name),
                "shape": list(shape),
                "data_offsets": [begin, end],
            }
            begin = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        stream = (self._folder / file).open("wb")
        stream.write(len(text).to_bytes(8, "little") + text)
        self._open = (file, stream)

    def _close(self) -> None:
        if self._open is not None:
            name, stream = self._open
            stream.close()
            fsync_file(self._folder / name)
            self._open = None

    def _write_index(self) -> None:
        if len(self._shards) == 1:
            return
        index = {
            "metadata": {"total_size": sum(_num_bytes(self._plan, name) for name in self._plan)},
            "weight_map": self._file_of,
        }
        path = self._folder / INDEX_FILE
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        fsync_file(path)


def _num_bytes(plan: Plan, name: str) -> int:
    shape, dtype = plan[name]
    return math.prod(shape) * dtype.itemsize
