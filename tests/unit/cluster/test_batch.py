from __future__ import annotations

import subprocess
import sys

import pytest

from phaseline.cluster import batch
from phaseline.errors import ExitCode


def test_program_of_a_job_says_what_to_use_outside_of_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert batch.main(["configs/tiny.yaml"]) == ExitCode.USAGE
    assert "Use `phaseline launch CONFIG`" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["phaseline.cluster.batch", "phaseline.cluster.node"])
def test_watchers_of_a_job_import_no_torch(module: str) -> None:
    """They run for as long as the job does, and must answer a signal at once."""
    text = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", text], check=True)
