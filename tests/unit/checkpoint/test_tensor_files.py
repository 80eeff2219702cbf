from __future__ import annotations

import errno
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from phaseline.checkpoint.tensor_files import UnusableWeightsError, list_file, list_folder
from phaseline.errors import ExitCode, UnreachableFileError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def shards(folder: Path) -> Path:
    """Two files and their index; returns the index."""
    save_file({"a": np.zeros((2, 3), np.float32)}, folder / "model-1.safetensors")
    save_file({"b": np.zeros(4, np.float16)}, folder / "model-2.safetensors")
    index = folder / "model.safetensors.index.json"
    weight_map = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_list_file_says_where_every_tensor_lies(folder: Path) -> None:
    path = folder / "x.safetensors"
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_file({"first": np.ones(5, np.int64), "second": values}, path, metadata={"format": "pt"})
    found = list_file(path)
    assert found.keys() == {"first", "second"}
    second = found["second"]
    assert (second.dtype, second.shape, second.numel) == ("F32", (2, 3), 6)
    data = path.read_bytes()[second.offset : second.offset + 24]
    assert np.frombuffer(data, np.float32).tolist() == values.flatten().tolist()


def test_list_folder_reads_one_file_or_the_shards_of_an_index(folder: Path) -> None:
    index = shards(folder)
    found = list_folder(folder)
    assert {name: tensor.file.name for name, tensor in found.items()} == {
        "a": "model-1.safetensors",
        "b": "model-2.safetensors",
    }
    index.unlink()
    (folder / "model-2.safetensors").unlink()
    assert list_folder(folder).keys() == {"a"}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "x.pt", "x.pth", "x.ckpt"])
def test_pickle_is_refused_unopened(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    with pytest.raises(UnusableWeightsError, match="a pickle, which can run any code") as refusal:
        list_file(folder / name)
    assert "weights_only=True" in refusal.value.fix
    with pytest.raises(UnusableWeightsError, match=f"holds pickles.*{name}.*no safetensors"):
        list_folder(folder)


def test_file_is_refused_when_it_is_not_all_there(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({"a": np.zeros(100, np.float32)}, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UnusableWeightsError, match=r"model\.safetensors, which ends after"):
        list_folder(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"version https://git-lfs.github.com/spec/v1",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 60)
        + json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}})
        .encode()
        .ljust(60),
    ],
)
def test_file_is_refused_when_its_header_is_none(folder: Path, content: bytes) -> None:
    (folder / "a.safetensors").write_bytes(content)
    with pytest.raises(UnusableWeightsError, match="which is no safetensors file"):
        list_file(folder / "a.safetensors")


def test_folder_is_refused_when_a_shard_or_a_tensor_of_its_index_is_missing(folder: Path) -> None:
    shards(folder)
    save_file({"c": np.zeros(4, np.float16)}, folder / "model-2.safetensors")
    with pytest.raises(UnusableWeightsError, match=r"holds model-2\.safetensors without b"):
        list_folder(folder)
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(UnusableWeightsError, match=r"lacks model-2\.safetensors"):
        list_folder(folder)


@pytest.mark.parametrize("content", ["{}", "[", '{"weight_map": {"a": "../model.safetensors"}}'])
def test_folder_is_refused_when_its_index_is_none(folder: Path, content: str) -> None:
    shards(folder).write_text(content)
    with pytest.raises(UnusableWeightsError, match=r"no index|lacks \.\./model"):
        list_folder(folder)


def test_folder_is_refused_when_it_is_unclear_what_belongs_together(folder: Path) -> None:
    shards(folder).unlink()
    with pytest.raises(UnusableWeightsError, match="holds 2 safetensors files, and no"):
        list_folder(folder)


def test_folder_is_refused_when_it_holds_an_adapter_or_nothing(folder: Path) -> None:
    with pytest.raises(UnusableWeightsError, match="is a folder without weights"):
        list_folder(folder)
    save_file({"a": np.zeros(1, np.float32)}, folder / "adapter_model.safetensors")
    with pytest.raises(UnusableWeightsError, match="holds an adapter"):
        list_folder(folder)


@pytest.mark.parametrize(
    "record",
    [
        {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, "4"]},
        {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0.5, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "I8", "shape": [0], "data_offsets": [-4, -4]},
        {"dtype": 3, "shape": [4], "data_offsets": [0, 4]},
        {"dtype": "F8_E4M3", "shape": 4, "data_offsets": [0, 4]},
    ],
)
def test_header_with_a_place_or_size_that_is_none_is_refused(
    folder: Path, record: dict[str, object]
) -> None:
    header = json.dumps({"a": record}).encode()
    path = folder / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    with pytest.raises(
        UnusableWeightsError, match=r"holds x\.safetensors, which is no safetensors"
    ):
        list_file(path)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENFILE])
def test_weights_that_cannot_be_read_just_now_are_no_fault_of_the_configuration(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = folder / "model.safetensors"
    save_file({"a": np.zeros(3, np.float32)}, path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "as a server that is away", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        UnreachableFileError, match="cannot be read or written now: as a server"
    ) as told:
        list_folder(folder)
    assert told.value.exit_code is ExitCode.FAILED
