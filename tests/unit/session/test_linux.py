from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from phaseline.session import linux
from unit.session.conftest import StartPython, first_line

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

WaitUntil = Callable[[Callable[[], bool]], None]

SLEEP = "import time; time.sleep(600)"

PARENT_OF_MORTAL_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], *sys.argv[2:]])
child.wait()
"""

MORTAL_CHILD = """
import os, sys, time
from phaseline.session import linux
linux.die_with_parent()
if sys.argv[1] == "exec":
    sleep = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    os.execv(sys.executable, [sys.executable, "-c", sleep])
print(os.getpid(), flush=True)
time.sleep(600)
"""

ORPHAN = """
import os, sys, time
from pathlib import Path
from phaseline.session import linux
if os.fork():
    os._exit(0)
while os.getppid() == int(sys.argv[1]):
    time.sleep(0.01)
print(os.getpid(), os.getppid(), flush=True)
os.environ["TORCHELASTIC_RUN_ID"] = "none"
linux.die_with_parent()
print("lives on", flush=True)
"""

EXEC_ONCE = """
import os, sys
from phaseline.session import linux
print(linux.process_start(os.getpid()), flush=True)
if sys.argv[1:] == ["again"]:
    os.execv(sys.executable, [sys.executable, "-c", sys.orig_argv[2]])
"""

EXEC_WITH_OPEN_FILES = """
import os, sys
from phaseline.session import linux
if sys.argv[1] == "first":
    dropped, kept = os.dup(2), os.dup(2)
    os.set_inheritable(dropped, True)
    linux.set_close_on_exec_from(3)
    os.set_inheritable(kept, True)
    words = [sys.executable, "-c", sys.orig_argv[2], str(dropped), str(kept)]
    os.execv(sys.executable, words)
for descriptor in sys.argv[1:]:
    try:
        os.fstat(int(descriptor))
        print("open")
    except OSError:
        print("closed")
"""

CLOSE_ALL_BUT_ONE = """
import os
from phaseline.session import linux
closed, kept = os.dup(2), os.dup(2)
linux.close_all_but(kept)
for descriptor in (closed, kept, 1):
    try:
        os.fstat(descriptor)
        print("open")
    except OSError:
        print("closed")
"""

EXEC_WITH_PENDING_SIGNAL = """
import os, signal, sys
from phaseline.session import linux
if sys.argv[1:] == ["first"]:
    linux.block_stop_signals()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(os.getpid(), number)
    os.execv(sys.executable, [sys.executable, "-c", sys.orig_argv[2]])
caught = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: caught.append(signal.Signals(number).name))
assert not caught
linux.unblock_stop_signals()
print(*sorted(caught))
"""


def test_process_start_is_none_when_the_process_is_gone_or_a_zombie(
    start_python: StartPython, wait_until: WaitUntil
) -> None:
    process = start_python(SLEEP)
    assert linux.process_start(process.pid) is not None
    process.kill()
    wait_until(lambda: linux.process_start(process.pid) is None)
    assert process.returncode is None  # nobody has waited for it: it is a zombie
    process.wait()
    assert linux.process_start(process.pid) is None


def test_process_start_differs_between_processes(start_python: StartPython) -> None:
    starts = [linux.process_start(start_python(SLEEP).pid), linux.process_start(os.getpid())]
    assert None not in starts
    assert starts[0] != starts[1]


def test_process_start_stays_the_same_over_exec(start_python: StartPython) -> None:
    output, _ = start_python(EXEC_ONCE, "again").communicate()
    before, after = output.split()
    assert before == after


def test_process_start_is_read_when_the_command_has_a_misleading_name(tmp_path: Path) -> None:
    command = tmp_path / "a) Z 1 ("
    command.symlink_to("/bin/sleep")
    process = subprocess.Popen([command, "600"])
    try:
        assert linux.process_start(process.pid) is not None
    finally:
        process.kill()
        process.wait()


def test_boot_id_and_pid_namespace_are_the_same_in_another_process(
    start_python: StartPython,
) -> None:
    code = "from phaseline.session import linux; print(linux.boot_id(), linux.pid_namespace())"
    output, _ = start_python(code).communicate()
    assert output.split() == [linux.boot_id(), linux.pid_namespace()]
    assert linux.boot_id()


@pytest.mark.parametrize("word", ["stay", "exec"])
def test_die_with_parent_ends_the_process_when_its_parent_is_killed(
    start_python: StartPython, wait_until: WaitUntil, word: str
) -> None:
    parent = start_python(PARENT_OF_MORTAL_CHILD, MORTAL_CHILD, word)
    child = int(first_line(parent))
    assert linux.process_start(child) is not None
    parent.kill()
    wait_until(lambda: linux.process_start(child) is None)


def test_die_with_parent_ends_the_process_when_its_launcher_is_already_dead(
    start_python: StartPython, wait_until: WaitUntil
) -> None:
    middle = f"import os, sys; sys.argv.append(str(os.getpid()))\n{ORPHAN}"
    process = start_python(middle)
    pid, parent = map(int, first_line(process).split())
    if parent != 1:
        pytest.skip("needs a process 1 that adopts orphans")
    if any(name in Path("/proc/1/cmdline").read_bytes() for name in linux._LAUNCHERS):
        pytest.skip("needs a process 1 that is no launcher")
    wait_until(lambda: linux.process_start(pid) is None)
    assert first_line(process) == ""


def test_set_close_on_exec_closes_all_but_what_was_kept(start_python: StartPython) -> None:
    output, _ = start_python(EXEC_WITH_OPEN_FILES, "first").communicate()
    assert output.split() == ["closed", "open"]


def test_close_all_but_one_leaves_that_and_the_standard_streams(start_python: StartPython) -> None:
    output, _ = start_python(CLOSE_ALL_BUT_ONE).communicate()
    assert output.split() == ["closed", "open", "open"]


def test_stop_signals_reach_the_next_image_when_they_were_blocked(
    start_python: StartPython,
) -> None:
    output, _ = start_python(EXEC_WITH_PENDING_SIGNAL, "first").communicate()
    assert output.split() == ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"]


def test_pidfd_becomes_readable_when_the_process_ends(start_python: StartPython) -> None:
    process = start_python(SLEEP)
    descriptor = linux.pidfd_open(process.pid)
    try:
        assert select.select([descriptor], [], [], 0)[0] == []
        process.send_signal(signal.SIGKILL)
        assert select.select([descriptor], [], [], 30)[0] == [descriptor]
    finally:
        os.close(descriptor)


def test_pidfd_open_raises_when_there_is_no_such_process(start_python: StartPython) -> None:
    process = start_python("")
    process.wait()
    with pytest.raises(ProcessLookupError, match="No such process"):
        linux.pidfd_open(process.pid)


FREED = """
from pathlib import Path
from phaseline.session import linux

def resident_kilobytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("VmRSS:")]
    return int(line.split()[1])

# Below what glibc gives back by itself, and with survivors between and on top.
blocks = [bytes(50_000) for _ in range(4_000)]
survivors = blocks[::100]
survivors.append(bytes(50_000))
del blocks
before = resident_kilobytes()
linux.return_free_memory()
print(before - resident_kilobytes())
"""


def test_return_free_memory_makes_the_process_smaller_when_much_was_freed() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100_000
