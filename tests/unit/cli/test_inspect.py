from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from phaseline.cli import main
from phaseline.config.resolved import to_yaml
from phaseline.config.sections import Config
from phaseline.errors import ExitCode
from phaseline.session.attempts import (
    Adopted,
    ErrorRecord,
    Outcome,
    take_attempt,
    write_adopted,
    write_error,
    write_outcome,
)
from phaseline.session.files import write_text
from phaseline.session.identity import SessionIdentity, save_identity
from phaseline.session.layout import AttemptLayout, SessionLayout
from phaseline.session.lease import Lease
from phaseline.session.records import RecordWriter
from phaseline.session.starting import announced
from unit.checkpoint.made_checkpoints import make_checkpoint
from unit.covered_lines import covered_of

HOLD = """
import sys
from pathlib import Path
from phaseline.session.layout import SessionLayout
from phaseline.session.lease import Lease
lease = Lease.acquire(SessionLayout(Path(sys.argv[1])))
print("held", flush=True)
sys.stdin.readline()
"""


class Session:
    """Writes a session's directory as a run would, without running."""

    def __init__(self, root: Path) -> None:
        self.layout = SessionLayout(root)
        root.mkdir(parents=True)
        self.identity = SessionIdentity(
            id="0f",
            name=root.name,
            created=0.0,
            config_fingerprint="f",
            wandb_id="w",
            phaseline_version="0.1.0",
            state="open",
            validated=[],
            place="",
        )
        save_identity(self.layout, self.identity)
        write_text(self.layout.config_file, to_yaml(_config(root.name)))

    def finish(self) -> None:
        save_identity(self.layout, replace(self.identity, state="finished"))

    def begin(self, *committed: tuple[int, int], resumed_from: Path | None = None) -> AttemptLayout:
        attempt = take_attempt(self.layout)
        names = () if resumed_from is None else (str(resumed_from.relative_to(self.layout.root)),)
        write_adopted(
            attempt,
            Adopted(names, names[0] if names else None, covered_of(self.layout, *committed)),
        )
        return attempt

    def train(self, attempt: AttemptLayout, phase: str, steps: range, *, of: int) -> None:
        events, metrics = RecordWriter(attempt.events_file), RecordWriter(attempt.metrics_file)
        events.append([{"time": 0.0, "event": "phase_started", "phase": phase, "num_steps": of}])
        metrics.append(
            [
                {
                    "kind": "train",
                    "phase": phase,
                    "phase_step": step,
                    "global_step": step,
                    "tokens": 1000 * step,
                    "metrics": {f"{phase}/train/loss": step / 2 if step != 3 else float("nan")},
                    "timing": {"time": 100.0 + step},
                    "samples": [{"prompt": "a", "completion": "b", "valid": None}],
                }
                for step in steps
            ]
        )
        events.close()
        metrics.close()

    def save(self, attempt: AttemptLayout, phase: str, step: int, *, final: bool = False) -> Path:
        return make_checkpoint(
            self.layout.phase(phase).checkpoints_dir,
            step,
            attempt.number,
            phase=phase,
            final=final,
            committed=covered_of(self.layout, (attempt.number, step)),
        )


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "runs" / "demo")


@pytest.fixture
def holder(session: Session) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the session."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(session.layout.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def _config(name: str) -> Config:
    phase = {
        "objective": "causal_lm",
        "data": {"sources": ({"source": "python_stdlib"},), "sequence_length": 8},
        "batch": {"global_size": 1, "micro_size": 1},
        "optimizer": {"lr": 0.1},
    }
    return Config.model_validate(
        {
            "session": {"name": name},
            "model": {"factory": "a:b"},
            "phases": (
                {**phase, "name": "pretrain", "duration": "80 tokens"},
                {**phase, "name": "instruct", "duration": "2 epochs"},
            ),
        }
    )


