from __future__ import annotations

import pytest

from phaseline.models.python_check import first_function_parses

PROMPT = 'def double(x):\n    """Return twice x."""\n'


@pytest.mark.parametrize(
    ("completion", "complete", "valid"),
    [
        ("    return 2 * x\n", True, True),
        ("    return 2 * x\n\n\ndef broken(:\n", True, True),
        ("    return 2 * x\n    y = (", False, True),
        ("    return 2 * x\n    y = (", True, False),
        ("    return 2 *\n", True, False),
        ("return 2 * x\n", True, False),
        ("  \n", True, False),
    ],
    ids=[
        "whole",
        "next statement ignored",
        "cut line left out",
        "broken line counts",
        "syntax error",
        "nothing of it belongs to the function",
        "blank",
    ],
)
def test_first_function_parses(completion: str, complete: bool, valid: bool) -> None:
    assert first_function_parses(PROMPT, completion, complete=complete) is valid


def test_first_function_does_not_parse_when_there_is_none() -> None:
    assert not first_function_parses("x = 1\n", "y = 2\n", complete=True)
