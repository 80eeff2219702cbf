"""The README tells the truth: its commands are run, its file is trained, its messages appear."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from phaseline.config.loading import load_config
from phaseline.errors import ConfigurationError
from unit.tracking.wandb_server import WandbServer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LIMIT_S = 280
SHORT = '-o "phases[*].duration=3 steps" -o "phases[*].schedule.warmup=null"'


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every command of the console blocks, without comments and output."""
    lines = [line for block in blocks("console") for line in block.splitlines()]
    with_prompt = {block for block in blocks("console") if block.startswith("$ ")}
    outputs = {line for block in with_prompt for line in block.splitlines() if line[:2] != "$ "}
    return [
        line.removeprefix("$ ").partition("  #")[0].partition(" # ")[0].strip()
        for line in lines
        if line not in outputs and line
    ]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    binaries = Path(sys.executable).parent
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "PHASELINE_CACHE": str(folder / "cache"),
        },
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the README's own session file and the texts that it trains on."""
    path = tmp_path_factory.mktemp("readme")
    (path / "mine.yaml").write_text(blocks("yaml")[0])
    shutil.copy(ROOT / "README.md", path)
    shutil.copytree(ROOT / "docs", path / "docs")
    return path


def test_commands_are_those_that_the_tests_below_run() -> None:
    assert commands() == [
        "make quickstart",
        "make test",
        ".venv/bin/phaseline launch configs/quickstart.yaml",
        "phaseline validate mine.yaml",
        "phaseline prepare mine.yaml --preview",
        "phaseline launch mine.yaml",
        "phaseline launch mine.yaml -o phases[pretrain].optimizer.lr=1e-3 --session runs/other",
        "phaseline status runs",
        "phaseline metrics runs/mine --format csv",
        "phaseline report runs/mine",
        "phaseline watch runs/mine",
        "phaseline sync runs/mine",
        "phaseline verify runs/mine",
        "phaseline export runs/mine --to models/mine",
        "phaseline sample runs/mine --prompt 'def add(a, b):'",
        "phaseline submit mine.yaml --dry-run",
        "accelerate launch --config_file launch/gpu_8.yaml -m phaseline run mine.yaml",
        "sbatch --job-name mine slurm/session.sbatch mine.yaml",
    ]


@pytest.mark.extended("the quick start of three phases, shortened")
def test_make_quickstart_trains_three_phases_and_the_same_command_says_so(folder: Path) -> None:
    session = folder / "quickstart"
    shortened = f"{SHORT} -o tokenizer.train.vocab_size=600 --session {session}"
    command = f"make -C {ROOT} quickstart ARGS='{shortened}'"
    first = run(command, folder)
    assert first.returncode == 0, first.stdout + first.stderr
    for phase in ("pretrain", "long_context", "instruct"):
        assert f"{phase}: " in first.stderr
    assert "bits per byte" in first.stderr
    assert (session / "exports" / "instruct" / "model.safetensors").is_file()
    assert (session / "report.html").is_file()
    again = run(command, folder)
    assert again.returncode == 0
    assert "The session is finished." in again.stdout + again.stderr


def test_make_test_is_a_target() -> None:
    assert run("make -n test", ROOT).returncode == 0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """Where wandb's runs go."""
    with WandbServer().serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
        yield server


@pytest.mark.extended("every command of the README")
def test_shortest_session_trains_and_can_be_looked_at(folder: Path, server: WandbServer) -> None:
    for command in commands():
        if not command.startswith("phaseline "):
            continue
        if "--session" in command:
            command = f"{command} {SHORT}"
        done = run(command, folder)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    [run_there] = server.runs.values()
    assert len(run_there.rows) > 90
    program = blocks("python")[0] + "\nprint('ended with', int(outcome.code))\n"
    (folder / "program.py").write_text(program)
    done = run(f"{sys.executable} program.py", folder)
    assert "ended with 0" in done.stdout, done.stdout + done.stderr


def test_files_that_are_named_exist() -> None:
    links = list(re.findall(r"\]\(([^)#:]+)\)", README))
    named = ["launch/gpu_8.yaml", "slurm/session.sbatch", "configs/quickstart.yaml", *links]
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_messages_read_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    phase = """
  - name: NAME
    objective: causal_lm
    duration: 10 steps
    data: {source: python_stdlib, sequence_length: 64}
    batch: {global_size: 8, micro_size: 4}
    optimizer:
      lr: LR
""".strip("\n")
    first = phase.replace("NAME", "a").replace("LR", "1e-3")
    second = phase.replace("NAME", "b").replace("LR", "-0.1\n      weigth_decay: 0.1")
    head = "session: {name: mine}\nmodel: {config: {model_type: llama}}\nphases:\n"
    lines = (head + first + "\n").splitlines()
    lines += ["#"] * (31 - len(lines) - 7)
    Path("mine.yaml").write_text("\n".join(lines) + "\n" + second + "\n")
    with pytest.raises(ConfigurationError, match="2 faults") as raised:
        load_config(Path("mine.yaml"))
    shown = next(block for block in blocks("text") if "weigth_decay" in block)
    assert sorted(str(fault) for fault in raised.value.faults) == sorted(shown.splitlines())
