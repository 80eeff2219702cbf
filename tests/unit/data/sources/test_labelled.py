from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from phaseline.data.sources.files import files
from phaseline.data.sources.protocol import Labelled
from phaseline.errors import DataError
from unit.data.sources.made_files import delimited, jsonl, parquet

if TYPE_CHECKING:
    from pathlib import Path

RED = np.zeros((2, 3, 3), np.uint8) + np.array([255, 0, 7], np.uint8)
GREY = np.arange(6, dtype=np.uint8).reshape(2, 3)


def _png(pixels: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def _read(path: Path, **arguments: Any) -> list[Labelled]:
    found = []
    for sample in files([str(path)], **arguments).samples():
        assert isinstance(sample, Labelled)
        found.append(sample)
    return found


@pytest.mark.parametrize("form", ["bytes", "hugging face", "path", "hugging face path"])
def test_images_are_decoded_whatever_holds_them(tmp_path: Path, form: str) -> None:
    (tmp_path / "red.png").write_bytes(_png(RED))
    image: Any = {
        "bytes": _png(RED),
        "hugging face": {"bytes": _png(RED), "path": "elsewhere.png"},
        "path": "red.png",
        "hugging face path": {"bytes": None, "path": "red.png"},
    }[form]
    (tmp_path / "a.parquet").write_bytes(parquet([{"image": image, "label": 4}]))
    [sample] = _read(tmp_path / "a.parquet")
    assert sample.label == 4
    assert isinstance(sample.inputs, np.ndarray)
    assert sample.inputs.dtype == np.uint8
    assert np.array_equal(sample.inputs, RED.transpose(2, 0, 1))


def test_images_have_one_channel_when_the_first_is_grey(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"image": _png(GREY), "label": 0}, {"image": _png(RED), "label": 1}]
    path.write_bytes(parquet(rows))
    assert [np.shape(sample.inputs) for sample in _read(path)] == [(1, 2, 3), (1, 2, 3)]
    three = _read(path, channels=3, resize=[4, 5])
    assert [np.shape(sample.inputs) for sample in three] == [(3, 4, 5), (3, 4, 5)]


def test_image_is_refused_or_counted_when_it_is_of_another_size(tmp_path: Path) -> None:
    rows = [{"image": _png(GREY), "label": 0}, {"image": _png(GREY.T.copy()), "label": 1}]
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet(rows))
    with pytest.raises(DataError, match=r"row 2: the image is \(1, 3, 2\).*\(1, 2, 3\).*`resize"):
        _read(path)
    assert len(_read(path, on_error="skip")) == 1


def test_fingerprint_changes_when_an_image_does_that_the_table_names(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"image": "red.png", "label": 0}]))
    found = set()
    for pixels in (RED, RED + 1):
        (tmp_path / "red.png").write_bytes(_png(pixels))
        found.add(files([str(tmp_path / "a.jsonl")]).fingerprint())
    (tmp_path / "red.png").unlink()
    found.add(files([str(tmp_path / "a.jsonl")]).fingerprint())
    assert len(found) == 3


def test_features_are_columns_or_a_column_of_lists(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(delimited([{"a": 1, "b": 2.5, "y": 3}], ","))
    (tmp_path / "b.jsonl").write_bytes(jsonl([{"x": [1, 2.5], "y": 3.0}]))
    [one] = _read(tmp_path / "a.csv", columns={"label": "y", "features": ["a", "b"]})
    [two] = _read(tmp_path / "b.jsonl", columns={"label": "y", "features": "x"})
    for sample in (one, two):
        assert isinstance(sample.inputs, np.ndarray)
        assert sample.inputs.dtype == np.float32
        assert sample.inputs.tolist() == [1, 2.5]
        assert sample.label == 3


def test_features_are_refused_when_they_are_no_list_or_of_another_length(tmp_path: Path) -> None:
    path, columns = tmp_path / "a.jsonl", {"label": "y", "features": "x"}
    path.write_bytes(jsonl([{"x": [1, 2], "y": 0}, {"x": [1], "y": 0}]))
    with pytest.raises(DataError, match=r"a\.jsonl:2: the features are \[1\]; they must be 2"):
        _read(path, columns=columns)
    path.write_bytes(jsonl([{"x": "1 2", "y": 0}]))
    with pytest.raises(DataError, match="'x' holds str, no list of numbers"):
        _read(path, columns=columns)


def test_labels_are_places_in_the_list_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        delimited([{"text": "miau", "label": "cat"}, {"text": "wau", "label": "dog"}], ",")
    )
    given: dict[str, Any] = {"shape": "labelled", "classes": ["dog", "cat"]}
    assert [(sample.inputs, sample.label) for sample in _read(path, **given)] == [
        ("miau", 1),
        ("wau", 0),
    ]
    with pytest.raises(DataError, match=r"a\.csv:2: the label 'cat' is none of `classes`"):
        _read(path, shape="labelled", classes=["dog"])
