from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from phaseline.cluster.launch_command import LaunchCommand, build_launch_command

ROOT = Path(__file__).parents[3]
ALLOWED_LAUNCH_KEYS = {
    "compute_environment",
    "deepspeed_config",
    "distributed_type",
    "machine_rank",
    "main_process_port",
    "mixed_precision",
    "num_machines",
    "num_processes",
    "rdzv_backend",
    "same_network",
}


def _build(**changes: object) -> LaunchCommand:
    arguments = {"num_processes": 2, "has_gpu": False, "variables": {"PATH": "/bin"}, **changes}
    return build_launch_command(Path("configs/a.yaml"), **arguments)  # type: ignore[arg-type]  # a test's own mapping


def test_build_launch_command_ends_with_the_command_of_every_rank() -> None:
    command = _build(
        overrides=["a=1", "b.c=x y"], session_dir=Path("runs/s"), take_over=True, num_processes=4
    )
    start = command.argv.index("-m", 2)
    assert command.argv[:3] == [sys.executable, "-m", "phaseline.cluster.agent"]
    assert command.argv[start:] == [
        *("-m", "phaseline", "run", "configs/a.yaml"),
        *("-o", "a=1", "-o", "b.c=x y", "--session", "runs/s", "--take-over"),
    ]
    assert command.argv[command.argv.index("--num_processes") + 1] == "4"


def test_build_launch_command_gives_accelerate_a_configuration_that_exists() -> None:
    argv = _build().argv
    assert Path(argv[argv.index("--config_file") + 1]).is_file()


def test_build_launch_command_shares_the_cores_when_threads_are_not_set() -> None:
    cores = len(os.sched_getaffinity(0))
    assert _build(num_processes=1).environment["OMP_NUM_THREADS"] == str(cores)
    assert _build(num_processes=10 * cores).environment["OMP_NUM_THREADS"] == "1"


def test_build_launch_command_keeps_what_the_user_set() -> None:
    variables = {
        "OMP_NUM_THREADS": "7",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "9",
        "GLOO_SOCKET_IFNAME": "eth7",
        "CUDA_VISIBLE_DEVICES": "",
    }
    environment = _build(variables=variables).environment
    assert {name: environment[name] for name in variables} == variables


def test_build_launch_command_leaves_devices_and_network_alone_when_there_is_a_gpu() -> None:
    environment = _build(has_gpu=True).environment
    names = {"CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR", "GLOO_SOCKET_IFNAME"}
    assert names.isdisjoint(environment)


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.yaml")), ids=lambda p: p.stem)
def test_launch_file_describes_the_machine_and_no_training(path: Path) -> None:
    content = YAML(typ="safe").load(path)
    assert set(content) <= ALLOWED_LAUNCH_KEYS
    assert set(content["deepspeed_config"]) <= {"deepspeed_multinode_launcher"}
    assert content["distributed_type"] == "DEEPSPEED"


def test_build_launch_command_leaves_out_what_torch_reads_its_arguments_from() -> None:
    variables = {"PATH": "/bin", "PET_NNODES": "2", "PET_RDZV_ENDPOINT": "far:1", "PETS": "3"}
    environment = _build(variables=variables).environment
    assert [name for name in environment if name.startswith("PET")] == ["PETS"]


def test_build_launch_command_leaves_out_what_a_rank_tells_its_next_image() -> None:
    names = ("IMAGE", "ATTEMPT", "SESSION", "TERMINAL_FD", "CACHE")
    variables = {f"PHASELINE_{name}": "1" for name in names}
    environment = _build(variables=variables).environment
    assert [name for name in environment if name.startswith("PHASELINE")] == ["PHASELINE_CACHE"]
