"""A real SLURM cluster on one machine: slurmctld, munge, and a slurmd per node.

    python tests/slurm/cluster.py start | stop | status
    python tests/slurm/cluster.py kill-node NODE     all of its processes, as a power cut would
    python tests/slurm/cluster.py start-node NODE    power on; wait until SLURM said it is down
    python tests/slurm/cluster.py kill-slurmd NODE   its daemon only; the job's processes live on
    python tests/slurm/cluster.py start-slurmd NODE
    python tests/slurm/cluster.py cut NODE | heal NODE      unplugs its network, plugs it in
    python tests/slurm/cluster.py run NODE COMMAND...       on that node

Every node has a network, a host name and process ids of its own, and shares the file system,
as the nodes of a cluster do. For Debian and Ubuntu, as root; packages that are missing are
installed with apt. Nothing of the machine's own SLURM or munge is touched, if it has them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from slurm.cluster_files import NETWORK, NODES, NUM_GPUS, Folders, Node, write_files

_BASE = Path("/var/lib/phaseline-slurm")
_BRIDGE = "phl-bridge"
_PACKAGES = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "ip": "iproute2",
}
"""Each program that is needed, and the package that has it."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_USABLE = {"idle", "mixed", "allocated", "completing"}
# Runs in a node's namespaces as their process 1: reaps orphans, and outlives its slurmd.
_NODE_INIT = """
hostname "$1"
mount -t tmpfs -o size=2g,mode=1777 shm /dev/shm
env -i PATH="$3" SLURM_CONF="$2" slurmd -D -s -b -N "$1" &
while :; do sleep 3600 & wait; done
"""


class ClusterError(Exception):
    """The cluster cannot be brought into the state that was asked for."""


def why_impossible() -> str:
    """Why no cluster can be brought up here; empty if one can."""
    if os.geteuid() != 0:
        return "only root can make the namespaces that stand for nodes"
    missing = _missing_packages()
    if missing and shutil.which("apt-get", path=_PATH) is None:
        return f"{', '.join(missing)} are missing, and there is no apt-get to install them"
    if subprocess.run(["unshare", "--net", "--uts", "--pid", "--fork", "true"]).returncode != 0:
        return "the kernel does not let this process make namespaces"
    return ""


def _missing_packages() -> list[str]:
    return [pkg for program, pkg in _PACKAGES.items() if not shutil.which(program, path=_PATH)]


class NotInstalledError(ClusterError):
    """The packages cannot be had here."""


