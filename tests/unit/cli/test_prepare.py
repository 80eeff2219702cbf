from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

_SESSION = """\
session: {name: made}
model: {config: {model_type: llama}}
phases:
  - name: first
    objective: causal_lm
    duration: 10 steps
    data: {source: text_files, arguments: {paths: ["*.txt"]}, sequence_length: 16, held_out_frac: 0.5}
    batch: {global_size: 8, micro_size: 2}
    optimizer: {lr: 1e-3}
  - name: second
    objective: sft
    duration: 10 steps
    data: {source: "chats:Chats", sequence_length: 64, held_out_frac: 0.5}
    batch: {global_size: 8, micro_size: 2}
    optimizer: {lr: 1e-3}
"""
_PAIRS = """
import time
from pathlib import Path
from phaseline.data.sources import Pair

class Chats:
    shape = "pairs"

    def fingerprint(self):
        return "1"

    def samples(self):
        for idx in range(8):
            yield Pair(f"pair {idx}", "ask?", "" if idx == 1 else "tell\\n")
        endless = 8
        while Path("endless").exists():
            yield Pair(f"pair {endless}", "ask?", "tell " * 1000)
            endless += 1
            time.sleep(0.001)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "made.yaml").write_text(_SESSION, encoding="utf-8")
    (tmp_path / "chats.py").write_text(_PAIRS, encoding="utf-8")
    for idx in range(9):
        (tmp_path / f"{idx}.txt").write_text(f"text {idx} " * 20, encoding="utf-8")
    return tmp_path


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "phaseline", "prepare", "made.yaml", *words]


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PHASELINE_CACHE": str(folder / "cache")}


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*words),
        cwd=folder,
        env=_environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )


def _start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        _command(*words),
        cwd=folder,
        env=_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _stores(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / "stores").iterdir())


def test_prepare_says_what_every_phase_gets(folder: Path) -> None:
    done = _run(folder)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "preparing text_files"
    assert lines[1].startswith("phase first: text_files: train ")
    assert lines[3].startswith("phase second: chats:Chats: train ")
    assert lines[3].endswith("dropped 1 (empty completion)")
    assert not (folder / "runs").exists()
    assert len(_run(folder).stdout.splitlines()) == 2


def test_prepare_puts_data_where_the_session_says(folder: Path) -> None:
    assert _run(folder, "-o", "preparation.cache=here").returncode == 0
    assert (folder / "here" / "stores").is_dir()
    assert not (folder / "cache" / "stores").exists()


def test_preview_marks_what_is_learnt_and_prepares_nothing(folder: Path) -> None:
    done = _run(folder, "--preview", "--phase", "second", "--samples", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "What is between ⟦ and ⟧ is learnt, the rest is only read.\n"
        "\n--- phase second: chats:Chats: pair 0: 10 tokens, 6 learnt\n"
        "ask?⟦tell\n<eos>⟧\n"
        "\n--- phase second: chats:Chats: pair 1: dropped, empty completion\n"
    )
    assert not (folder / "cache").exists()


def test_preview_cuts_a_long_sample_short(folder: Path) -> None:
    (folder / "0.txt").write_text("x" * 9000, encoding="utf-8")
    done = _run(folder, "--preview", "--phase", "first", "--samples", "1")
    assert done.stdout.endswith(
        f"9001 tokens, 9001 learnt\n⟦{'x' * 4000}⟧\n(the first 4000 characters)\n"
    )


def test_preview_is_coloured_on_a_terminal(folder: Path) -> None:
    output = _on_a_terminal(folder, "--preview", "--phase", "second", "--samples", "1")
    assert "\x1b[2mask?\x1b[0m\x1b[32mtell" in output
    assert "⟦" not in output


def test_prepare_leaves_only_its_result_on_a_terminal(folder: Path) -> None:
    output = _on_a_terminal(folder)
    assert "phase second: chats:Chats: train " in output
    assert "samples" in output


def _on_a_terminal(folder: Path, *words: str) -> str:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        _command(*words), cwd=folder, env={**_environment(folder), "TERM": "xterm"}, stdout=theirs
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            block = os.read(ours, 4096)
        except OSError:
            break
        if not block:
            break
        output += block
    os.close(ours)
    assert process.wait() == 0
    return output.decode()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preview", "--shard", "1/2"], "--shard has no effect with --preview"),
        (["--phase", "first"], "--phase has no effect without --preview"),
        (["--samples", "3"], "--samples has no effect without --preview"),
        (["--preview", "--phase", "third"], "the session's phases are first, second"),
        (["--shard", "3/2"], "--shard is '3/2'; it must be as 2/8"),
        (["-o", "phases[0].data.learn=all"], "which has no effect: causal_lm trains on text"),
    ],
)
def test_prepare_ends_2_when_it_is_called_wrongly(
    folder: Path, words: Sequence[str], message: str
) -> None:
    done = _run(folder, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_shards_in_jobs_of_their_own_are_put_together(folder: Path) -> None:
    first = _start(folder, "--shard", "1/2")
    second = _start(folder, "--shard", "2/2")
    assert [job.communicate()[1] for job in (first, second)] == ["", ""]
    done = _run(folder)
    assert "putting 2 shards of text_files together" in done.stdout
    assert "putting 2 shards of chats:Chats together" in done.stdout


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.nightly),
        pytest.param(signal.SIGTERM, marks=pytest.mark.nightly),
        signal.SIGKILL,
    ],
)
def test_prepare_leaves_nothing_half_done_when_it_is_stopped(folder: Path, number: int) -> None:
    (folder / "endless").touch()
    job = _start(folder, "-o", "preparation.processes=1")
    assert job.stdout is not None
    while job.stdout.readline().strip() != "preparing chats:Chats":
        pass
    workers = _workers_of(job)
    job.send_signal(number)
    _, error = job.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert job.returncode == 75
        assert f"{signal.Signals(number).name}: what was finished stays in the cache" in error
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    entries = [path for path in _stores(folder) if path.suffix != ".lock"]
    assert len([path for path in entries if not path.name.startswith(".")]) == 1
    (folder / "endless").unlink()
    assert _run(folder).returncode == 0
    assert len([path for path in _stores(folder) if path.suffix != ".lock"]) == 2


def _workers_of(job: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that help, once there are some."""
    process = psutil.Process(job.pid)
    workers: list[psutil.Process] = []
    while not workers:
        assert job.poll() is None
        workers = process.children()
    return workers


def test_prepare_ends_1_when_a_process_of_it_is_killed(folder: Path) -> None:
    (folder / "endless").touch()
    job = _start(folder, "-o", "preparation.processes=1")
    _workers_of(job)[0].kill()
    _, error = job.communicate(timeout=60)
    assert job.returncode == 1
    assert "ended with signal SIGKILL" in error
    assert [path for path in _stores(folder) if path.name.startswith(".")] == []


def test_preview_spells_out_what_would_move_a_terminal(folder: Path) -> None:
    rows = [{"id": "\x1b[31m", "text": "a word"}, {"id": "2", "text": "a word"}]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = "phases[0].data={source: files, arguments: {paths: [rows.jsonl], columns: {id: id, text: text}}, sequence_length: 16, held_out_frac: 0.5}"
    done = _run(folder, "--preview", "--phase", "first", "-o", source)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "--- phase first: files: \\x1b[31m" in done.stdout