def _run(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


def _status(capsys: pytest.CaptureFixture[str], directory: Path) -> str:
    assert _run("status", directory) == 0
    return capsys.readouterr().out


def _words(output: str, first: str) -> list[str]:
    """The cells of the table's line that begins so."""
    (line,) = [line for line in output.splitlines() if line.startswith(f"  {first} ")]
    return re.split(r" {2,}", line.strip())


def test_status_shows_what_waits_when_nothing_was_started(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    output = _status(capsys, session.layout.root)
    assert output.startswith("demo: created\n")
    assert _words(output, "holder") == ["holder", "nobody"]
    assert _words(output, "pretrain") == ["pretrain", "waiting", "0 of 80 tokens", *"----"]


def test_status_shows_phases_and_attempts_when_a_run_was_stopped(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    first = session.begin()
    session.train(first, "pretrain", range(1, 11), of=10)
    final = session.save(first, "pretrain", 10, final=True)
    second = session.begin((1, 10), resumed_from=final)
    session.train(second, "instruct", range(1, 6), of=20)
    saved = session.save(second, "instruct", 5)
    os.utime(saved, (time.time() - 3725, time.time() - 3725))
    write_outcome(second, Outcome(ExitCode.STOPPED, "SIGTERM", time.time()))
    output = _status(capsys, session.layout.root)
    assert output.startswith("demo: stopped\n")
    assert "  saved   phases/instruct/run-1/checkpoints/step-00000005.a0002, 1h 02m ago" in output
    assert _words(output, "pretrain")[:6] == [
        *("pretrain", "trained", "10 of 10", "100%", "5.0000", "10.0k")
    ]
    assert _words(output, "instruct")[:6] == [
        *("instruct", "interrupted", "5 of 20", "25%", "2.5000", "5.00k")
    ]
    assert _words(output, "1")[2:] == ["-", "killed", "it left no word"]
    assert _words(output, "2")[3:] == ["stopped", "SIGTERM"]


def test_status_names_rank_and_step_when_an_attempt_failed(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    record = ErrorRecord(1, "node7", "pretrain", 3, "ValueError", "no\nmore", "...", False, 1.0)
    write_error(session.begin(), record)
    output = _status(capsys, session.layout.root)
    assert output.startswith("demo: failed\n")
    assert _words(output, "1")[3:] == ["failed", "rank 1 on node7, pretrain step 3: ValueError: no"]


def test_status_names_the_holder_when_the_session_runs(
    session: Session, holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    session.train(session.begin(), "pretrain", range(1, 3), of=10)
    output = _status(capsys, session.layout.root)
    assert output.startswith("demo: running\n")
    assert re.search(rf"  holder  process {holder.pid} on .*, last sign of life \d+s ago", output)
    assert _words(output, "pretrain")[:3] == ["pretrain", "training", "2 of 10"]
    assert _words(output, "1")[3:] == ["running"]


def test_status_says_that_the_holder_is_gone_when_it_was_killed(
    session: Session, holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    session.train(session.begin(), "pretrain", range(1, 3), of=10)
    holder.kill()
    holder.wait()
    output = _status(capsys, session.layout.root)
    assert output.startswith("demo: killed\n")
    assert f"nobody; process {holder.pid} on " in output
    assert _words(output, "pretrain")[1] == "interrupted"


def test_status_leaves_out_a_checkpoint_when_a_stale_attempt_published_it(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    first = session.begin()
    adopted = session.save(first, "pretrain", 4)
    session.begin((1, 4), resumed_from=adopted)
    session.save(first, "pretrain", 8)
    output = _status(capsys, session.layout.root)
    assert _words(output, "pretrain")[6].startswith("step-00000004.a0001,")


def test_status_shows_a_line_each_when_the_folder_holds_sessions(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    root = session.layout.root.parent
    other = Session(root / "other")
    other.train(other.begin(), "pretrain", range(1, 3), of=10)
    other.finish()
    (root / "no-session").mkdir()
    output = _status(capsys, root)
    assert len(output.splitlines()) == 3
    assert _words(output, "demo") == ["demo", "created", *"-----", "0", "-"]
    assert _words(output, "other") == [
        *("other", "finished", "pretrain", "2 of 10", "20%", "1.0000", "-", "1", "-")
    ]


def test_status_shows_the_others_when_one_session_cannot_be_read(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = SessionLayout(session.layout.root.parent / "broken")
    broken.root.mkdir()
    broken.session_file.write_text("{")
    output = _status(capsys, session.layout.root.parent)
    assert _words(output, "demo")[:2] == ["demo", "created"]
    assert _words(output, "broken")[:2] == ["broken", "unreadable"]
    assert f"broken: {broken.session_file}" in output


def test_status_shows_the_others_when_jobs_of_one_that_waits_cannot_be_read(
    session: Session, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = session.layout.root.parent
    broken, private = SessionLayout(root / "broken"), SessionLayout(root / "private")
    for layout in (broken, private):
        layout.jobs_dir.mkdir(parents=True)
        layout.submitted_file.write_text("{")
    may_look = Path.exists

    def exists(path: Path) -> bool:
        if private.root in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return may_look(path)

    monkeypatch.setattr(Path, "exists", exists)
    output = _status(capsys, root)
    assert _words(output, "demo")[:2] == ["demo", "created"]
    assert _words(output, "broken")[:2] == ["broken", "unreadable"]
    assert f"broken: {broken.submitted_file}" in output
    assert "private" not in output


def test_status_says_that_a_session_is_being_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = SessionLayout(tmp_path / "runs" / "new")
    with announced(layout):
        assert _status(capsys, layout.root) == (
            f"{layout.root} is being started; nothing is recorded yet\n"
        )


def test_status_changes_nothing(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    Lease.acquire(session.layout).release()
    session.train(session.begin(), "pretrain", range(1, 3), of=10)
    before = {path: path.stat().st_mtime_ns for path in session.layout.root.rglob("*")}
    _status(capsys, session.layout.root)
    assert {path: path.stat().st_mtime_ns for path in session.layout.root.rglob("*")} == before


@pytest.mark.parametrize("command", ["status", "metrics"])
def test_command_says_what_to_name_when_there_is_no_session(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(command, tmp_path) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert str(tmp_path) in error
    assert "runs/quickstart" in error


def test_metrics_writes_every_step_once_when_attempts_overlap(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    session.train(session.begin(), "pretrain", range(1, 8), of=10)
    session.train(session.begin((1, 4)), "pretrain", range(5, 11), of=10)
    assert _run("metrics", session.layout.root) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["phase_step"] for record in records] == list(range(1, 11))
    assert [record["seq"] for record in records] == list(range(5, 51, 5))
    assert records[2]["metrics"] == {"pretrain/train/loss": "nan"}
    assert records[0]["samples"]


def test_metrics_says_which_attempt_lost_lines_that_a_checkpoint_stands_on(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt = session.begin()
    session.train(attempt, "pretrain", range(1, 5), of=4)
    session.save(attempt, "pretrain", 4, final=True)
    assert _run("metrics", session.layout.root) == 0
    lines = attempt.metrics_file.read_bytes().splitlines(keepends=True)
    attempt.metrics_file.write_bytes(lines[0] + lines[3])
    capsys.readouterr()
    assert _run("metrics", session.layout.root) == ExitCode.FAILED
    told = capsys.readouterr()
    assert [json.loads(line)["phase_step"] for line in told.out.splitlines()] == [1, 4]
    assert "attempts/0001/metrics.jsonl has lost 2 of the 4 line(s)" in told.err
    assert _run("verify", session.layout.root) == ExitCode.FAILED
    told = capsys.readouterr()
    assert "BAD   attempts/0001/metrics.jsonl has lost 2 of the 4 line(s)" in told.out
    assert "1 of 1 checkpoints are whole" in told.out


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_metrics_counts_lines_that_hold_no_record(
    session: Session, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    attempt = session.begin()
    session.train(attempt, "pretrain", range(1, 5), of=8)
    lines = attempt.metrics_file.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"kind"', b'"kiod"')
    lines[2] = lines[2][:20] + b"\n"
    attempt.metrics_file.write_bytes(b"".join(lines) + b'{"unfinished')
    assert _run("metrics", session.layout.root, "--format", form) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2 + (form == "csv")
    assert told.err == (
        "attempts/0001/metrics.jsonl: 2 line(s) hold no record and are passed over: the disk or "
        "another program changed them.\n"
    )


def test_metrics_writes_a_column_per_metric_when_csv_is_asked_for(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt = session.begin()
    session.train(attempt, "pretrain", range(1, 3), of=2)
    session.train(attempt, "instruct", range(3, 5), of=2)
    assert _run("metrics", session.layout.root, "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == [
        *("seq", "kind", "phase", "phase_step", "global_step", "tokens"),
        *("pretrain/train/loss", "time", "instruct/train/loss"),
    ]
    assert [row["pretrain/train/loss"] for row in rows] == ["0.5", "1.0", "", ""]
    assert [row["instruct/train/loss"] for row in rows] == ["", "", "nan", "2.0"]


def test_metrics_keeps_to_one_phase_when_it_is_named(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt = session.begin()
    session.train(attempt, "pretrain", range(1, 3), of=2)
    session.train(attempt, "instruct", range(3, 5), of=2)
    assert _run("metrics", session.layout.root, "--phase", "instruct") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(record["phase"], record["seq"]) for record in records] == [
        ("instruct", 15),
        ("instruct", 20),
    ]


def test_metrics_names_the_phases_when_the_one_asked_for_is_unknown(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("metrics", session.layout.root, "--phase", "pretrian") == ExitCode.USAGE
    assert "--phase is 'pretrian'" in (error := capsys.readouterr().err)
    assert "Use pretrain or instruct." in error


def test_metrics_ends_quietly_when_the_reader_closes_the_pipe(session: Session) -> None:
    session.train(session.begin(), "pretrain", range(1, 5000), of=5000)
    words = [sys.executable, "-m", "phaseline", "metrics", str(session.layout.root)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["seq"] == 5
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait()


def test_damaged_list_of_jobs_hides_no_other_session(
    session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = session.layout.root.parent
    for name, text in (("begun", "{"), ("waits", '{"jobs": ["x"]}')):
        layout = SessionLayout(folder / name)
        if name == "begun":
            Session(layout.root)
        layout.jobs_dir.mkdir(parents=True)
        layout.submitted_file.write_text(text)
    assert _run("status", str(folder)) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1] for line in out.splitlines() if line.startswith("  ")}
    assert rows["demo"] == "created"
    assert rows["begun"] == rows["waits"] == "unreadable"
    assert out.count("Remove it: only the history of jobs") == 2


def test_times_that_no_calendar_has_are_damage_and_no_traceback(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt = session.begin()
    session.train(attempt, "pretrain", range(1, 3), of=4)
    with attempt.events_file.open("a") as file:
        file.write('{"event": "image_started", "time": 1e300}\n')
    assert _run("status", str(session.layout.root)) == 0
    attempt.outcome_file.write_text('{"code": 75, "reason": "asked", "time": 1e300}')
    capsys.readouterr()
    assert _run("status", str(session.layout.root)) == ExitCode.USAGE
    assert "outcome.json does not hold what this version writes: time is 1e+300" in (
        capsys.readouterr().err
    )


def test_names_of_metrics_are_written_as_text(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt = session.begin()
    session.train(attempt, "pretrain", range(1, 3), of=4)
    path = attempt.metrics_file
    path.write_text(path.read_text().replace("train/loss", "\\u001b[31m\\ud800"))
    assert _run("metrics", session.layout.root, "--format", "csv") == 0
    out = capsys.readouterr().out
    assert "pretrain/\\x1b[31m\\ud800" in out
    assert "\x1b" not in out
