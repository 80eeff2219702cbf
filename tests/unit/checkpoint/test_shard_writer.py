from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from phaseline.checkpoint.shard_writer import ShardWriter
from phaseline.checkpoint.tensor_files import list_folder

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.arange(4).to(torch.bfloat16),
    "none": torch.empty(0, 3),
    "c": torch.tensor(7, dtype=torch.int64),
    "d": torch.arange(40.0).view(5, 8).T,  # not contiguous
}


def write(folder: Path, max_bytes: int) -> list[str]:
    plan = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in TENSORS.items()}
    with ShardWriter(folder, plan, max_bytes=max_bytes) as writer:
        for name, tensor in TENSORS.items():
            writer.write(name, tensor)
    return writer.files


@pytest.mark.parametrize(("max_bytes", "num_files"), [(10**6, 1), (40, 2), (24, 3), (1, 5)])
def test_files_hold_every_tensor_and_are_no_larger_than_wanted(
    tmp_path: Path, max_bytes: int, num_files: int
) -> None:
    files = write(tmp_path, max_bytes)
    found: dict[str, torch.Tensor] = {}
    for file in files:
        tensors = load_file(tmp_path / file)
        sizes = [tensor.numel() * tensor.element_size() for tensor in tensors.values()]
        assert sum(sizes) <= max_bytes or len([size for size in sizes if size]) == 1
        found |= tensors
    assert len(files) == num_files
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_several_files_have_the_index_that_transformers_reads(tmp_path: Path) -> None:
    files = write(tmp_path, 40)
    assert files == [f"model-0000{idx}-of-00002.safetensors" for idx in (1, 2)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 24 + 8 + 8 + 160}
    assert index["weight_map"] == {
        "a": files[0],
        "b": files[0],
        "none": files[0],
        "c": files[0],
    } | {"d": files[1]}
    assert list_folder(tmp_path).keys() == TENSORS.keys()


def test_tensor_that_was_planned_and_not_written_is_our_own_mistake(tmp_path: Path) -> None:
    plan = {"a": ((1,), torch.float32), "b": ((1,), torch.float32)}
    with (
        pytest.raises(AssertionError, match="b was planned and not written"),
        ShardWriter(tmp_path, plan, max_bytes=8) as writer,
    ):
        writer.write("a", torch.ones(1))
