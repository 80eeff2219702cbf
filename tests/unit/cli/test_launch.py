from __future__ import annotations

import time
from pathlib import Path

import pytest

from phaseline.cli import main
from phaseline.config.loading import load_config
from phaseline.config.resolved import to_yaml
from phaseline.errors import ExitCode
from phaseline.session.identity import SessionIdentity, save_identity
from phaseline.session.layout import SessionLayout

CONFIG = """
session: {name: tiny}
model:
  config: {model_type: llama, hidden_size: 32, num_hidden_layers: 1}
phases:
  - name: only
    objective: causal_lm
    duration: 4 steps
    data: {source: python_stdlib, sequence_length: 16}
    batch: {global_size: 4, micro_size: 2}
    optimizer: {lr: 1e-3}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A session file, on a machine without a GPU and with nothing to start ranks with."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    return path


def _launch(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["launch", *arguments])
    return int(end.value.code or 0)


def _finish(config: Path, folder: Path) -> None:
    layout = SessionLayout(folder)
    folder.mkdir()
    loaded = load_config(config, session_dir=folder)
    layout.config_file.write_text(to_yaml(loaded.config))
    identity = SessionIdentity(
        id="0",
        name="tiny",
        created=time.time(),
        config_fingerprint="",
        wandb_id="",
        phaseline_version="",
        state="finished",
        validated=[],
        place="",
    )
    save_identity(layout, identity)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "cluster.nodes=2"], "cluster.nodes is 2"),
        (["-o", "phases[0].optimizer.lr=-1"], "phases[0].optimizer.lr"),
        (["--processes", "0"], "--processes"),
        # 4 sequences over 3 ranks with 2 each: a third of the rows would be empty.
        (["--processes", "3"], "global_size"),
    ],
)
def test_launch_refuses_before_anything_starts(
    config: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _launch(str(config), *options) == ExitCode.USAGE
    assert message in capsys.readouterr().err


def test_launch_refuses_more_ranks_than_gpus(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H200'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert _launch(str(config), "--processes", "2") == ExitCode.USAGE
    assert "1 GPU(s) are visible" in capsys.readouterr().err


def test_launch_says_so_and_starts_nothing_when_the_session_is_finished(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _finish(config, tmp_path / "s")
    options = ["--session", str(tmp_path / "s"), "-o", "session.notes=kept"]
    assert _launch(str(config), *options) == 0
    assert "The session is finished." in capsys.readouterr().err
    assert not SessionLayout(tmp_path / "s").attempts_dir.exists()
