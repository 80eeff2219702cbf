from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_CODE = """
import json, os, signal, sys
from pathlib import Path
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.process_image import replace_image
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.distributed.world import World
from phaseline.resilience.stop_flag import StopFlag
from phaseline.session import linux

flag = StopFlag()
flag.listen()
environment = RankEnvironment.read()
facts = {"pid": os.getpid(), "image": environment.image, "attempt": environment.attempt}
facts["session_dir"] = environment.session_dir
facts["argument"] = sys.argv[1]
if environment.image == 0:
    kept = os.open(sys.argv[1], os.O_RDONLY)
    dropped = os.open(sys.argv[1], os.O_RDONLY)
    os.set_inheritable(dropped, True)
    os.environ["KEPT"], os.environ["DROPPED"] = str(kept), str(dropped)
    print(json.dumps(facts))
    world = World(environment, Rendezvous(environment, timeout_s=30), collective_timeout_s=30)
    if sys.argv[2] == "blocked":
        linux.block_stop_signals()
    # Any thread may take it: those of the libraries block nothing.
    os.kill(os.getpid(), signal.SIGTERM)
    replace_image(world, attempt=3, session_dir=Path('run'), stop_signal=lambda: flag.number, keep=(kept,))
facts["stop"] = flag.reason
facts["kept"] = os.read(int(os.environ["KEPT"]), 100).decode()
try:
    os.fstat(int(os.environ["DROPPED"]))
    facts["dropped"] = False
except OSError:
    facts["dropped"] = True
print(json.dumps(facts))
"""


@pytest.mark.parametrize("moment", ["before", "blocked"])
def test_replace_image_keeps_process_command_and_stop_but_no_file_that_is_not_named(
    tmp_path: Path, moment: str
) -> None:
    file = tmp_path / "kept.txt"
    file.write_text("still here")
    done = subprocess.run(
        [sys.executable, "-c", _CODE, str(file), moment],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    before, after = [json.loads(line) for line in done.stdout.splitlines()]
    assert (before["image"], before["attempt"]) == (0, None)
    assert after == {
        "pid": before["pid"],
        "image": 1,
        "attempt": 3,
        "session_dir": str(tmp_path / "run"),
        "argument": str(file),
        # Asked for when the old image had no time left to obey.
        "stop": "SIGTERM",
        "kept": "still here",
        "dropped": True,
    }
