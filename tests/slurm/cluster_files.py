"""The files of a small SLURM cluster whose nodes are namespaces of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Nodes pretend to be what sessions are submitted to; nothing is held to it.
NUM_CPUS = 64
NUM_GPUS = 8
MEMORY_MB = 512_000
GRACE_S = 30
KILL_WAIT_S = 10
NETWORK = "10.77.9"


@dataclass(frozen=True)
class Node:
    """A compute node.

    Attributes:
        name: Its host name.
        number: From 1.
    """

    name: str
    number: int

    @property
    def address(self) -> str:
        return f"{NETWORK}.{10 + self.number}"

    @property
    def namespace(self) -> str:
        """Its network namespace."""
        return f"phaseline-{self.name}"

    @property
    def cable(self) -> str:
        """The end of its cable on this machine; link names are at most 15 characters."""
        return f"phl-{self.name}"


NODES = tuple(Node(f"node{number}", number) for number in range(1, 5))


@dataclass(frozen=True)
class Folders:
    """Where the cluster keeps everything.

    Attributes:
        base: One folder for all of it.
    """

    base: Path

    @property
    def conf(self) -> Path:
        return self.base / "etc" / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        return self.base / "munge" / "munge.socket"

    def pid_file(self, what: str) -> Path:
        return self.base / "run" / f"{what}.pid"

    def log(self, what: str) -> Path:
        return self.base / "log" / f"{what}.log"

    def gpu(self, number: int) -> Path:
        """A device file that stands for a GPU: SLURM looks at its numbers only."""
        return self.base / "gpu" / f"gpu{number}"

    def make(self) -> None:
        for name in ("etc", "run", "log", "gpu", "state", "spool", "munge"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
            (self.base / name).chmod(0o755)


def write_files(folders: Folders, host: str, parameters: Sequence[str] = ()) -> None:
    """Writes what slurmctld, slurmd and their clients read.

    Args:
        folders: Where to.
        host: The short name of this machine, on which slurmctld runs.
        parameters: Members of SlurmctldParameters.
    """
    etc = folders.conf.parent
    folders.conf.write_text("\n".join(_slurm_conf(folders, host, parameters)) + "\n")
    # Without this slurmd looks for a cgroup tree that a namespace has not.
    (etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
    (etc / "plugstack.conf").touch()
    devices = [
        f"NodeName={node.name} Name=gpu Type=fake File={folders.gpu(idx)}"
        for node in NODES
        for idx in range(NUM_GPUS)
    ]
    (etc / "gres.conf").write_text("\n".join(["AutoDetect=off", *devices]) + "\n")
    hosts = ["127.0.0.1 localhost", f"{NETWORK}.1 {host}"]
    hosts += [f"{node.address} {node.name}" for node in NODES]
    (etc / "hosts").write_text("\n".join(hosts) + "\n")


def _slurm_conf(folders: Folders, host: str, parameters: Sequence[str]) -> Iterator[str]:
    base = folders.base
    yield f"""\
ClusterName=phaseline
SlurmctldHost={host}({NETWORK}.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=6837
SlurmdPort=6838
AuthType=auth/munge
CryptoType=crypto/munge
# A requeued job waits as long as a credential lives; 120 s unless it is said here.
AuthInfo=socket={folders.munge_socket},cred_expire=5
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool/%n
SlurmctldPidFile={folders.pid_file("slurmctld")}
SlurmdPidFile={base}/run/slurmd-%n.pid
SlurmctldLogFile={folders.log("slurmctld")}
SlurmdLogFile={base}/log/slurmd-%n.log
PlugStackConfig={base}/etc/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
# Nodes pretend to have more than this machine has.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=10
TCPTimeout=2
BatchStartTimeout=10
InactiveLimit=0
WaitTime=0
KillWait={KILL_WAIT_S}
MinJobAge=600
CompleteWait=0
UnkillableStepTimeout=60
# A node whose slurmd answers again is used again, whatever took it away.
ReturnToService=2
JobRequeue=1
PropagateResourceLimits=NONE
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE"""
    if parameters:
        yield f"SlurmctldParameters={','.join(parameters)}"
    for node in NODES:
        yield (
            f"NodeName={node.name} NodeAddr={node.address} NodeHostname={node.name} "
            f"CPUs={NUM_CPUS} Sockets=1 CoresPerSocket={NUM_CPUS} ThreadsPerCore=1 "
            f"RealMemory={MEMORY_MB} Gres=gpu:fake:{NUM_GPUS} State=UNKNOWN"
        )
    every = ",".join(node.name for node in NODES)
    shared = f"Nodes={every} MaxTime=INFINITE DefaultTime=20 State=UP"
    yield f"PartitionName=batch {shared} Default=YES PriorityTier=1 GraceTime={GRACE_S}"
    yield (f"PartitionName=for_good {shared} PriorityTier=1 PreemptMode=CANCEL GraceTime=0")
    yield f"PartitionName=urgent {shared} PriorityTier=10 PreemptMode=OFF"
