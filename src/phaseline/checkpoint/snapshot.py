"""A copy of one rank's state in host memory, laid out as the file that it will become."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch

from phaseline.errors import CheckpointError

# Source: the format's own list, safetensors 0.8.
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_HEADER_UNIT = 8


class Snapshot:
    """One buffer that is filled again and again, so that its memory is taken once.

    safetensors' own writer would take a copy besides, or hold the interpreter while it writes;
    from here a file is a header and the buffer.
    """

    def __init__(self) -> None:
        """Takes no memory yet."""
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._size = 0
        self._header = b""
        self.views: dict[str, torch.Tensor] = {}
        """The copies, by key. Each flat, in its own dtype."""

    def fill(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copies tensors; from a GPU without waiting, so synchronise before they are read.

        Args:
            tensors: Flat ones, by key, on any device.

        Raises:
            CheckpointError: A dtype has no place in the format.
        """
        # Largest elements first: each then begins at a multiple of its own size.
        keys = sorted(tensors, key=lambda key: (-tensors[key].element_size(), key))
        self._size = sum(tensors[key].numel() * tensors[key].element_size() for key in keys)
        on_cuda = any(tensors[key].is_cuda for key in keys)
        if self._buffer.numel() < self._size:
            self._buffer = torch.empty(self._size, dtype=torch.uint8, pin_memory=on_cuda)
        self.views.clear()
        header: dict[str, dict[str, object]] = {}
        begin = 0
        for key in keys:
            tensor = tensors[key]
            end = begin + tensor.numel() * tensor.element_size()
            view = self._buffer[begin:end].view(tensor.dtype)
            view.copy_(tensor, non_blocking=True)
            self.views[key] = view
            header[key] = {
                "dtype": dtype_name(tensor.dtype, key),
                "shape": [tensor.numel()],
                "data_offsets": [begin, end],
            }
            begin = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _HEADER_UNIT)
        self._header = len(text).to_bytes(8, "little") + text

    def file_parts(self) -> list[memoryview]:
        """The bytes of a safetensors file with everything that was copied."""
        data = self._buffer[: self._size]
        return [memoryview(self._header), memoryview(data.numpy())]  # type: ignore[arg-type]  # numpy arrays are buffers


def dtype_name(dtype: torch.dtype, key: str) -> str:
    """How the format calls a dtype.

    Raises:
        CheckpointError: It has no place in the format.
    """
    if dtype not in _DTYPES:
        known = ", ".join(str(known).removeprefix("torch.") for known in _DTYPES)
        raise CheckpointError(
            f"{key} is {dtype}, which a checkpoint cannot hold; it must be one of {known}. "
            "Convert it, or register the buffer with persistent=False."
        )
    return _DTYPES[dtype]
