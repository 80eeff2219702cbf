from __future__ import annotations

import pytest

from phaseline.data.sources.columns import resolve_columns
from phaseline.errors import DataError


@pytest.mark.parametrize(
    ("present", "shape", "roles"),
    [
        ("url text", "text", {"text": "text"}),
        ("content", "text", {"text": "content"}),
        ("text messages", "chats", {"messages": "messages"}),
        ("conversations tools", "chats", {"messages": "conversations", "tools": "tools"}),
        ("question answer", "pairs", {"prompt": "question", "completion": "answer"}),
        (
            "instruction input output text",
            "pairs",
            {"prompt": "instruction", "input": "input", "completion": "output"},
        ),
        (
            "prompt chosen rejected messages",
            "preferences",
            {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
        ),
        ("question answer text label", "pairs", {"prompt": "question", "completion": "answer"}),
        ("chosen rejected", "preferences", {"chosen": "chosen", "rejected": "rejected"}),
        ("img label", "labelled", {"image": "img", "label": "label"}),
        ("features label", "labelled", {"features": "features", "label": "label"}),
    ],
)
def test_shape_is_recognised_by_usual_names(
    present: str, shape: str, roles: dict[str, str]
) -> None:
    columns = resolve_columns({}, "auto", present.split(), "here")
    assert (columns.shape, columns.roles) == (shape, roles)
    assert columns.is_recognised


def test_named_columns_are_used_alone_when_they_are_all_that_is_needed() -> None:
    given = {"prompt": "a", "completion": "b"}
    columns = resolve_columns(given, "auto", ["a", "b", "input"], "here")
    assert columns.roles == given
    assert not columns.is_recognised


def test_column_is_used_once_when_another_part_has_it_by_name() -> None:
    columns = resolve_columns({"completion": "text", "id": "id"}, "auto", ["question", "text"], "")
    assert columns.roles == {"completion": "text", "id": "id", "prompt": "question"}


@pytest.mark.parametrize(
    ("given", "shape", "present", "message"),
    [
        ({}, "auto", "url date", r"here: the columns 'url', 'date' do not tell what"),
        ({}, "auto", "text label", r"text to go on with or text with a label. Set `shape: text`"),
        ({}, "chats", "text", r"no column for messages of chats; there are 'text'"),
        ({"completion": "b"}, "auto", "b", r"no column for prompt of pairs.*\{prompt: NAME\}"),
        ({"label": "y"}, "auto", "y x", r"no column for image or features or text of samples"),
        ({"text": "a"}, "pairs", "a", r"names one for 'text', which pairs .* do not have"),
        ({}, "auto", "", r"the columns none do not tell"),
    ],
)
def test_columns_are_refused_when_they_cannot_be_told(
    given: dict[str, str], shape: str, present: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        resolve_columns(given, shape, present.split(), "here")  # type: ignore[arg-type]
