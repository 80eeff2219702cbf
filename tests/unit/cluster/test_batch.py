from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from phaseline.cluster import batch, node, slurm
from phaseline.cluster.job_end import JobEnd, Next
from phaseline.cluster.slurm import JobPlace
from phaseline.config.loading import load_config
from phaseline.errors import ExitCode, UsageError
from unit.cluster.commands import put_command
from unit.config.session_text import write

OUTAGE = "echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1"
END = JobEnd(ExitCode.STOPPED, "stopped", Next.SLURM)
PREEMPTED = "preempted: another job needs the nodes, SIGTERM"


Called = Callable[..., Path]


def restarts(number: int) -> str:
    return f"echo 'JobId=7 JobState=RUNNING Restarts={number} NodeList=node1'"


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> batch.BatchJob:
    """A job whose ranks have ended, on a machine of the test's own commands."""
    monkeypatch.setattr(batch, "_PAUSES_S", (0.0, 0.0, 0.0))
    loaded = load_config(write(tmp_path), session_dir=tmp_path / "session")
    place = JobPlace(job_id="7", restart=0, nodes="node1", num_nodes=1, array_idx=None)
    job = batch.BatchJob(loaded, place, argparse.Namespace(line="", chained=False))
    job._begin()
    return job


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Called:
    """Puts a scontrol on the path; what it was called with comes back when asked for."""

    def put(*answers: str) -> Path:
        return put_command(tmp_path / "bin", monkeypatch, "scontrol", *answers)

    return put


@pytest.mark.parametrize(
    ("answers", "num_requests"),
    [
        pytest.param([OUTAGE, restarts(0), OUTAGE, restarts(0), "exit 0"], 3, id="in the end"),
        pytest.param([OUTAGE, restarts(1)], 1, id="heard at once, and not answered"),
    ],
)
def test_job_is_requeued_when_the_controller_was_away(
    answers: list[str], num_requests: int, job: batch.BatchJob, called: Called
) -> None:
    calls = called(*answers)
    assert job._ask_to_requeue()
    assert calls.read_text().count("requeue 7") == num_requests


