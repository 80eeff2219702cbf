"""Stores of samples with a label: what is in them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phaseline.data.cache import Cache, always_proceed
from phaseline.data.progress import PlainProgress
from phaseline.data.shards import Shard
from phaseline.data.sources import Document, Labelled, Pair, Source
from phaseline.data.split import SplitRule
from phaseline.data.store import Store, numbers_file, read_store
from phaseline.data.store_request import StoreRequest, Workshop
from phaseline.data.tokenizer import Tokenizer
from phaseline.errors import DamagedDataError, DataError
from unit.data.labelled_sources import Features, Images, Made, Reviews

BYTES = Tokenizer.of_bytes()
RULE = SplitRule(5, 0.3)


def _request(source: Source) -> StoreRequest:
    return StoreRequest("made", source, source.fingerprint(), BYTES, "answers", RULE)


def _shop(folder: Path, num_processes: int = 2) -> Workshop:
    def ignore(_text: str) -> None:
        pass

    return Workshop(Cache(folder), num_processes, ignore, always_proceed, PlainProgress(ignore))


def _store(folder: Path, source: Source) -> Store:
    return read_store(_request(source).obtain(_shop(folder)))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _sides(samples: list[Labelled]) -> dict[str, list[Labelled]]:
    return {
        "train": [one for one in samples if not RULE.holds_out(one.document or one.id)],
        "held_out": [one for one in samples if RULE.holds_out(one.document or one.id)],
    }


@pytest.mark.parametrize("source", [Images(), Features()], ids=["images", "features"])
def test_store_keeps_numbers_in_their_own_type_and_order(tmp_path: Path, source: Images) -> None:
    store = _store(tmp_path, source)
    for name, samples in _sides(list(source.samples())).items():
        side = getattr(store, name)
        assert side.numbers.dtype == source.dtype
        assert np.array_equal(side.numbers, np.stack([one.inputs for one in samples]))
        assert side.labels.dtype == np.int64
        assert side.labels.tolist() == [one.label for one in samples]
        assert len(np.unique(side.contents)) == len(samples) == side.num_documents
        assert side.num_tokens == len(samples) > 5
        assert isinstance(side.numbers.base, np.memmap)
    assert store.form is not None
    assert (np.dtype(store.form.dtype), store.form.shape) == (source.dtype, source.item_shape)
    assert (store.num_classes, store.class_names) == (5, ())


def test_store_keeps_texts_as_tokens_with_their_end(tmp_path: Path) -> None:
    source = Made([*Reviews().samples(), Labelled("empty", "", 2)], ("bad", "good", "so so"))
    store = _store(tmp_path, source)
    for name, samples in _sides(list(Reviews().samples())).items():
        side = getattr(store, name)
        bounds = zip(side.offsets[:-1].tolist(), side.offsets[1:].tolist(), strict=True)
        texts = [BYTES.decode(side.tokens[a:b].tolist(), special=True) for a, b in bounds]
        assert texts == [f"{one.inputs}<eos>" for one in samples]
        assert side.labels.tolist() == [one.label for one in samples]
        assert side.numbers is None
        assert side.learnt is None
    assert store.dropped == {"empty text": 1}
    assert store.class_names == ("bad", "good", "so so")


@pytest.mark.parametrize(
    "source", [Images(count=3000), Reviews(count=9000)], ids=["images", "text"]
)
def test_store_is_the_same_to_the_byte_with_any_number_of_processes_and_shards(
    tmp_path: Path, source: Source
) -> None:
    request = _request(source)
    alone = _files(request.obtain(_shop(tmp_path / "one", 1)))
    many = _files(request.obtain(_shop(tmp_path / "three", 3)))
    shop = _shop(tmp_path / "shards")
    for number in (2, 1, 3):
        parts = request.obtain_part(shop, Shard(number, 3))
    assert parts is not None
    assert not parts.missing
    assert _files(request.obtain(shop)) == many == alone


def test_samples_of_one_document_fall_on_one_side(tmp_path: Path) -> None:
    samples = [
        Labelled(f"{writer} {idx}", np.array([writer, idx]), 0, document=f"writer {writer}")
        for writer in range(20)
        for idx in range(4)
    ]
    store = _store(tmp_path, Made(samples))
    numbers = [side.numbers for side in (store.train, store.held_out) if side.numbers is not None]
    writers = [set(rows[:, 0].tolist()) for rows in numbers]
    assert not writers[0] & writers[1]
    assert len(writers[0] | writers[1]) == 20


def test_numbers_of_another_byte_order_are_stored_as_little_endian(tmp_path: Path) -> None:
    values = np.arange(12, dtype=">f4").reshape(4, 3)
    store = _store(tmp_path, Made([Labelled(str(idx), row, 0) for idx, row in enumerate(values)]))
    parts = [side.numbers for side in (store.train, store.held_out) if side.numbers is not None]
    assert {part.dtype.str for part in parts} == {"<f4"}
    assert sorted(np.concatenate(parts).ravel().tolist()) == list(range(12))


def test_store_without_held_out_samples_can_be_read(tmp_path: Path) -> None:
    source = Made([Labelled("a", np.zeros(2), 0)])
    request = StoreRequest("made", source, "f", BYTES, "answers", SplitRule(0))
    store = read_store(request.obtain(_shop(tmp_path)))
    assert store.held_out.numbers is not None
    assert store.held_out.numbers.shape == (0, 2)


ROW = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Labelled("x", ROW, -1), r"'x' has the label -1; it must be a whole number of at least 0"),
        (Labelled("x", ROW, True), r"has the label True"),
        (Labelled("x", ROW, 2**31), r"has the label 2147483648"),
        (Labelled("x", ROW, "cat"), r"has the label 'cat'"),  # type: ignore[arg-type]  # hostile
        (Labelled("x", ROW, 1.0), r"has the label 1\.0"),  # type: ignore[arg-type]  # hostile
        (Labelled("x", np.array([1, np.nan, 2], np.float32), 0), r"no finite numbers"),
        (Labelled("x", np.array([1e300, 0, 0]), 0), r"no finite numbers in 32 bits"),
        (Labelled("x", np.array(["a"]), 0), r"inputs of type <U1"),
        (Labelled("x", np.array([1j]), 0), r"inputs of type complex128"),
        (Labelled("x", [1.0], 0), r"inputs of type list"),  # type: ignore[arg-type]  # hostile
        (Labelled("x", np.zeros((0, 3)), 0), r"shape \(0, 3\), which hold nothing"),
        (Labelled("x", np.float32(1), 0), r"inputs of type float32"),
        (Labelled("x", "a text", 0), r"'x' of made is a text, and those before it 3 float32"),
        (Labelled("x", np.zeros(4, np.float32), 0), r"'x' of made is 4 float32"),
        (Labelled("x", np.zeros(3), 0), r"is 3 float64, and those before it 3 float32"),
        (Document("x", "text"), r"'x' of made is a text, and those before it 3 float32"),
    ],
)
@pytest.mark.parametrize("num_before", [1, 1024], ids=["same chunk", "next chunk"])
def test_sample_that_cannot_be_classified_is_named(
    tmp_path: Path, bad: Any, message: str, num_before: int
) -> None:
    before = [Labelled(str(idx), ROW, 0) for idx in range(num_before)]
    source = Made([*before, bad])
    source.fingerprint = lambda: "hostile"  # type: ignore[method-assign]  # repr may fail
    with pytest.raises(DataError, match=message):
        _store(tmp_path, source)
    assert not list((tmp_path / "stores").glob("*/store.json"))


def test_label_in_a_source_of_another_shape_is_refused(tmp_path: Path) -> None:
    source: Any = Made([Labelled("x", "text", 0)])
    source.shape = "text"
    with pytest.raises(DataError, match=r"has the shape 'text', but gives samples with a label"):
        _store(tmp_path, source)
    pairs: Any = Made([])
    pairs.samples = lambda: iter([Pair("p", "ask", "answer")])
    with pytest.raises(DataError, match=r"shape 'labelled', but gives samples without a label"):
        _store(tmp_path, pairs)


def test_label_beyond_the_classes_that_are_listed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gives the label 2, but lists 2 classes"):
        _store(tmp_path, Made([Labelled("x", ROW, 2)], ("cat", "dog")))


def test_store_has_another_name_when_classes_have_others(tmp_path: Path) -> None:
    names = {_request(Made([], classes)).fingerprint for classes in (None, ("a",), ("a", "b"))}
    assert len(names) == 3


def test_store_says_its_form_and_classes(tmp_path: Path) -> None:
    entry = _request(Images()).obtain(_shop(tmp_path))
    facts = json.loads((entry / "store.json").read_text())
    assert facts["form"] == ["|u1", [2, 3, 4]]
    assert facts["classes"] == 5
    assert facts["train"]["documents"] == facts["train"]["tokens"]
    assert not list(entry.glob("*.tokens"))


@pytest.mark.parametrize("place", [9, 25, 40, 70])
def test_header_of_numbers_is_compared_before_it_is_believed(tmp_path: Path, place: int) -> None:
    # Larger than what is read whenever an entry is looked for.
    rows = [Labelled(str(idx), np.full(4096, idx, np.float32), 0) for idx in range(200)]
    entry = _request(Made(rows)).obtain(_shop(tmp_path))
    path = numbers_file(entry, "train")
    assert path.stat().st_size > 1 << 20
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedDataError, match=r"numbers\.npy does not hold what was written"):
        read_store(entry)
