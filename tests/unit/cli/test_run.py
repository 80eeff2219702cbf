"""`phaseline run` ends its process at once, so each test starts one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from phaseline.cluster.refusal import REFUSAL_VARIABLE, last_words, read_refusal
from phaseline.errors import ExitCode
from phaseline.session.attempts import read_error, read_outcome
from phaseline.session.layout import SessionLayout

_TEXT = """\
session: {name: test}
model: {factory: "absent_module:build"}
phases:
  - name: only
    objective: causal_lm
    duration: 10 steps
    data: {source: text_files, arguments: {paths: ["*.txt"]}, sequence_length: 16, held_out_frac: 0.5}
    batch: {global_size: 2, micro_size: 2}
    optimizer: {lr: 0.01}
    engine: {kind: plain}
tracking: {console: "off", wandb: {mode: disabled}}
"""
# Found when the file is read, gone when it is imported.
_MODULE = "raise ImportError('it broke while it was imported')\n"


def run(folder: Path, *words: str, refusal: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    environment["PHASELINE_CACHE"] = str(folder / "cache")
    if refusal is not None:
        environment[REFUSAL_VARIABLE] = str(refusal)
    return subprocess.run(
        [sys.executable, "-m", "phaseline", "run", "session.yaml", "--session", "run", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def prepare(folder: Path) -> None:
    (folder / "session.yaml").write_text(_TEXT)
    (folder / "absent_module.py").write_text(_MODULE)
    for idx in range(12):
        (folder / f"{idx}.txt").write_text("some words " * 30)


def test_run_says_every_fault_and_begins_nothing_when_it_is_configured_wrongly(
    tmp_path: Path,
) -> None:
    prepare(tmp_path)
    done = run(tmp_path, "-o", "phases[0].optimizer.lr=-1")
    assert done.returncode == ExitCode.USAGE
    assert "phases[0].optimizer.lr is -1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_run_leaves_its_refusal_to_the_launcher_when_one_listens(tmp_path: Path) -> None:
    prepare(tmp_path)
    done = run(tmp_path, "-o", "phases[0].optimizer.lr=-1", refusal=tmp_path / "refusal.json")
    assert (done.returncode, done.stderr) == (0, "")
    refusal = read_refusal(tmp_path / "refusal.json")
    assert refusal is not None
    assert refusal.code is ExitCode.USAGE
    assert "phases[0].optimizer.lr is -1" in refusal.message


def test_run_leaves_a_record_and_the_lease_when_it_fails(tmp_path: Path) -> None:
    prepare(tmp_path)
    layout = SessionLayout(tmp_path / "run")
    for number in (1, 2):
        done = run(tmp_path)
        assert done.returncode == ExitCode.USAGE
        assert "it broke while it was imported" in done.stderr
        record = read_error(layout.attempt(number))
        assert record is not None
        assert (record.rank, record.kind, record.phase) == (0, "ConfigurationError", "only")
        assert not record.consequence
        assert "Traceback" in layout.attempt(number).rank_log(0).read_text()
    facts = json.loads(layout.attempt(2).environment_file.read_text())
    assert facts["world_size"] == 1


def test_run_leaves_what_it_cannot_record_where_the_launcher_looks(tmp_path: Path) -> None:
    prepare(tmp_path)
    # The session's directory goes while the module is imported.
    code = "import shutil\nshutil.rmtree('run')\nraise ImportError('it broke')\n"
    (tmp_path / "absent_module.py").write_text(code)
    done = run(tmp_path, refusal=tmp_path / "refusal")
    record = read_error(last_words(tmp_path / "refusal"))
    assert record is not None
    assert "it broke" in record.message
    outcome = read_outcome(last_words(tmp_path / "refusal"))
    assert outcome is not None
    assert outcome.code == done.returncode == ExitCode.USAGE
    # Without a launcher it is told where the command was given.
    assert not (tmp_path / "run").exists()
    assert "it broke" in run(tmp_path).stderr
