from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

_CONFIGS = Path(__file__).parents[3] / "configs"
_QUICKSTART = _CONFIGS / "quickstart.yaml"


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "phaseline", "validate", *words],
        capture_output=True,
        text=True,
        check=False,
    )


def test_validate_summarises_phases_when_file_is_valid() -> None:
    done = _run(str(_QUICKSTART))
    assert done.returncode == 0
    assert done.stderr == ""
    first, *phases, last = done.stdout.splitlines()
    assert first.endswith("is valid: session quickstart in runs/quickstart/")
    assert [line.split(":")[0] for line in phases] == [f"  phases[{idx}]" for idx in range(3)]
    assert "phase long_context, objective causal_lm" in phases[1]
    assert "engine ZeRO-2" in phases[1]
    assert last.startswith("Run it with: phaseline launch ")


def test_validate_shows_precision_and_offload_when_they_are_set() -> None:
    engine = "phases[pretrain].engine"
    done = _run(
        str(_QUICKSTART), "-o", f"{engine}.precision=bf16", "-o", f"{engine}.offload=optimizer"
    )
    assert done.returncode == 0
    _, first, second, *_ = done.stdout.splitlines()
    assert ", engine ZeRO-1 bf16 offload, ranks" in first
    assert ", engine ZeRO-2, ranks" in second


def test_validate_prints_every_fault_and_ends_2_when_file_is_broken() -> None:
    done = _run(
        str(_CONFIGS / "tiny.yaml"), "-o", "session.seed=x", "-o", "phases[0].optimizer.lr=-1"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "2 faults in the configuration:" in done.stderr
    assert "session.seed is 'x'" in done.stderr
    assert "(-o phases[0].optimizer.lr=-1)" in done.stderr
    assert "Traceback" not in done.stderr


def test_validate_imports_nothing_heavy_when_run() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "phaseline", "validate", str(_QUICKSTART)],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "phaseline.config.loading" in imported
    assert not imported & {"torch", "transformers", "deepspeed", "accelerate", "numpy"}


def test_validate_keeps_a_phase_on_one_line_when_terminal_has_80_columns() -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "phaseline", "validate", str(_QUICKSTART)],
            stdout=theirs,
            env={**os.environ, "TERM": "dumb", "COLUMNS": "80"},
            check=True,
        )
        output = os.read(ours, 65536).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.returncode == 0
    rows = [line.split() for line in output.splitlines() if line.strip()]
    assert ["phase", "objective", "duration", "batch", "rate", "engine", "ranks"] in rows
    assert ["instruct", "sft"] in [row[:2] for row in rows if row[-1] == "2x8x1"]


def test_validate_finds_faults_of_a_member_of_an_array() -> None:
    members = "cluster.array=[session.seed=1, session.sead=2]"
    done = _run(str(_QUICKSTART), "-o", members)
    assert done.returncode == 2
    assert "session.sead is no known key" in done.stderr
    done = _run(str(_QUICKSTART), "-o", members, "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["valid"] is False


@pytest.mark.parametrize("setting", ["cluster.nodes=2", "cluster.array=[session.seed=1]"])
def test_validate_names_the_command_that_runs_what_is_more_than_one_machines(setting: str) -> None:
    done = _run(str(_QUICKSTART), "-o", setting, "-o", "cluster.processes_per_node=1")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("Run it with: phaseline submit ")
