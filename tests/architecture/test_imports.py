"""Who may import what."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from architecture.source_tree import (
    PACKAGE,
    ROOT,
    imported_packages,
    name_of,
    package_files,
    parse,
)

HEAVY = (
    "torch",
    "accelerate",
    "datasets",
    "deepspeed",
    "matplotlib",
    "pyarrow",
    "transformers",
    "wandb",
)
LIGHT = ("__init__", "errors", "units", "config", "session", "cluster", "cli")
HOMES = {
    "deepspeed": "src/phaseline/distributed/",
    "accelerate": "src/phaseline/distributed/",
    "wandb": "src/phaseline/tracking/wandb_run.py",
    "tensorboard": "src/phaseline/tracking/tensorboard_files.py",
}


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


def _light_modules() -> list[str]:
    paths = [path for path in package_files() if path.relative_to(PACKAGE).parts[0] in LIGHT]
    paths += [PACKAGE / f"{name}.py" for name in LIGHT if (PACKAGE / f"{name}.py").exists()]
    return [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in paths
    ]


def test_imports_run_downward_only() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    answer = subprocess.run([lint_imports], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("package", HOMES)
def test_library_is_imported_only_in_its_home(package: str) -> None:
    strangers = [
        f"{name_of(path)}:{line}"
        for path in package_files()
        for name, line in imported_packages(parse(path))
        if name == package and not name_of(path).startswith(HOMES[package])
    ]
    assert strangers == []


def test_light_modules_import_nothing_heavy() -> None:
    modules = _light_modules()
    answer = _run(
        "import importlib, sys\n"
        f"for name in {modules}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = [lib for lib in {HEAVY} if lib in sys.modules]\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
    "arguments", [["validate", "configs/quickstart.yaml"], ["--help"], ["launch", "--help"]]
)
def test_command_imports_nothing_heavy(arguments: list[str]) -> None:
    answer = _run(
        "import sys\n"
        "from phaseline.cli import main\n"
        "try:\n"
        f"    main({arguments})\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"heavy = [lib for lib in {HEAVY} if lib in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    assert answer.returncode == 0, answer.stderr
