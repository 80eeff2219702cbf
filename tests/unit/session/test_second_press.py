from __future__ import annotations

import pytest

from phaseline.session.second_press import Press, SecondPress

FIRST, SAME, SECOND = Press.FIRST, Press.SAME, Press.SECOND


@pytest.mark.parametrize(
    ("times", "meanings"),
    [
        ([0.0], [FIRST]),
        ([0.0, 0.01], [FIRST, SAME]),
        ([0.0, 0.01, 0.7], [FIRST, SAME, SECOND]),
        ([0.0, 1.9], [FIRST, SECOND]),
        ([0.0, 5.0], [FIRST, FIRST]),
        ([0.0, 5.0, 5.1, 6.0], [FIRST, FIRST, SAME, SECOND]),
        ([0.0, 0.1, 0.2, 0.3, 0.4, 0.6], [FIRST, SAME, SAME, SAME, SAME, SECOND]),
    ],
)
def test_second_press_is_one_soon_after_another_and_not_the_same(
    times: list[float], meanings: list[Press]
) -> None:
    clock = iter(times)
    presses = SecondPress(lambda: next(clock))
    assert [presses.count() for _ in times] == meanings
