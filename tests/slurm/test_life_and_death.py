"""Whatever ends a job, it goes on by itself, to what an uninterrupted run would have left."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from phaseline.errors import ExitCode
from slurm.cluster import Cluster
from slurm.cluster_files import NODES
from slurm.conftest import Smooth
from slurm.jobs import Job, Submitter, require_equal

# Of 40 steps, with a checkpoint every 6: in the middle, and between two checkpoints.
MIDDLE = 15


@pytest.fixture
def job(submitter: Submitter, tmp_path: Path) -> Job:
    """A job on two nodes, in the middle of its training."""
    [job] = submitter.submit(tmp_path / "session", "--nodes", "2")
    job.wait_for_step(MIDDLE)
    return job


@pytest.fixture
def user_signal(cluster: Cluster) -> Iterator[None]:
    """A site that sends jobs their own signal when they are preempted."""
    cluster.use_parameters("preempt_send_user_signal")
    yield
    cluster.use_parameters()


def require_continued(job: Job, smooth: Path, *, attempts: int = 2) -> None:
    assert job.wait_end() == 0, job.report()
    require_equal(smooth, job, "text")
    assert len(job.layout.attempt_numbers()) == attempts


def require_stopped(job: Job, *words: str) -> None:
    """The first attempt saved where it stood, and says why it stopped."""
    outcome = job.outcome(1)
    assert outcome is not None
    assert outcome.code is ExitCode.STOPPED
    for word in words:
        assert word in outcome.reason
    assert job.error(1) is None
    # No step was trained twice.
    assert job.step_of(2) == 40
    first_of_second = job.step_of(1) + 1
    assert f'"phase_step":{first_of_second},' in _metrics(job, 2).partition("\n")[0]


def urgent_job(cluster: Cluster) -> str:
    """Another job that takes every node for some seconds."""
    command = ["sbatch", "--parsable", "--partition=urgent", f"--nodes={len(NODES)}", "--exclusive"]
    return cluster.client(*command, "--output=/dev/null", "--wrap=sleep 4").strip()


def test_warning_before_the_time_limit_saves_and_requeues(job: Job, smooth: Smooth) -> None:
    job.signal_batch("USR1")
    require_continued(job, smooth(2))
    require_stopped(job, "SIGUSR1")
    assert [start.restart for start in job.starts()] == [0, 1]


@pytest.mark.in_ci
def test_preemption_saves_in_its_grace_and_comes_back(job: Job, smooth: Smooth) -> None:
    urgent_job(job.cluster)
    require_continued(job, smooth(2))
    require_stopped(job, "preempted", "SIGTERM")


def test_preemption_that_ends_jobs_for_good_comes_back_too(
    submitter: Submitter, smooth: Smooth, tmp_path: Path
) -> None:
    # In a folder whose name a line of a batch script must not end at, nor fill in.
    session = tmp_path / "my runs" / "100%"
    [job] = submitter.submit(session, "--nodes", "2", "--partition", "for_good")
    job.wait_for_step(MIDDLE)
    urgent_job(job.cluster)
    require_continued(job, smooth(2))
    require_stopped(job, "preempted", "SIGTERM")
    assert "Requeued." in job.output


@pytest.mark.usefixtures("user_signal")
def test_preemption_saves_and_comes_back_when_the_site_sends_the_signal_of_the_job(
    job: Job, smooth: Smooth
) -> None:
    urgent_job(job.cluster)
    require_continued(job, smooth(2))
    require_stopped(job, "preempted", "SIGUSR1")
    assert job.starts()[0].cause.startswith("preempted")


def test_cancelled_job_saves_and_the_same_command_resumes(
    job: Job, submitter: Submitter, smooth: Smooth
) -> None:
    job.cancel()
    job.wait_end()
    outcome = job.outcome(1)
    assert outcome is not None
    assert "cancelled" in outcome.reason
    assert [start.is_last for start in job.starts()] == [True]
    [again] = submitter.submit(job.layout.root, "--nodes", "2", step_s=0)
    require_continued(again, smooth(2))
    require_stopped(again, "cancelled")


@pytest.mark.in_ci
def test_lost_node_is_named_and_the_job_goes_on_without_it(job: Job, smooth: Smooth) -> None:
    lost = job.nodes[1]
    job.cluster.kill_node(lost)
    try:
        require_continued(job, smooth(2))
    finally:
        job.wait_until(lambda: job.cluster.node_states()[lost] == "down*", f"{lost} to be down")
        job.cluster.start_node(lost)
    error = job.error(1)
    assert error is not None
    assert (error.kind, error.host, error.rank, error.consequence) == (
        "NodeFailure",
        lost,
        1,
        False,
    )
    assert job.starts()[0].cause == f"node failure: {lost}"


def test_ranks_that_live_on_behind_a_cut_write_nothing_into_the_session(
    submitter: Submitter, smooth: Smooth, tmp_path: Path
) -> None:
    # Both ranks on one node: cut off, they hear each other and train on. They are held before
    # a save until the next attempt has the session, however long SLURM takes to see the cut.
    one_node = ("-o", "cluster.processes_per_node=2")
    [job] = submitter.submit(
        tmp_path / "session", *one_node, step_s=0, hold_at=str(MIDDLE), second_step_s="2"
    )
    job.wait_for_step(MIDDLE - 1)
    [node] = job.nodes
    stale = job.ranks_on(node)
    job.cluster.cut(node)
    try:
        job.wait_until(lambda: job.layout.attempt(2).adopted_file.exists(), "the second attempt")
        psutil.wait_procs(stale, timeout=60)
        assert len(stale) == 2
        assert not any(process.is_running() for process in stale)
    finally:
        job.cluster.heal(node)
    # What the healed node reports of the first start's step does not end the second start's, and
    # SLURM ends what is left there. So a third start on that node is not refused.
    job.wait_until(lambda: not job.remains_on(node), f"the end of the first start on {node}")
    assert job.outcome(2) is None
    job.requeue_on(job.starts()[0].nodes)
    require_continued(job, smooth(2), attempts=3)
    assert [start.nodes == node for start in job.starts()] == [True, False, True]
    log = job.layout.attempt(1).rank_log(0).read_text()
    assert "Another process took over the session" in log
    assert "so attempt 1 ends here and writes nothing more" in log
    checkpoints = job.layout.phase("text").checkpoints_dir
    assert not [path for path in checkpoints.glob("*.a0001") if path.name > "step-00000017"]
    error = job.error(1)
    assert error is not None
    assert (error.kind, error.host) == ("NodeFailure", node)
    # The old start's own program, which lived on too, left the job alone.
    assert job.starts()[0].cause == f"node failure: {node}"
    assert "No step number was skipped" not in job.output


def test_start_whose_ranks_die_behind_a_cut_stays_until_slurm_ends_it(
    submitter: Submitter, smooth: Smooth, tmp_path: Path
) -> None:
    [job] = submitter.submit(tmp_path / "session", "--nodes", "2", second_step_s="2")
    job.wait_for_step(MIDDLE)
    node = job.nodes[0]
    job.cluster.cut(node)
    try:
        for rank in job.ranks_on(node):
            rank.kill()
        job.wait_until(lambda: job.layout.attempt(2).adopted_file.exists(), "the second attempt")
        assert job.programs_on(node)
    finally:
        job.cluster.heal(node)
    # A step that ended behind the cut says so once a minute. Until it is heard SLURM refuses
    # the job there, whatever the job does.
    job.wait_until(lambda: not job.remains_on(node), f"the end of the first start on {node}")
    assert job.outcome(2) is None
    job.requeue_on(job.starts()[0].nodes)
    require_continued(job, smooth(2), attempts=3)
    first, second, third = [start.nodes for start in job.starts()]
    assert first == third != second
    assert "No step number was skipped" not in job.output


def test_killed_rank_is_named_and_the_job_comes_back(job: Job, smooth: Smooth) -> None:
    node = job.nodes[1]
    [rank] = job.ranks_on(node)
    rank.send_signal(signal.SIGKILL)
    require_continued(job, smooth(2))
    error = job.error(1)
    assert error is not None
    assert (error.kind, error.host, error.rank) == ("Killed", node, 1)
    assert error.phase == "text"
    assert error.step is not None
    assert error.step >= MIDDLE
    assert "killed by SIGKILL" in error.message
    assert f"rank 1 on {node}" in job.output


def test_killed_launcher_leaves_no_rank_and_the_job_comes_back(job: Job, smooth: Smooth) -> None:
    node = job.nodes[1]
    launcher = job.launcher_on(node)
    [rank] = job.ranks_on(node)
    launcher.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs([rank], timeout=10)
    assert alive == []
    require_continued(job, smooth(2))
    error = job.error(1)
    assert error is not None
    assert error.host == node
    assert "launcher" in error.message


def test_lost_slurmd_requeues_the_job_beside_a_rank_that_still_runs(
    submitter: Submitter, smooth: Smooth, tmp_path: Path
) -> None:
    two_nodes = ("--nodes", "2")
    [job] = submitter.submit(tmp_path / "session", *two_nodes, step_s=0, hold_at=str(MIDDLE))
    job.wait_for_step(MIDDLE - 1)
    node = job.nodes[1]
    [stale] = job.ranks_on(node)
    job.cluster.kill_slurmd(node)
    try:
        job.wait_until(lambda: len(job.layout.attempt_numbers()) == 2, "the second attempt")
        assert stale.is_running(), "two generations at once"
        require_continued(job, smooth(2))
        _, alive = psutil.wait_procs([stale], timeout=60)
        assert alive == []
    finally:
        job.cluster.start_slurmd(node)
    error = job.error(1)
    assert error is not None
    assert (error.kind, error.host, error.rank) == ("NodeFailure", node, 1)


def _metrics(job: Job, attempt: int) -> str:
    return job.layout.attempt(attempt).metrics_file.read_text()
