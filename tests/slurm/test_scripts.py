"""The scripts of six shapes, and the one for those who edit it, before the real sbatch."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from slurm.cluster import Cluster
from slurm.shapes import ROOT, SHAPES, golden


@pytest.mark.parametrize(
    "path",
    [*map(golden, SHAPES), ROOT / "slurm" / "session.sbatch"],
    ids=lambda path: str(path.stem),
)
def test_script_is_accepted_by_sbatch(path: Path, cluster: Cluster) -> None:
    done = subprocess.run(
        ["sbatch", "--test-only", str(path), "configs/tiny.yaml"],
        cwd=ROOT,
        env={**os.environ, **cluster.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"Job \d+ to start at", done.stderr)
