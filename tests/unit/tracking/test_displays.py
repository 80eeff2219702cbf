from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import termios
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TextIO

import pytest

from phaseline.tracking.console import NullDisplay, PhaseBanner, Progress
from phaseline.tracking.display_building import build_display
from phaseline.tracking.plain_display import PlainDisplay
from phaseline.tracking.rich_display import RichDisplay

BANNER = PhaseBanner("long_context", 1, 3, 1200, "causal_lm on 2 ranks")
START = Progress(
    phase="long_context", phase_idx=1, num_phases=3, step=10, num_steps=1200, global_step=910
)
MIDDLE = replace(
    START,
    step=600,
    loss=2.34567,
    validation_loss=2.5,
    lr=3e-4,
    grad_norm=0.8471,
    tokens_per_s=12_431.0,
    phase_left_s=192.0,
    session_left_s=3720.0,
)
END = replace(MIDDLE, step=1200, loss=2.1, phase_left_s=0.0)


class Terminal:
    """A real terminal with its two ends."""

    def __init__(self) -> None:
        self._main, self._other = pty.openpty()
        self.stream: TextIO = os.fdopen(self._other, "w", encoding="utf-8")
        self.resize(80)

    def resize(self, width: int) -> None:
        fcntl.ioctl(self._main, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))

    def read(self) -> str:
        """What was written since the last time."""
        os.set_blocking(self._main, False)
        parts = []
        with suppress(BlockingIOError):
            while True:
                parts.append(os.read(self._main, 1 << 16))
        return b"".join(parts).decode().replace("\r\n", "\n")

    def close(self) -> None:
        self.stream.close()
        os.close(self._main)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


def _plain_text(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]|\r", "", text)


def _lines(stream: io.StringIO) -> list[str]:
    """Lines without their time of day, which all of them have."""
    lines = stream.getvalue().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    return [line[9:] for line in lines]


def test_build_display_chooses_by_stream_when_auto(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    assert isinstance(build_display("auto", terminal.stream), RichDisplay)
    assert isinstance(build_display("auto", io.StringIO()), PlainDisplay)
    assert isinstance(build_display("rich", io.StringIO()), RichDisplay)
    assert isinstance(build_display("plain", terminal.stream), PlainDisplay)
    assert isinstance(build_display("off", terminal.stream), NullDisplay)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(build_display("auto", terminal.stream), PlainDisplay)


def test_plain_display_says_everything_in_a_line_when_all_is_known() -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream, interval_s=3600)
    display.phase_started(BANNER)
    display.update(MIDDLE)
    heading, line = _lines(stream)
    assert heading == "phase 2/3 long_context: 1,200 steps; causal_lm on 2 ranks"
    assert line == (
        "2/3 long_context step 600/1,200 (50%) | loss 2.3457 | val 2.5000 | lr 3.00e-04 | "
        "grad norm 0.847 | tokens/s 12.4k | left 3m 12s | session left 1h 02m"
    )
    assert stream.getvalue().isascii()


def test_plain_display_leaves_out_what_is_unknown_when_it_begins() -> None:
    stream = io.StringIO()
    PlainDisplay(stream, interval_s=3600).update(START)
    assert _lines(stream) == ["2/3 long_context step 10/1,200 (0%)"]


def test_plain_display_keeps_quiet_within_the_interval_when_updated_often() -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream, interval_s=3600)
    for step in (1, 2, 3):
        display.update(replace(MIDDLE, step=step))
    assert [line.split(" | ")[0] for line in _lines(stream)] == [
        "2/3 long_context step 1/1,200 (0%)"
    ]
    display.close()
    display.close()
    assert _lines(stream)[1:] == [_lines(stream)[0].replace("step 1/", "step 3/")]


def test_plain_display_shows_the_last_step_once_when_the_phase_ends() -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream, interval_s=3600)
    display.update(MIDDLE)
    display.update(END)
    display.close()
    assert [line.split(" | ")[0] for line in _lines(stream)] == [
        "2/3 long_context step 600/1,200 (50%)",
        "2/3 long_context step 1,200/1,200 (100%)",
    ]


def test_rich_display_fits_its_lines_when_the_terminal_has_80_columns(terminal: Terminal) -> None:
    display = RichDisplay(terminal.stream)
    display.phase_started(BANNER)
    display.update(START)
    terminal.read()
    display.update(END)
    shown = _plain_text(terminal.read()).strip("\n").splitlines()
    assert len(shown) == 3
    assert all(len(line) < 80 for line in shown)
    assert shown[0].startswith("2/3 long_context")
    assert shown[0].rstrip().endswith("1,200 / 1,200  100%")
    names, values = (re.split(r" {2,}| (?=all)", line.strip()) for line in shown[1:])
    assert names == ["loss", "val loss", "lr", "grad norm", "tokens/s", "phase left", "all left"]
    assert values == ["2.1000", "2.5000", "3.00e-04", "0.847", "12.4k", "0s", "1h 02m"]


