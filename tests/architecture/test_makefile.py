"""What `make` starts, on machines of other kinds than this one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("num_gpus", "said"), [(0, ""), (1, " --processes 1"), (2, ""), (None, "")]
)
def test_quickstart_starts_one_rank_where_there_is_one_gpu(
    tmp_path: Path, num_gpus: int | None, said: str
) -> None:
    program(tmp_path / "venv/bin/phaseline", 'echo "$@"')
    (tmp_path / "venv/.installed").touch()
    lines = "".join(f"echo 'GPU {idx}: NVIDIA H200'\n" for idx in range(num_gpus or 0))
    program(tmp_path / "bin/nvidia-smi", lines if num_gpus is not None else "exit 9")
    done = subprocess.run(
        ["make", "--no-print-directory", "quickstart", f"VENV={tmp_path / 'venv'}", "ARGS=--help"],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"launch configs/quickstart.yaml{said} --help\n"