class Cluster:
    """One cluster per machine."""

    def __init__(self, base: Path = _BASE) -> None:
        self.folders = Folders(base)
        self.host = socket.gethostname().partition(".")[0]

    @property
    def environment(self) -> dict[str, str]:
        """What its clients need."""
        return {"SLURM_CONF": str(self.folders.conf)}

    # -- The whole of it

    def start(self) -> None:
        """Brings it up from nothing; returns when every node is idle."""
        problem = why_impossible()
        if problem:
            raise ClusterError(problem)
        self._install()
        self.stop()
        self.folders.make()
        for idx in range(NUM_GPUS):
            # The numbers of /dev/null, which exists everywhere.
            os.mknod(self.folders.gpu(idx), stat.S_IFCHR | 0o666, os.makedev(1, 3))
        write_files(self.folders, self.host)
        self._start_munge()
        self._start_network()
        self._start("slurmctld", ["slurmctld", "-D"])
        for node in NODES:
            self.start_node(node.name)
        self.wait_idle()

    def stop(self) -> None:
        """Takes everything down, also what a killed test run left."""
        if self._is_running("slurmctld"):
            with suppress(subprocess.SubprocessError):
                self.client("scancel", "--user=root", timeout_s=5)
        for what in ("slurmctld", *(node.name for node in NODES), "munged"):
            self._kill(what, signal.SIGTERM if what == "slurmctld" else signal.SIGKILL)
        for node in NODES:
            _ip("netns", "delete", node.namespace, check=False)
            _ip("link", "delete", node.cable, check=False)
            shutil.rmtree(f"/etc/netns/{node.namespace}", ignore_errors=True)
        _ip("link", "delete", _BRIDGE, check=False)
        shutil.rmtree(self.folders.base, ignore_errors=True)

    def use_parameters(self, *parameters: str) -> None:
        """Changes SlurmctldParameters of the running cluster."""
        write_files(self.folders, self.host, parameters)
        self.client("scontrol", "reconfigure")

    def client(self, *command: str, timeout_s: float = 30) -> str:
        """What a client of SLURM answers."""
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode != 0:
            raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def node_states(self) -> dict[str, str]:
        """By name, as sinfo says it; `down*` does not answer."""
        lines = self.client("sinfo", "-h", "-N", "-p", "batch", "-o", "%N %T").splitlines()
        return dict(line.split() for line in lines)

    def wait_idle(self, limit_s: float = 60) -> None:
        """Returns when every node can be used, putting back what an earlier test took away."""
        deadline = time.monotonic() + limit_s
        while True:
            with suppress(ClusterError):
                states = self.node_states()
                if all(states.get(node.name) in _USABLE for node in NODES):
                    return
                for name, state in states.items():
                    if state in ("down", "drained"):
                        self.client("scontrol", "update", f"nodename={name}", "state=resume")
            if time.monotonic() > deadline:
                raise ClusterError(f"nodes did not come up:\n{self.tail()}")
            time.sleep(0.3)

    def tail(self) -> str:
        """The ends of the daemons' logs."""
        logs = sorted((self.folders.base / "log").glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-3000:]}" for log in logs)

    # -- What happens to nodes

    def start_node(self, name: str) -> None:
        """Powers a node on."""
        node = _node(name)
        command = ["ip", "netns", "exec", node.namespace, "unshare", "--uts", "--pid", "--ipc"]
        command += ["--fork", "--kill-child=KILL", "--mount-proc"]
        arguments = [name, str(self.folders.conf), _PATH]
        self._start(name, [*command, "bash", "-c", _NODE_INIT, "node", *arguments])

    def kill_node(self, name: str) -> None:
        """Ends every process of a node at once."""
        self._kill(name, signal.SIGKILL)

    def kill_slurmd(self, name: str) -> None:
        """Ends a node's daemon; processes of jobs live on."""
        for process in self._init_of(name).children():
            if process.name() == "slurmd":
                process.kill()

    def start_slurmd(self, name: str) -> None:
        """Starts a node's daemon again."""
        self.run_on(name, "slurmd", "-N", name)

    def run_on(self, name: str, *command: str) -> None:
        """Runs a command on a node."""
        inside = ["nsenter", "-t", str(self._init_of(name).pid), "-n", "-u", "-m", "-p", "-i"]
        clean = ["env", "-i", f"PATH={_PATH}", f"SLURM_CONF={self.folders.conf}"]
        subprocess.run([*inside, *clean, *command], stdin=subprocess.DEVNULL, check=True)

    def cut(self, name: str) -> None:
        """Unplugs a node's network: nobody is told, nothing is reset."""
        _ip("link", "set", _node(name).cable, "down")

    def heal(self, name: str) -> None:
        """Plugs it in again."""
        _ip("link", "set", _node(name).cable, "up")

    def processes_of(self, name: str) -> Iterator[psutil.Process]:
        """Everything that runs on a node, also what jobs left there."""
        if self._is_running(name):
            yield from self._init_of(name).children(recursive=True)

    # -- The parts

    def _install(self) -> None:
        missing = _missing_packages()
        if not missing:
            return
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
        for command in (install, ["apt-get", "update"], install):
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if not _missing_packages():
                return
        raise NotInstalledError(f"{' '.join(install)} failed: {done.stderr[-500:]}")

    def _start_munge(self) -> None:
        folder = self.folders.munge_socket.parent
        key = folder / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self._start(
            "munged",
            [
                "munged",
                "--foreground",
                f"--socket={self.folders.munge_socket}",
                f"--key-file={key}",
                f"--pid-file={folder / 'own.pid'}",
                f"--seed-file={folder / 'seed'}",
                f"--log-file={self.folders.log('munge')}",
            ],
        )
        _wait_until(self.folders.munge_socket.exists, "munged")

    def _start_network(self) -> None:
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{NETWORK}.1/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        for node in NODES:
            inside = ("-n", node.namespace)
            self._write_resolution(node)
            _ip("netns", "add", node.namespace)
            peer = ("peer", "name", "eth0", "netns", node.namespace)
            _ip("link", "add", node.cable, "type", "veth", *peer)
            _ip("link", "set", node.cable, "master", _BRIDGE, "up")
            _ip(*inside, "link", "set", "lo", "up")
            _ip(*inside, "addr", "add", f"{node.address}/24", "dev", "eth0")
            _ip(*inside, "link", "set", "eth0", "up")
            _ip(*inside, "route", "add", "default", "via", f"{NETWORK}.1")

    def _write_resolution(self, node: Node) -> None:
        folder = Path("/etc/netns") / node.namespace
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folders.conf.parent / "hosts", folder / "hosts")
        # Else every look-up of a name waits 10 s for a name server out of reach.
        (folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")

    def _start(self, what: str, command: Sequence[str]) -> None:
        # In the background of a shell that ends: a node is no child of the test that powers
        # it on, and outlives it.
        shell = 'log=$1; shift; setsid "$@" </dev/null >>"$log" 2>&1 & echo $!'
        done = subprocess.run(
            ["bash", "-c", shell, "start", str(self.folders.log(what)), *command],
            # Nothing of the caller's environment may reach a job's.
            env={"PATH": _PATH, **self.environment},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        self.folders.pid_file(what).write_text(done.stdout.strip())
        time.sleep(0.2)
        if not self._is_running(what):
            raise ClusterError(f"{what} ended at once:\n{self.tail()}")

    def _process(self, what: str) -> psutil.Process | None:
        with suppress(OSError, ValueError, psutil.NoSuchProcess):
            process = psutil.Process(int(self.folders.pid_file(what).read_text()))
            if process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def _is_running(self, what: str) -> bool:
        return self._process(what) is not None

    def _init_of(self, name: str) -> psutil.Process:
        process = self._process(name)
        if process is None:
            raise ClusterError(f"{name} is off")
        # `ip netns exec` becomes `unshare`, whose only child is the node's process 1.
        [init] = process.children()
        return init

    def _kill(self, what: str, number: int) -> None:
        process = self._process(what)
        if process is None:
            return
        process.send_signal(number)
        with suppress(psutil.TimeoutExpired):
            process.wait(15)
        if self._is_running(what):
            process.kill()
            process.wait(15)
        self.folders.pid_file(what).unlink(missing_ok=True)


def _node(name: str) -> Node:
    for node in NODES:
        if node.name == name:
            return node
    raise ClusterError(f"{name} is no node; there are {', '.join(one.name for one in NODES)}")


def _ip(*arguments: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise ClusterError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _wait_until(is_so: Callable[[], bool], what: str, limit_s: float = 10) -> None:
    deadline = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() > deadline:
            raise ClusterError(f"{what} did not come up")
        time.sleep(0.05)


def main(arguments: Sequence[str]) -> None:
    """Does what the module's description lists."""
    cluster = Cluster()
    verb, *words = arguments or [""]
    if verb == "status":
        print(cluster.client("sinfo", "-N", "-o", "%N %P %T %G"), end="")
        return
    verbs: dict[str, Callable[..., None]] = {
        "start": cluster.start,
        "stop": cluster.stop,
        "kill-node": cluster.kill_node,
        "start-node": cluster.start_node,
        "kill-slurmd": cluster.kill_slurmd,
        "start-slurmd": cluster.start_slurmd,
        "cut": cluster.cut,
        "heal": cluster.heal,
        "run": cluster.run_on,
    }
    if verb not in verbs:
        sys.exit(f"{__doc__}")
    try:
        verbs[verb](*words)
    except ClusterError as error:
        sys.exit(f"cluster: {error}")
    if verb == "start":
        print(f"export SLURM_CONF={cluster.folders.conf}")


if __name__ == "__main__":
    main(sys.argv[1:])
