"""The job step in which a session's ranks run: one task per node, started by srun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from phaseline.config.cluster_section import ContainerSection

_MAX_LINES = 200
_LOOK_EVERY_S = 0.5
_LAST_WORDS_S = 5.0


def build_step_command(
    program: Sequence[str],
    container: ContainerSection | None,
    *,
    variables: Mapping[str, str] = os.environ,
) -> list[str]:
    """The srun command that runs a module of Phaseline once per node.

    Args:
        program: The module and its arguments.
        container: What it runs in.
        variables: The job's environment.
    """
    # All that the script loaded and set, also where jobs begin without their user's variables.
    command = ["srun", "--export=ALL", "--kill-on-bad-exit=1", "--ntasks-per-node=1"]
    command += ["--ntasks", variables.get("SLURM_JOB_NUM_NODES", "1")]
    if "SLURM_CPUS_PER_TASK" in variables:
        # srun takes it from the job no more, since SLURM 22.05.
        command += ["--cpus-per-task", variables["SLURM_CPUS_PER_TASK"]]
    inside = [sys.executable if container is None else container.python, "-m", *program]
    command += _container_words(container)
    # What tasks print goes where srun's output goes, so that on its error output there are
    # only its own words, which say why SLURM ended the step.
    return [*command, "sh", "-c", 'exec "$@" 2>&1', "phaseline", *inside]


def _container_words(container: ContainerSection | None) -> Iterator[str]:
    if container is None:
        return
    folder = str(Path.cwd())
    mounts = [f"{folder}:{folder}", *container.mounts]
    if container.runtime == "pyxis":
        yield f"--container-image={container.image}"
        yield f"--container-mounts={','.join(mounts)}"
        yield f"--container-workdir={folder}"
        return
    yield from ("apptainer", "exec", "--nv", "--pwd", folder)
    for mount in mounts:
        yield from ("--bind", mount)
    yield container.image


class JobStep:
    """One run of srun."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Takes the command; nothing is started."""
        self._command = list(command)
        self._environment = dict(environment)
        self._process: subprocess.Popen[str] | None = None
        self.words: deque[str] = deque(maxlen=_MAX_LINES)
        """What srun itself said."""

    def run(self, meanwhile: Callable[[], object]) -> None:
        """Runs the step to its end.

        Args:
            meanwhile: Called twice a second.
        """
        with subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        ) as process:
            self._process = process
            thread = threading.Thread(target=self._listen, args=(process,), daemon=True)
            thread.start()
            while process.poll() is None:
                meanwhile()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_EVERY_S)
            thread.join(_LAST_WORDS_S)

    def tell(self, number: signal.Signals) -> None:
        """Sends every process of the step a signal; srun passes it on to all nodes."""
        if self._process is not None:
            self._process.send_signal(number)

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.words.append(line.rstrip())
            sys.stderr.write(line)
            sys.stderr.flush()
