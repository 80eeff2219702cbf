from __future__ import annotations

from typing import Any

import pytest

from phaseline.data.sources.preferences import read_preference
from phaseline.data.sources.problems import Row, RowFault

ASK = {"role": "user", "content": "ask"}
YES = {"role": "assistant", "content": "yes"}
NO = {"role": "assistant", "content": "no"}
AGAIN = {"role": "user", "content": "again"}


def _read(**values: Any) -> tuple[Any, Any, Any]:
    row = Row("a.jsonl", 1, "line", values)
    preference = read_preference(row, {name: name for name in values}, "id", None)
    return preference.prompt, preference.chosen, preference.rejected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"prompt": "ask", "chosen": "yes", "rejected": "no"}, ("ask", "yes", "no")),
        ({"prompt": [ASK], "chosen": "yes", "rejected": "no"}, ([ASK], [YES], [NO])),
        ({"prompt": [ASK], "chosen": [YES], "rejected": [NO]}, ([ASK], [YES], [NO])),
        ({"prompt": "ask", "chosen": [YES], "rejected": [NO]}, ([ASK], [YES], [NO])),
        ({"prompt": "ask", "chosen": YES, "rejected": NO}, ([ASK], [YES], [NO])),
        ({"prompt": "ask", "chosen": [ASK, YES], "rejected": [ASK, NO]}, ([ASK], [YES], [NO])),
        ({"chosen": [ASK, YES], "rejected": [ASK, NO]}, ([ASK], [YES], [NO])),
        (
            {
                "prompt": "again",
                "chosen": [ASK, YES, AGAIN, YES],
                "rejected": [ASK, YES, AGAIN, NO],
            },
            ([ASK, YES, AGAIN], [YES], [NO]),
        ),
        (
            {"chosen": [ASK, YES], "rejected": [ASK, YES, AGAIN, NO]},
            ([ASK], [YES], [YES, AGAIN, NO]),
        ),
    ],
)
def test_preference_has_prompt_and_answers_whatever_its_form(
    values: dict[str, Any], expected: tuple[Any, Any, Any]
) -> None:
    assert _read(**values) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"chosen": "yes", "rejected": "no"}, "there is no column for the prompt"),
        ({"chosen": [YES], "rejected": [NO]}, "do not begin alike"),
        ({"chosen": [ASK, YES], "rejected": [ASK, YES]}, "are the same"),
        ({"chosen": [ASK, YES], "rejected": [ASK, AGAIN]}, "does not go on with a turn of the"),
        (
            {"prompt": "other", "chosen": [ASK, YES], "rejected": [ASK, NO]},
            "is not what the two answers begin with",
        ),
        ({"prompt": None, "chosen": "yes", "rejected": "no"}, "'prompt' holds null"),
        ({"prompt": "ask", "chosen": 3, "rejected": "no"}, "'chosen' holds int"),
    ],
)
def test_preference_is_refused_when_it_prefers_nothing(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(RowFault, match=message):
        _read(**values)