def test_job_hands_what_it_accepts_to_the_ranks_of_every_node(
    job: batch.BatchJob, called: Called, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called("exit 1")
    job._loaded = load_config(write(tmp_path), ["cluster.processes_per_node=1"])
    monkeypatch.setenv("SLURMD_NODENAME", "node1")
    accepted = ["phases[0].optimizer.lr=0.02", "phases[0].schedule.name=linear"]
    job._options = argparse.Namespace(
        config=Path("session.yaml"), override=["cluster.nodes=1"], accept_change=accepted
    )
    words = job._step_command(29400, 0)
    options = node._parse(words[words.index("phaseline.cluster.node") + 1 :])
    place = node.NodePlace(idx=0, count=1, name="node1", peer="node1", num_gpus=None)
    argv = node._command(options, place, has_gpu=False).argv
    assert [argv[i + 1] for i, word in enumerate(argv) if word == "--accept-change"] == accepted


def test_job_that_may_not_be_requeued_is_over_and_says_how_to_go_on(
    job: batch.BatchJob, called: Called, capsys: pytest.CaptureFixture[str]
) -> None:
    called("echo 'Requested operation is presently disabled' >&2; exit 1")
    assert not job._ask_to_requeue()
    assert "presently disabled. Submit it again to go on" in capsys.readouterr().err
    [start] = job._history.starts()
    assert start.is_last


@pytest.mark.parametrize(
    ("cause", "restarted", "is_asked"),
    [
        pytest.param(PREEMPTED, 0, True, id="preempted for good"),
        pytest.param(PREEMPTED, 1, False, id="preempted and requeued"),
        pytest.param("SIGTERM", 0, False, id="ended by somebody"),
    ],
)
def test_job_that_slurm_preempts_without_requeueing_asks_for_it(
    cause: str, restarted: int, is_asked: bool, job: batch.BatchJob, called: Called
) -> None:
    calls = called(restarts(restarted))
    assert job._start is not None
    job._start = job._start.over(ExitCode.STOPPED, cause, at=1.0, is_last=False)
    assert job._end(END) is ExitCode.STOPPED
    asked = calls.read_text() if calls.exists() else ""
    assert ("requeue 7" in asked) is is_asked


def test_start_left_behind_a_cut_stays_until_slurm_ends_it_or_the_job_is_over(
    job: batch.BatchJob, called: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_ASK_EVERY_S", 0.0)
    ended = restarts(1).replace("RUNNING", "COMPLETED")
    calls = called(restarts(1), "exit 1", restarts(2), ended)
    job._await_its_end()
    assert len(calls.read_text().splitlines()) == 4
    job._signals.append(signal.SIGTERM)
    job._await_its_end()
    assert len(calls.read_text().splitlines()) == 4


NOTHING_STEP = "--overlap --gres=none --nodes=1 --ntasks=1 true"


def test_ranks_step_of_a_start_has_another_number_than_those_of_the_starts_before(
    job: batch.BatchJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = put_command(tmp_path / "bin", monkeypatch, "srun", "exit 0")
    monkeypatch.setattr(batch, "ports_of", lambda *_: iter([20000, 20001]))
    monkeypatch.setattr(batch, "is_free", lambda _: False)
    monkeypatch.setattr(job, "_step_command", lambda port, _: ["srun", str(port)])
    numbers = []
    for restart in range(6):
        calls.unlink(missing_ok=True)
        job._place = replace(job._place, restart=restart)
        with pytest.raises(UsageError, match="No free port"):
            job._run_ranks()
        steps = calls.read_text().splitlines()
        assert set(steps) == {NOTHING_STEP, "20000", "20001"}
        numbers.append([steps.index("20000"), steps.index("20001")])
    # SLURM counts a start's steps from 0. Another port does not make two starts alike.
    assert numbers == [[0, 4], [1, 5], [2, 6], [3, 7], [0, 4], [1, 5]]


def test_step_that_skips_a_number_asks_for_nothing_that_the_job_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_GPUS", "16")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "8")
    seen = tmp_path / "seen"
    put_command(
        tmp_path / "bin", monkeypatch, "srun", f"/usr/bin/env | /usr/bin/grep SLURM_ > {seen}"
    )
    assert slurm.skip_step_number() == ""
    assert seen.read_text().split() == ["SLURM_JOB_ID=7"]


def test_start_goes_on_and_says_so_when_no_step_number_can_be_skipped(
    job: batch.BatchJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = put_command(tmp_path / "bin", monkeypatch, "srun", "echo busy >&2; exit 1")
    job._skip_steps(3)
    assert calls.read_text().splitlines() == [NOTHING_STEP]
    assert "No step number was skipped" in capsys.readouterr().err


def test_start_that_a_later_one_replaced_does_not_requeue_it(
    job: batch.BatchJob, called: Called
) -> None:
    calls = called(OUTAGE)
    assert job._start is not None
    job._history.note(replace(job._start, restart=1))
    assert job._ask_to_requeue()
    assert calls.read_text().count("requeue") == 1


def test_job_is_seen_to_when_its_record_cannot_be_written(
    job: batch.BatchJob, called: Called, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = called("exit 0")
    for path in job._layout.jobs_dir.iterdir():
        path.unlink()
    job._layout.jobs_dir.rmdir()
    job._layout.jobs_dir.write_text("in the way")
    job._signals.append(signal.SIGTERM)
    job._end(JobEnd(ExitCode.STOPPED, "stopped", Next.REQUEUE))
    assert "requeue 7" in calls.read_text()
    assert "without a record of it" in capsys.readouterr().err


def test_program_of_a_job_says_what_to_use_outside_of_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert batch.main(["configs/tiny.yaml"]) == ExitCode.USAGE
    assert "Use `phaseline launch CONFIG`" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["phaseline.cluster.batch", "phaseline.cluster.node"])
def test_watchers_of_a_job_import_no_torch(module: str) -> None:
    """They run for as long as the job does, and must answer a signal at once."""
    text = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", text], check=True)
