from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from phaseline.cluster.step import JobStep, build_step_command
from phaseline.config.cluster_section import ContainerSection

VARIABLES = {"SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "16"}


def command(container: ContainerSection | None = None) -> list[str]:
    return build_step_command(["module", "argument"], container, variables=VARIABLES)


def test_step_has_one_task_per_node_with_the_cpus_of_the_job() -> None:
    words = command()
    assert words[:4] == ["srun", "--export=ALL", "--kill-on-bad-exit=1", "--ntasks-per-node=1"]
    assert " ".join(words[4:8]) == "--ntasks 2 --cpus-per-task 16"
    assert words[-4:] == [sys.executable, "-m", "module", "argument"]


def test_container_sees_the_folder_one_submits_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    container = ContainerSection(image="a.sif", mounts=("/data:/data",), python="python3")
    words = command(container)
    inside = words[words.index("apptainer") :]
    assert inside[:5] == ["apptainer", "exec", "--nv", "--pwd", str(tmp_path)]
    assert inside[5:9] == ["--bind", f"{tmp_path}:{tmp_path}", "--bind", "/data:/data"]
    assert inside[9] == "a.sif"
    assert inside[-4:] == ["python3", "-m", "module", "argument"]
    pyxis = command(container.model_copy(update={"runtime": "pyxis"}))
    assert "--container-image=a.sif" in pyxis
    assert f"--container-mounts={tmp_path}:{tmp_path},/data:/data" in pyxis


def test_step_passes_signals_on_and_keeps_what_was_said(capfd: pytest.CaptureFixture[str]) -> None:
    text = "trap 'echo told >&2; exit' USR1; echo ready >&2; while :; do sleep 0.05; done"
    step = JobStep(["bash", "-c", text], {"PATH": "/usr/bin:/bin"})

    def meanwhile() -> None:
        if "ready" in step.words:
            step.tell(signal.SIGUSR1)

    step.run(meanwhile)
    assert list(step.words) == ["ready", "told"]
    assert capfd.readouterr().err == "ready\ntold\n"
