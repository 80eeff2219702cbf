from __future__ import annotations

from pathlib import Path

import pytest

from phaseline.cluster.accelerators import count_gpus

TWO_GPUS = "GPU 0: NVIDIA H200 (UUID: GPU-1)\n  MIG 1g.18gb Device 0: (UUID: MIG-1)\nGPU 1: NVIDIA H200 (UUID: GPU-2)"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `nvidia-smi` that a test writes; alone on the path but for the shell."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "nvidia-smi"


def _install(driver: Path, answer: str, *, code: int = 0) -> None:
    driver.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\nexit {code}\n")
    driver.chmod(0o755)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, 2), ("", 0), ("0", 1), ("0,1", 2), ("-1", 0), ("1,-1,0", 1), ("GPU-2", 1)],
)
def test_count_gpus_obeys_the_visible_devices(
    driver: Path, visible: str | None, expected: int
) -> None:
    _install(driver, TWO_GPUS)
    variables = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert count_gpus(variables) == expected


def test_count_gpus_is_zero_when_the_driver_does_not_answer(driver: Path) -> None:
    _install(driver, "NVIDIA-SMI has failed", code=9)
    assert count_gpus({"CUDA_VISIBLE_DEVICES": "0"}) == 0


def test_count_gpus_is_zero_when_there_is_no_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert count_gpus({}) == 0
