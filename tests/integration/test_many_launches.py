"""Many launches that begin at the same moment on one machine: all of their ranks meet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NUM_LAUNCHES = 20
LIMIT_S = 600.0

# What `phaseline launch` does, with ranks that only meet and count themselves.
LAUNCH = """
import os, sys
from pathlib import Path
from phaseline.cluster.addresses import ports_of
from phaseline.cluster.launch_command import LaunchCommand, Machines, build_launch_command
from phaseline.cluster.launcher import Launcher

machines = Machines(port=next(ports_of(os.getpid())))
built = build_launch_command(Path("unused"), num_processes=2, has_gpu=False, machines=machines)
argv = [*built.argv[: built.argv.index("-m", 2)], "meet.py", sys.argv[1]]
sys.exit(Launcher(LaunchCommand(argv, built.environment), say=print).run())
"""
MEET = """
import sys
from pathlib import Path
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous

environment = RankEnvironment.read()
rendezvous = Rendezvous(environment, timeout_s=300)
rendezvous.publish(f"from/{environment.rank}", sys.argv[1])
other = rendezvous.wait_for(f"from/{1 - environment.rank}", timeout_s=300)
rendezvous.barrier("met")
with Path("met").open("a") as file:
    file.write(f"{sys.argv[1]} {other} {environment.master_port}\\n")
rendezvous.leave()
"""


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_ranks_of_twenty_launches_at_once_all_meet_their_own(tmp_path: Path) -> None:
    (tmp_path / "launch.py").write_text(LAUNCH)
    (tmp_path / "meet.py").write_text(MEET)
    launches = [
        subprocess.Popen(
            [sys.executable, "launch.py", str(number)],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(NUM_LAUNCHES)
    ]
    try:
        ended = [(one.communicate(timeout=LIMIT_S)[0], one.returncode) for one in launches]
    finally:
        for one in launches:
            one.kill()
    assert [output for output, code in ended if code != 0] == []
    met = [line.split() for line in (tmp_path / "met").read_text().splitlines()]
    assert sorted(mine for mine, _, _ in met) == sorted(
        str(number) for number in range(NUM_LAUNCHES) for _ in range(2)
    )
    assert all(mine == other for mine, other, _ in met)
    assert len({port for _, _, port in met}) == NUM_LAUNCHES
