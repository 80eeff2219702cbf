"""A disk that is full in wandb's folder, and nowhere else: training and records do not notice."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from phaseline.session.metrics_view import read_metrics
from unit.tracking.session_builder import SessionBuilder

pytestmark = pytest.mark.extended("wandb on a disk that is full")

# In a namespace of its own, so that the small file system goes with the process.
_FILLED = """
import subprocess, sys, time
from pathlib import Path
from phaseline.errors import ExitCode
from phaseline.session.layout import SessionLayout
from phaseline.tracking.follower import start_follower, wait_for_follower
from unit.tracking.session_builder import SessionBuilder

root = Path(sys.argv[1])
session = SessionBuilder.__new__(SessionBuilder)
session.layout, session.phases = SessionLayout(root), ("pretrain", "instruct")
(root / "wandb").mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", root / "wandb"], check=True)
attempt = session.attempt()
start_follower(root)
# Several times what fits into the folder.
for first in range(1, 6001, 500):
    session.train(attempt, range(first, first + 500))
    time.sleep(0.2)
session.end(attempt, ExitCode.FINISHED)
print(wait_for_follower(root, 60.0))
"""


@pytest.fixture
def namespace() -> list[str]:
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None:
        pytest.skip("needs `unshare`")
    probe = [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the privilege to mount a file system")
    return command


def test_records_are_complete_when_the_folder_of_wandb_is_full(
    session: SessionBuilder, namespace: list[str]
) -> None:
    root = session.layout.root
    done = subprocess.run(
        [*namespace, sys.executable, "-c", _FILLED, str(root)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    # The follower ended by itself, whatever it could not write.
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert [record["global_step"] for record in read_metrics(session.layout)] == list(
        range(1, 6001)
    )
