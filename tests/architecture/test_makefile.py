"""What `make` starts, on machines of other kinds than this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("num_gpus", "visible", "said"),
    [
        (0, None, ""),
        (1, None, " --processes 1"),
        (2, None, ""),
        (2, "1", " --processes 1"),
        (1, "", ""),  # on the CPU
    ],
)
def test_quickstart_starts_one_rank_where_there_is_one_gpu(
    tmp_path: Path, num_gpus: int, visible: str | None, said: str
) -> None:
    program(tmp_path / "venv/bin/phaseline", 'echo "$@"')
    program(tmp_path / "venv/bin/python", f'exec {sys.executable} "$@"')
    (tmp_path / "venv/.installed").touch()
    lines = "".join(f"echo 'GPU {idx}: NVIDIA H200'\n" for idx in range(num_gpus))
    program(tmp_path / "bin/nvidia-smi", lines)
    variables = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    for name in ("CUDA_VISIBLE_DEVICES", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
        variables.pop(name, None)
    if visible is not None:
        variables["CUDA_VISIBLE_DEVICES"] = visible
    done = subprocess.run(
        ["make", "--no-print-directory", "quickstart", f"VENV={tmp_path / 'venv'}", "ARGS=--help"],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"launch configs/quickstart.yaml{said} --help\n"