@pytest.mark.parametrize(("width", "num_rows"), [(60, 2), (40, 3), (24, 4)])
def test_rich_display_shows_every_value_in_rows_when_the_terminal_is_narrow(
    terminal: Terminal, width: int, num_rows: int
) -> None:
    terminal.resize(width)
    RichDisplay(terminal.stream).update(MIDDLE)
    shown = _plain_text(terminal.read()).strip("\n").splitlines()
    assert all(len(line) < width for line in shown)
    assert len(shown) == 1 + 2 * num_rows
    values = " ".join(shown[2::2]).split()
    assert values == ["2.3457", "2.5000", "3.00e-04", "0.847", "12.4k", "3m", "12s", "1h", "02m"]


def test_rich_display_ends_a_phase_in_one_line_when_the_terminal_is_narrow(
    terminal: Terminal,
) -> None:
    terminal.resize(60)
    display = RichDisplay(terminal.stream)
    display.update(END)
    terminal.read()
    display.close()
    [shown] = _plain_text(terminal.read()).splitlines()
    assert shown == "done long_context  1,200 steps, loss 2.1000, val 2.5000"


def test_rich_display_breaks_notes_between_words_and_keeps_paths_whole(terminal: Terminal) -> None:
    terminal.resize(40)
    path = "/a/path/that/is/longer/than/the/terminal/is/wide"
    RichDisplay(terminal.stream).note(f"everything that was ever written lies in {path}")
    shown = [line.rstrip() for line in _plain_text(terminal.read()).splitlines()]
    assert shown == ["everything that was ever written lies", "in", path]


def test_rich_display_wipes_what_the_launcher_wrote_below_it(terminal: Terminal) -> None:
    display = RichDisplay(terminal.stream)
    display.note("before anything is drawn")
    # On the free line, which it leaves where it is.
    terminal.stream.write("\r\x1b[KCtrl-C: saves at the next step")
    terminal.stream.flush()
    terminal.read()
    display.note("a note")
    assert terminal.read() == "\ra note\x1b[K\n\x1b[J"


def test_plain_display_leaves_out_what_is_of_another_step() -> None:
    stream = io.StringIO()
    PlainDisplay(stream, interval_s=3600).update(replace(MIDDLE, is_read=False))
    [line] = _lines(stream)
    assert line == (
        "2/3 long_context step 600/1,200 (50%) | val 2.5000 | tokens/s 12.4k | left 3m 12s | "
        "session left 1h 02m"
    )


def test_displays_count_samples_where_no_tokens_are() -> None:
    stream = io.StringIO()
    PlainDisplay(stream, interval_s=3600).update(replace(MIDDLE, unit="samples"))
    assert "| samples/s 12.4k |" in stream.getvalue()
    assert "tokens" not in stream.getvalue()


def test_rich_display_goes_up_over_wrapped_rows_when_the_terminal_shrinks(
    terminal: Terminal,
) -> None:
    display = RichDisplay(terminal.stream)
    display.update(END)
    terminal.read()
    display.update(END)
    assert terminal.read().startswith("\x1b[4A\r")
    terminal.resize(50)
    display.update(END)
    # Three of the four lines were wider than 50 columns, so a terminal wrapped each of them.
    assert terminal.read().startswith("\x1b[7A\r")


def test_rich_display_leaves_a_line_per_phase_when_phases_end(terminal: Terminal) -> None:
    display = RichDisplay(terminal.stream)
    display.phase_started(BANNER)
    display.update(END)
    display.phase_started(replace(BANNER, name="instruct", idx=2))
    display.update(replace(MIDDLE, phase="instruct", phase_idx=2))
    display.note("[bold]a note is no markup[/bold]")
    display.close()
    display.close()
    written = terminal.read()
    text = _plain_text(written)
    assert "done long_context  1,200 steps, loss 2.1000, val 2.5000, tokens/s 12.4k" in text
    assert "stopped instruct  at step 600 of 1,200, loss 2.3457" in text
    assert text.count("stopped") == 1
    assert "[bold]a note is no markup[/bold]" in text
    # Nothing that a killed process would leave behind: the cursor is never hidden.
    assert "\x1b[?" not in written


def test_rich_display_writes_ascii_when_the_terminal_knows_nothing_else() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    RichDisplay(stream).update(END)
    assert "1,200 / 1,200" in raw.getvalue().decode("ascii")


@pytest.mark.parametrize("kind", ["rich", "plain"])
def test_display_goes_on_in_silence_when_its_stream_is_gone(kind: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(os.dup(writing), "w") as closed:
        pass
    gone = os.fdopen(writing, "w")
    for stream in (gone, closed):
        display = build_display("rich" if kind == "rich" else "plain", stream, 0.001)
        display.phase_started(BANNER)
        display.update(MIDDLE)
        display.note("nobody reads this")
        display.close()
    with pytest.raises(BrokenPipeError, match="Broken pipe"):
        gone.close()
