from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from phaseline.checkpoint.disk import Disk
from phaseline.checkpoint.manifest import hash_file
from phaseline.checkpoint.snapshot import Snapshot
from phaseline.errors import CheckpointError

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.complex64, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
]  # fmt: skip


def write(snapshot: Snapshot, path: Path) -> dict[str, torch.Tensor]:
    record = Disk().write_file(path, snapshot.file_parts())
    assert record == hash_file(path)
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def test_file_is_what_safetensors_reads_whatever_the_dtypes(tmp_path: Path) -> None:
    # Odd lengths, so that nothing is aligned by chance.
    tensors = {
        f"weight/{idx}": (torch.arange(3 + 2 * idx) % 2).to(dtype)
        for idx, dtype in enumerate(DTYPES)
    }
    tensors["empty"] = torch.empty(0)
    snapshot = Snapshot()
    snapshot.fill(tensors)
    read = write(snapshot, tmp_path / "a")
    assert read.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert read[key].dtype == tensor.dtype
        assert torch.equal(read[key].view(torch.uint8), tensor.view(torch.uint8))


def test_copy_stays_as_it_was_when_the_live_tensor_moves_on(tmp_path: Path) -> None:
    live, snapshot = torch.ones(4), Snapshot()
    snapshot.fill({"a": live})
    live.add_(1)
    assert write(snapshot, tmp_path / "a")["a"].tolist() == [1.0] * 4


def test_memory_is_taken_once_when_a_snapshot_is_filled_again(tmp_path: Path) -> None:
    snapshot = Snapshot()
    snapshot.fill({"a": torch.ones(100), "b": torch.ones(50)})
    place = snapshot.views["a"].untyped_storage().data_ptr()
    snapshot.fill({"a": torch.zeros(90)})
    assert snapshot.views.keys() == {"a"}
    assert snapshot.views["a"].untyped_storage().data_ptr() == place
    assert write(snapshot, tmp_path / "a")["a"].tolist() == [0.0] * 90


def test_tensor_is_refused_by_name_when_the_format_has_no_place_for_it() -> None:
    with pytest.raises(CheckpointError, match=r"buffer/odd is torch\.complex128, which a check"):
        Snapshot().fill({"buffer/odd": torch.zeros(2, dtype=torch.complex128)})
