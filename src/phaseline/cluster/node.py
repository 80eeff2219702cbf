"""What runs on every node of a SLURM job: counts the GPUs, starts the ranks, watches them.

`srun` starts one of these per node. Everything that differs from node to node is worked out
here, in the task's own environment.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from phaseline.cluster.accelerators import count_gpus
from phaseline.cluster.addresses import interface_towards
from phaseline.cluster.agent_record import keep_agent_output
from phaseline.cluster.launch_command import LaunchCommand, Machines, build_launch_command
from phaseline.cluster.launcher import Launcher
from phaseline.cluster.refusal import REFUSAL_VARIABLE
from phaseline.errors import ExitCode, PhaselineError, UsageError
from phaseline.session.files import write_json_once
from phaseline.session.layout import SessionLayout


@dataclass(frozen=True)
class NodePlace:
    """A node among the nodes of a job step.

    Attributes:
        idx: Its number, from 0.
        count: How many nodes there are.
        name: Its name.
        peer: Another node, or the only one: whoever it has to reach.
        num_gpus: GPUs that SLURM gave to the job here; None: it gave none out.
    """

    idx: int
    count: int
    name: str
    peer: str
    num_gpus: int | None

    @classmethod
    def read(cls, main: str, peer: str, variables: Mapping[str, str] = os.environ) -> NodePlace:
        """Reads the place of this task."""
        idx = int(variables.get("SLURM_NODEID", "0"))
        given = variables.get("SLURM_GPUS_ON_NODE")
        return cls(
            idx=idx,
            count=int(variables.get("SLURM_STEP_NUM_NODES", "1")),
            name=variables.get("SLURMD_NODENAME") or socket.gethostname(),
            peer=peer if idx == 0 else main,
            num_gpus=int(given) if given else None,
        )


def require_gpus(place: NodePlace, num_processes: int, num_visible: int) -> None:
    """Refuses a node that has fewer GPUs than ranks; the others would wait for its ranks.

    Args:
        place: The node.
        num_processes: Ranks per node.
        num_visible: GPUs that a rank would see here; 0 also where there is no driver.

    Raises:
        UsageError: Naming the node.
    """
    found = [count for count in (place.num_gpus, num_visible or None) if count is not None]
    if found and min(found) < num_processes:
        raise UsageError(
            f"{place.name} has {min(found)} GPU(s) for this job, and {num_processes} ranks are to "
            "run on every node. Ask for nodes that are alike (cluster.constraint, "
            f"cluster.gpus_per_node), or set cluster.processes_per_node to {min(found)}."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs this node's ranks; 0 if all of them ended as they meant to."""
    options = _parse(arguments)
    place = NodePlace.read(options.main, options.peer)
    num_visible = count_gpus()
    try:
        require_gpus(place, options.processes, num_visible)
    except PhaselineError as error:
        return _refuse(error)
    command = _command(options, place, has_gpu=num_visible > 0)
    launcher = Launcher(command, flash=_say, is_told_alone=False)
    code = launcher.run()
    if code and launcher.output.own_trouble:
        _say(launcher.output.own_trouble.rstrip())
    keep_agent_output(
        launcher.output,
        code,
        SessionLayout(options.session),
        since=options.since,
        host=place.name,
        node_idx=place.idx,
        first_rank=place.idx * options.processes,
    )
    return int(ExitCode.FINISHED if code == 0 else ExitCode.FAILED)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="phaseline.cluster.node")
    parser.add_argument("config", type=Path, help="the session file")
    parser.add_argument("--session", type=Path, required=True, help="the session's directory")
    parser.add_argument("--since", type=int, required=True, help="the newest attempt before")
    parser.add_argument("--processes", type=int, required=True, help="ranks per node")
    parser.add_argument("--main", required=True, help="the first node")
    parser.add_argument("--peer", required=True, help="a node that the first has to reach")
    parser.add_argument("--port", type=int, required=True, help="where ranks meet")
    parser.add_argument("-o", "--override", action="append", default=[])
    parser.add_argument("--accept-change", action="append", default=[])
    return parser.parse_args(arguments)


def _command(options: argparse.Namespace, place: NodePlace, *, has_gpu: bool) -> LaunchCommand:
    interface = interface_towards(place.peer) if place.count > 1 else None
    return build_launch_command(
        options.config,
        overrides=options.override,
        session_dir=options.session,
        num_processes=options.processes,
        has_gpu=has_gpu,
        accept_changes=options.accept_change,
        machines=Machines(place.count, place.idx, options.main, options.port, interface),
    )


def _refuse(error: PhaselineError) -> int:
    """Leaves the reason for whoever started the step; of several nodes the first is heard."""
    path = os.environ.get(REFUSAL_VARIABLE)
    if path:
        with suppress(OSError, PhaselineError):
            write_json_once(Path(path), {"code": int(error.exit_code), "message": str(error)})
    _say(f"phaseline: {error}")
    return int(ExitCode.FAILED)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
