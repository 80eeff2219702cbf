from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phaseline.config.data_section import FiltersSection, SourceSection
from phaseline.data.sources import Chat, Document, Labelled, Pair, Preference, Sample, Shape
from phaseline.data.sources.filters import FilteredSource
from phaseline.data.sources.protocol import TokenDocument
from phaseline.data.sources.registry import build_filtered_source, check_source
from phaseline.data.sources.seen_digests import SeenDigests
from phaseline.errors import ConfigurationError, DataError


class Made:
    """A source of given samples."""

    shape: Shape = "text"

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.made = samples
        self.skipped = {"not UTF-8": 1}

    def fingerprint(self) -> str:
        return "made"

    def samples(self) -> Iterator[Sample]:
        yield from self.made


def _ids(samples: Sequence[Sample], **filters: Any) -> tuple[list[str], dict[str, int]]:
    source = FilteredSource(Made(samples), FiltersSection(**filters))
    ids = [sample.id for sample in source.samples()]
    assert [sample.id for sample in source.samples()] == ids
    return ids, dict(source.skipped)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "my_filters.py"
    path.write_text(
        "number = 3\n"
        "def is_short(sample): return len(sample.text) < 3\n"
        "def fails(sample): return sample.no_such\n"
        "def answers(sample): return 'yes'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_filters", raising=False)
    return path


TEXTS = [Document("a", "aa"), Document("b", "bbbb"), Document("c", "aa"), Document("d", "d" * 9)]


def test_filter_keeps_what_has_a_length_between_the_limits() -> None:
    assert _ids(TEXTS, min_chars=3, max_chars=8) == (
        ["b"],
        {"not UTF-8": 1, "shorter than min_chars": 2, "longer than max_chars": 1},
    )


TURNS = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]


@pytest.mark.parametrize(
    "sample",
    [
        Pair("a", "ab", "cd"),
        Chat("a", TURNS),
        Preference("a", "a", "b", "cd"),
        Preference("a", TURNS[:1], TURNS[1:], [{"role": "assistant", "content": ""}]),
        Labelled("a", "abcd", 0),
    ],
)
def test_filter_counts_the_characters_of_all_parts(sample: Sample) -> None:
    assert _ids([sample], min_chars=4, max_chars=4)[0] == ["a"]
    assert _ids([sample], min_chars=5)[0] == []


@pytest.mark.parametrize(
    "sample", [TokenDocument("a", np.array([1])), Labelled("a", np.zeros(3), 0)]
)
def test_filter_refuses_to_count_characters_when_there_are_none(sample: Sample) -> None:
    with pytest.raises(DataError, match="the sample 'a' has none"):
        _ids([sample], min_chars=1)


@pytest.mark.parametrize(
    ("one", "equal", "other"),
    [
        (Document("a", "x"), Document("b", "x"), Document("c", "y")),
        (Pair("a", "x", "y", "d"), Pair("b", "x", "y", "e"), Pair("c", "xy", "")),
        (Chat("a", TURNS), Chat("b", list(TURNS)), Chat("c", TURNS, [{"name": "tool"}])),
        (Preference("a", "x", "y", "z"), Preference("b", "x", "y", "z"), Preference("c", "x", "z", "y")),
        (Labelled("a", np.zeros(4), 0), Labelled("b", np.zeros(4), 0), Labelled("c", np.zeros(4), 1)),
        (Labelled("a", np.zeros((2, 2)), 0), Labelled("b", np.zeros((2, 2)), 0), Labelled("c", np.zeros(4), 0)),
        (
            TokenDocument("a", np.array([1], np.uint16)),
            TokenDocument("b", np.array([1], np.int64)),
            TokenDocument("c", np.array([2])),
        ),
    ],
)  # fmt: skip
def test_filter_keeps_the_first_of_equal_samples(one: Sample, equal: Sample, other: Sample) -> None:
    ids, counts = _ids([one, equal, other], deduplicate=True)
    assert ids == ["a", "c"]
    assert counts == {"not UTF-8": 1, "duplicate": 1}


def test_seen_digests_agree_with_a_set_when_they_are_merged_often() -> None:
    seen, known, random_ = SeenDigests(max_recent=7), set[bytes](), random.Random(0)
    for _ in range(2000):
        content = str(random_.randrange(700)).encode()
        assert seen.add(content) is (content not in known)
        known.add(content)


def test_filter_asks_the_users_function(module: Path) -> None:
    name = f"{module.stem}:is_short"
    assert _ids(TEXTS, keep_if=name, deduplicate=True) == (
        ["a"],
        {"not UTF-8": 1, f"refused by {name}": 2, "duplicate": 1},
    )


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("fails", "failed at the sample 'a': AttributeError.*Correct the function"),
        ("answers", "returned 'yes' for the sample 'a'. It must return True"),
        ("number", "is a int; it must be a function"),
    ],
)
def test_filter_refuses_the_users_function_when_it_is_wrong(
    module: Path, attribute: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        _ids(TEXTS, keep_if=f"{module.stem}:{attribute}")


def test_filter_says_what_cannot_be_imported_when_a_name_is_wrong() -> None:
    with pytest.raises(ConfigurationError, match=r"filters.keep_if is 'no_such_module:f'"):
        _ids(TEXTS, keep_if="no_such_module:f")


def test_fingerprint_changes_with_source_filters_and_the_functions_file(module: Path) -> None:
    keep_if = f"{module.stem}:is_short"

    def fingerprint(**filters: Any) -> str:
        return FilteredSource(Made(TEXTS), FiltersSection(**filters)).fingerprint()

    found = {fingerprint(min_chars=1), fingerprint(max_chars=1), fingerprint(keep_if=keep_if)}
    assert fingerprint(keep_if=keep_if) in found
    module.write_text(module.read_text() + "\n# another\n")
    found.add(fingerprint(keep_if=keep_if))
    found.add(fingerprint(keep_if="operator:attrgetter"))
    assert len(found) == 5


def test_section_is_built_with_its_filters_only_when_there_are_some(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    arguments = {"paths": [str(tmp_path)]}
    plain = build_filtered_source(SourceSection(source="files", arguments=arguments))
    assert not isinstance(plain, FilteredSource)
    filters = FiltersSection(min_chars=2)
    section = SourceSection(source="files", arguments=arguments, filters=filters)
    filtered = build_filtered_source(section)
    assert (list(filtered.samples()), filtered.shape) == ([], "text")
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="byte 0 of it is not UTF-8"):
        check_source(filtered)
