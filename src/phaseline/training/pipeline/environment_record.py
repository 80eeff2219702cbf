"""What each start records of machine, versions and own code, and what of it has changed since.

None of it is compared as settings are: a session goes on under other versions and with other
code. But numbers may differ then, so it is said.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from phaseline import __version__
from phaseline.config.own_code import hash_own_code
from phaseline.config.sections import Config
from phaseline.distributed.environment import RankEnvironment
from phaseline.session.layout import SessionLayout
from phaseline.session.stored import StoredFileError, read_stored

_LIBRARIES = (
    "accelerate",
    "datasets",
    "deepspeed",
    "numpy",
    "peft",
    "pyarrow",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "wandb",
)
_GIT_TIMEOUT_S = 10.0
_NVIDIA = Path("/proc/driver/nvidia")


@dataclass(frozen=True)
class StartedWith:
    """What of an `environment.json` later starts are compared with.

    Attributes:
        versions: Of Python, of this package and of the libraries below it.
        code: Hashes of the user's own modules, by path.
    """

    versions: dict[str, str] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)


def describe_environment(environment: RankEnvironment, config: Config) -> dict[str, Any]:
    """Everything that may explain later why numbers differ, as JSON. No secrets, no CUDA."""
    import torch

    folder = Path.cwd()
    return {
        "versions": find_versions(_LIBRARIES),
        "platform": platform.platform(),
        "host": platform.node(),
        "processor": _processor(),
        "gpus": sorted(_gpus()),
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "started_in": str(folder),
        "world_size": environment.world_size,
        "threads": torch.get_num_threads(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "code": hash_own_code(config, folder),
        "git_commit": _git_commit(folder),
        "started": time.time(),
    }


def find_versions(libraries: tuple[str, ...]) -> dict[str, str]:
    """The versions of Python, of this package, and of those libraries that are installed."""
    found = {"python": platform.python_version(), "phaseline": __version__}
    for name in libraries:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def read_started_with(layout: SessionLayout, before: int) -> StartedWith | None:
    """What the latest attempt before one was started with; None if none has told."""
    for number in reversed([number for number in layout.attempt_numbers() if number < before]):
        with suppress(OSError, StoredFileError):
            return read_stored(layout.attempt(number).environment_file, StartedWith, remedy="")
    return None


def changed_since(before: StartedWith, now: Mapping[str, Any]) -> Iterator[str]:
    """Says what a start finds other than the one before it: versions, then own code.

    Args:
        before: What the attempt before was started with.
        now: This start's `describe_environment`.
    """
    versions = _differences(before.versions, now["versions"])
    if versions:
        changes = ", ".join(f"{name} {old} -> {new}" for name, old, new in versions)
        yield (
            f"versions changed since the last start: {changes}; what follows may differ in "
            "rounding from what these would have made before"
        )
    code = _differences(
        _without_moved(before.code, now["code"]), _without_moved(now["code"], before.code)
    )
    if code:
        names = ", ".join(name for name, _, _ in code)
        yield (
            f"own code changed since the last start: {names}; the session goes on with it as it "
            "is now, and not bit for bit as it began if that changes what is computed"
        )


def _without_moved(here: Mapping[str, str], there: Mapping[str, str]) -> dict[str, str]:
    """Hashes but those of files that lie under another path there, as seen from another folder."""
    moved = {(Path(path).name, digest) for path, digest in there.items() if path not in here}
    return {
        path: digest
        for path, digest in here.items()
        if path in there or (Path(path).name, digest) not in moved
    }


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[tuple[str, str, str]]:
    names = dict.fromkeys([*before, *now])
    pairs = [(name, before.get(name, "none"), now.get(name, "none")) for name in names]
    return [(name, old, new) for name, old, new in pairs if old != new]


def _processor() -> str:
    with suppress(OSError):
        for line in (
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        ):
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor()


def _gpus() -> Iterator[str]:
    """Models of this machine's NVIDIA GPUs. Asking CUDA would start it in this process."""
    for path in _NVIDIA.glob("gpus/*/information"):
        with suppress(OSError):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                key, _, value = line.partition(":")
                if key.strip() == "Model":
                    yield value.strip()


def _driver() -> str | None:
    with suppress(OSError):
        text = (_NVIDIA / "version").read_text(encoding="utf-8", errors="replace")
        return text.partition("\n")[0].removeprefix("NVRM version:").strip()
    return None


def _git_commit(folder: Path) -> str | None:
    """The commit that a folder's files are of; None outside a repository or without git."""
    command = ["git", "-C", str(folder), "rev-parse", "--verify", "HEAD"]
    with suppress(OSError, subprocess.TimeoutExpired):
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False
        )
        if answer.returncode == 0:
            return answer.stdout.strip()
    return None
