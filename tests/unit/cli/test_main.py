from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from phaseline import __version__
from phaseline.cli import COMMANDS, main
from phaseline.errors import ExitCode, printable


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


def test_main_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--version") == 0
    assert capsys.readouterr().out == f"phaseline {__version__}\n"


def test_main_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--help") == 0
    output = capsys.readouterr().out
    assert [name for name in COMMANDS if f"  {name}" not in output] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(name, "--help") == 0
    assert f"Usage: phaseline {name}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nonsense"], ["launch"], ["launch", "a.yaml", "--what"]])
def test_main_exits_with_usage_when_the_words_are_wrong(arguments: list[str]) -> None:
    assert _run(*arguments) == ExitCode.USAGE


def test_main_prints_the_message_and_no_traceback_when_a_command_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("launch", str(tmp_path / "absent.yaml")) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert "absent.yaml" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("name", ["validate", "launch", "prepare", "submit", "status", "metrics"])
def test_path_that_is_too_long_is_refused_in_a_sentence(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(name, f"{'x' * 300}/session.yaml") == ExitCode.USAGE
    assert "is longer than a path can be. Shorten it." in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "runs/a", "--prompt", "caf\udce9"],
        ["launch", "a.yaml", "--session", "\udce9"],
        ["status", "\udce9"],
    ],
)
def test_argument_that_is_no_text_is_refused_in_a_sentence(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(*arguments) == ExitCode.USAGE
    assert "\\udce9' is no text in UTF-8. Write it in UTF-8" in capsys.readouterr().err


def test_what_would_move_a_terminals_cursor_is_spelt_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "evil\x1b[2J.yaml"
    assert _run("validate", str(path)) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert "evil\\x1b[2J.yaml" in error


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain \u00fc \U0001f600", "plain \u00fc \U0001f600"),
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\u202eright to left", "\\u202eright to left"),
        ("a\u3000b\xa0c \u200d\u200c \u202f", "a\u3000b\xa0c \u200d\u200c \u202f"),
        ("over\rwritten", "over\\rwritten"),
    ],
)
def test_printable_keeps_text_and_spells_out_the_rest(text: str, expected: str) -> None:
    assert printable(text) == expected


@pytest.mark.parametrize("has_line", [False, True], ids=["nothing is read", "a line is read"])
def test_what_is_shown_to_a_reader_that_is_gone_ends_nothing(
    has_line: bool, tmp_path: Path
) -> None:
    code = (
        "import sys; from phaseline.cli.showing import show; show('one'); sys.stdin.readline(); "
        "show(1000 * 'two'); show('three'); show('four', err=True); "
        "open(sys.argv[1], 'w').write('done')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "done")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        if has_line:
            assert process.stdout.readline() == "one\n"
        process.stdout.close()
        process.stdout = None
        _, errors = process.communicate("go on\n", timeout=60)
    assert (process.returncode, errors) == (0, "four\n")
    assert (tmp_path / "done").read_text() == "done"


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [
        (errno.ENOSPC, ExitCode.FAILED, "cannot be read or written now: No space left on device."),
        (errno.ESTALE, ExitCode.FAILED, "cannot be read or written now: Stale file handle."),
        (errno.EROFS, ExitCode.USAGE, "cannot be used: Read-only file system."),
        (errno.EISDIR, ExitCode.USAGE, "cannot be used: Is a directory."),
    ],
)
def test_what_a_file_system_refuses_is_a_sentence_and_1_where_a_retry_may_mend_it(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: ExitCode,
    told: str,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), "runs/a/report.html")

    monkeypatch.setattr("phaseline.cli.report.require_confined", refuse)
    assert _run("report", "runs/a") == code
    assert f"phaseline: runs/a/report.html {told}" in capsys.readouterr().err
