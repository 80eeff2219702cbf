"""Sessions on several nodes, several ranks per node, and several at once, uninterrupted."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from phaseline.errors import ExitCode
from phaseline.session.jobs import list_job_starts
from phaseline.session.layout import SessionLayout
from slurm.conftest import Smooth
from slurm.jobs import TWO_PHASES, Job, Submitter, require_equal


def test_two_nodes_with_one_rank_each_train_what_one_machine_trains(
    submitter: Submitter, smooth: Smooth, tmp_path: Path
) -> None:
    [job] = submitter.submit(tmp_path / "session", "--nodes", "2", step_s=0)
    assert job.wait_end() == 0, job.report()
    require_equal(smooth(2), job, "text")
    assert len(job.layout.attempt_numbers()) == 1
    assert "The session is finished." in job.output


@pytest.mark.in_ci
def test_two_nodes_with_two_ranks_each_go_over_a_phase_edge(
    submitter: Submitter, smooth: Smooth, tmp_path: Path
) -> None:
    [job] = submitter.submit(tmp_path / "session", config=TWO_PHASES)
    assert job.wait_end() == 0, job.report()
    require_equal(smooth(4), job, "first", "second")
    logs = [path.name for path in sorted(job.layout.attempt(1).dir.glob("rank-*.log"))]
    assert logs == [f"rank-{rank:05d}.log" for rank in range(4)]


def test_array_runs_a_session_per_member_on_the_same_node(
    submitter: Submitter, smooth: Smooth, tmp_path: Path
) -> None:
    members = "[session.notes=a, session.seed=7, session.notes=c]"
    [job] = submitter.submit(
        tmp_path / "session",
        *("-o", f"cluster.array={members}", "--sbatch=--nodelist=node1"),
        step_s=0,
    )
    numbers = submitter.cluster.client("squeue", "-h", "-r", "-o", "%A").split()
    sessions = [tmp_path / f"session-{idx}" for idx in range(3)]
    job.wait_until(lambda: all(_is_finished(session) for session in sessions), "three sessions")
    assert len(numbers) == 3
    alone = smooth(1)
    for idx in (0, 2):
        require_equal(alone, Job(submitter.cluster, job.number, sessions[idx]), "text")
    for session in sessions:
        [start] = [path.name for path in (session / "jobs").glob("*-0.json")]
        assert (session / "jobs" / start).is_file()
    assert "seed: 7" in SessionLayout(sessions[1]).config_file.read_text()


def test_member_of_an_array_that_is_warned_goes_on_and_the_other_is_left_alone(
    submitter: Submitter, smooth: Smooth, tmp_path: Path
) -> None:
    members = "[session.notes=a, session.notes=b]"
    [array] = submitter.submit(tmp_path / "session", "-o", f"cluster.array={members}")
    jobs = [Job(submitter.cluster, array.number, tmp_path / f"session-{idx}") for idx in range(2)]
    for job in jobs:
        job.wait_for_step(15)
    numbers = [list_job_starts(job.layout)[0].job_id for job in jobs]
    # The member that has the array's own number, which stands for both when SLURM is asked.
    warned = numbers.index(array.number)
    member = f"{array.number}_{warned}"
    submitter.cluster.client("scancel", "--signal=USR1", "--batch", member)
    for job in jobs:
        job.wait_until(_finished(job), "the end of both")
        require_equal(smooth(1), job, "text")
    restarts = [[start.restart for start in list_job_starts(job.layout)] for job in jobs]
    assert restarts[warned] == [0, 1]
    assert restarts[1 - warned] == [0]


def test_nodes_that_differ_in_gpus_are_refused_with_the_node_named(
    submitter: Submitter, tmp_path: Path
) -> None:
    [job] = submitter.submit(
        tmp_path / "session",
        *("--nodes", "2", "-o", "cluster.processes_per_node=2"),
        # Two on one node and one on the other, which no setting would ask for.
        *("--sbatch=--gpus=3", "--sbatch=--nodelist=node2,node3"),
    )
    assert job.wait_end() == ExitCode.USAGE, job.report()
    refusal = r"node[23] has 1 GPU\(s\) for this job, and 2 ranks are to run on every node"
    assert re.search(refusal, job.output)
    assert job.layout.attempt_numbers() == []


def _is_finished(session: Path) -> bool:
    layout = SessionLayout(session)
    return layout.session_file.exists() and '"finished"' in layout.session_file.read_text()


def _finished(job: Job) -> Callable[[], bool]:
    return lambda: _is_finished(job.layout.root)
