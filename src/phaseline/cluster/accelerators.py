"""Counting GPUs without torch, whose import would cost the launcher a second or two."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

_NVIDIA_SMI_TIMEOUT_S = 30.0


def count_gpus(variables: Mapping[str, str] = os.environ) -> int:
    """Number of NVIDIA GPUs that a rank started from here would see.

    `CUDA_VISIBLE_DEVICES` decides where it is set; else `nvidia-smi -L` is asked. A driver
    that does not answer counts as no GPU.
    """
    installed = _count_installed()
    visible = variables.get("CUDA_VISIBLE_DEVICES")
    if visible is None or installed == 0:
        return installed
    return _count_visible(visible)


def _count_visible(text: str) -> int:
    # CUDA stops reading at the first entry that names no device, as -1.
    count = 0
    for entry in text.split(","):
        name = entry.strip()
        if not name or name.startswith("-"):
            break
        count += 1
    return count


def _count_installed() -> int:
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        answer = subprocess.run(
            [program, "-L"],
            capture_output=True,
            text=True,
            timeout=_NVIDIA_SMI_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    if answer.returncode != 0:
        return 0
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines())
