from __future__ import annotations

from types import SimpleNamespace

import pytest

from phaseline.data.progress import PlainProgress, RichProgress


def test_plain_progress_says_a_line_per_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0, 10.0, 12.0, 25.0])
    stub = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("phaseline.data.progress.time", stub)
    said: list[str] = []
    plain = PlainProgress(said.append, interval_s=10.0)
    plain.begin("texts")
    for _ in range(4):
        plain.advance(500, 50_000_000)
    plain.end()
    assert said == [
        "preparing texts: 1,000 samples, 100 M characters, 10.0 M/s",
        "preparing texts: 2,000 samples, 200 M characters, 8.0 M/s",
    ]


def test_line_above_the_bar_is_text_whatever_data_put_into_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with RichProgress() as progress:
        progress.say("text is read from \x1b[31m\ud83d[/bold]")
    out = capsys.readouterr().out
    assert r"text is read from \x1b[31m\ud83d[/bold]" in out
    assert "\x1b[31m" not in out
