"""The `accelerate launch` command that runs a session on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from phaseline.distributed.environment import OF_AN_IMAGE

_ACCELERATE_CONFIG = Path(__file__).with_name("accelerate.yaml")
_SHUTDOWN_TIMEOUT_S = 120
"""What torch's agent leaves the ranks between SIGTERM and SIGKILL: time for one save."""


class Machines(NamedTuple):
    """The machines that ranks run on, as one of them sees it.

    Attributes:
        num: How many there are.
        rank: Which one this is.
        main_address: Name or address of the first.
        port: Where the ranks meet, on the first; 0: on any that is free there.
        interface: Network interface towards the others; None: gloo finds one.
    """

    num: int = 1
    rank: int = 0
    main_address: str = ""
    port: int = 0
    interface: str | None = None


class LaunchCommand(NamedTuple):
    """A command and the whole environment it runs in."""

    argv: list[str]
    environment: dict[str, str]


def build_launch_command(
    config_path: Path,
    *,
    overrides: Sequence[str] = (),
    session_dir: Path | None = None,
    num_processes: int,
    has_gpu: bool,
    take_over: bool = False,
    accept_changes: Sequence[str] = (),
    machines: Machines = Machines(),  # noqa: B008 - it never changes
    variables: Mapping[str, str] = os.environ,
) -> LaunchCommand:
    """Builds the command that starts the ranks of a session on this machine.

    Args:
        config_path: The session file.
        overrides: `key=value` texts, handed on as `-o`.
        session_dir: The session directory; None leaves it to the configuration.
        num_processes: Ranks to start on this machine.
        has_gpu: Whether ranks run on GPUs.
        take_over: Whether a lease that another holds is taken.
        accept_changes: Settings whose changes are accepted, handed on as `--accept-change`.
        machines: This machine and the others.
        variables: The environment to start from. What the user set there stays.
    """
    argv = [
        *(sys.executable, "-m", "phaseline.cluster.agent"),
        *("--config_file", str(_ACCELERATE_CONFIG)),
        # Ranks on CPUs too: accelerate refuses --cpu with DeepSpeed, and without DeepSpeed
        # starts one process whatever number was asked for.
        "--use_deepspeed",
        *_place(machines, num_processes),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
        # Else torch's agent leaves an empty folder in the temporary directory at every start.
        *("--log_dir", os.devnull),
        *("-m", "phaseline", "run", str(config_path)),
    ]
    for override in overrides:
        argv += ["-o", override]
    if session_dir is not None:
        argv += ["--session", str(session_dir)]
    if take_over:
        argv.append("--take-over")
    for key in accept_changes:
        argv += ["--accept-change", key]
    return LaunchCommand(argv, _environment(variables, num_processes, has_gpu, machines))


def _place(machines: Machines, num_processes: int) -> list[str]:
    total = machines.num * num_processes
    # Port 0: accelerate looks for a free one itself, right before it is taken.
    words = ["--num_machines", str(machines.num), "--num_processes", str(total)]
    words += ["--main_process_port", str(machines.port)]
    if machines.num > 1:
        words += ["--machine_rank", str(machines.rank)]
        words += ["--main_process_ip", machines.main_address]
        # accelerate's own default needs pdsh and ssh between the machines.
        words += ["--deepspeed_multinode_launcher", "standard"]
    return words


def _environment(
    variables: Mapping[str, str], num_processes: int, has_gpu: bool, machines: Machines
) -> dict[str, str]:
    defaults = {
        "OMP_NUM_THREADS": str(max(1, _num_cores() // num_processes)),
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(_SHUTDOWN_TIMEOUT_S),
    }
    if not has_gpu:
        # Else DeepSpeed probes for devices, and every process warns that it found none.
        defaults["DS_ACCELERATOR"] = "cpu"
        if machines.num == 1 and Path("/sys/class/net/lo").exists():
            # gloo would listen on the address that the host's name resolves to, which may
            # not exist, or change while a laptop moves between networks.
            defaults["GLOO_SOCKET_IFNAME"] = "lo"
    if machines.interface is not None:
        # Else gloo listens where the host's name leads, which may be 127.0.1.1 (Debian).
        defaults["GLOO_SOCKET_IFNAME"] = machines.interface
    # Torch's launcher reads its own arguments from the first, and would wait for other machines.
    # The others are a rank's own: with them what it starts would take itself for its next image.
    given = {
        name: value
        for name, value in variables.items()
        if not name.startswith("PET_") and name not in OF_AN_IMAGE
    }
    return {**defaults, **given}


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
