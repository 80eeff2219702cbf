"""The example of a wandb sweep, run by wandb's own agent against a server on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from architecture.source_tree import ROOT
from phaseline.config.resolved import from_yaml
from phaseline.session.identity import load_identity
from phaseline.session.layout import SessionLayout
from unit.tracking.wandb_server import WandbServer

pytestmark = pytest.mark.extended("two whole sessions, launched by wandb's agent")

RATES = {"trial1": 0.001, "trial2": 0.01}


def _command(run_id: str, lr: float) -> dict[str, Any]:
    return {
        "type": "run",
        "run_id": run_id,
        "program": "phaseline",
        "args": {"defaults.optimizer.lr": {"value": lr}},
    }


@pytest.mark.one_rank
def test_every_trial_of_the_example_is_a_session_and_a_run_of_its_own(tmp_path: Path) -> None:
    sweep: dict[str, Any] = YAML(typ="safe").load(ROOT / "examples" / "sweep" / "sweep.yaml")
    # As the example, but where this test may write.
    sweep["command"].insert(-1, f"session.root={tmp_path / 'runs'}")
    bin_dir = Path(sys.executable).parent
    with WandbServer().serving() as server:
        server.sweep = sweep
        server.sweep_commands = [_command(*item) for item in RATES.items()]
        done = subprocess.run(
            [sys.executable, "-m", "wandb", "agent", "--count", "2", "me/sweeps/sw1"],
            cwd=ROOT,
            env={
                **os.environ,
                "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
                "WANDB_BASE_URL": server.url,
                "WANDB_API_KEY": "0" * 40,
                "WANDB_DIR": str(tmp_path),
                "PHASELINE_CACHE": str(tmp_path / "cache"),
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    for run_id, lr in RATES.items():
        layout = SessionLayout(tmp_path / "runs" / f"sweep-{run_id}")
        identity = load_identity(layout)
        assert identity is not None, done.stderr
        assert (identity.state, identity.wandb_id) == ("finished", run_id)
        config = from_yaml(layout.config_file.read_text())
        assert config.phases[0].optimizer.lr == lr
        run = server.runs[run_id]
        assert run.upserts[0]["sweep"] == "sw1"
        rows = [row for row in run.rows if "pretrain/train/loss" in row]
        assert [row["global_step"] for row in rows] == [1, 2, 3, 4, 5, 6]
        assert "pretrain/validation/loss" in run.summary
    assert set(server.runs) == set(RATES)
