from __future__ import annotations

import time
from pathlib import Path

import pytest

from phaseline.cluster.slurm import JobPlace, ask, parse_job, parse_limit, requeue, run_client
from unit.cluster.commands import put_command

# As SLURM 22.05 answered, with times in seconds since 1970.
RUNNING = (
    "JobId=4 JobName=slurm UserId=root(0) Priority=4294901756 Nice=0 JobState=RUNNING Reason=None "
    "Dependency=(null) Requeue=1 Restarts=1 BatchFlag=1 Reboot=0 ExitCode=0:0 RunTime=00:00:06 "
    "TimeLimit=1-00:05:00 TimeMin=N/A SubmitTime=1795659439 StartTime=1795659440 "
    "EndTime=1795659472 PreemptEligibleTime=1795659440 PreemptTime=1795659442 NodeList=node[1-2] "
    "Command=/home/me/JobState=FAILED WorkDir=/home/me"
)


def test_parse_job_reads_what_decides() -> None:
    state = parse_job(RUNNING)
    assert state is not None
    assert (state.state, state.reason, state.restarts) == ("RUNNING", "None", 1)
    assert (state.started, state.ends, state.limit_s) == (1795659440.0, 1795659472.0, 86700.0)
    assert state.is_preempted
    assert state.nodes == "node[1-2]"


def test_parse_job_knows_no_end_and_no_preemption_when_slurm_says_none() -> None:
    line = RUNNING.replace("PreemptTime=1795659442", "PreemptTime=None")
    state = parse_job(line.replace("EndTime=1795659472", "EndTime=Unknown"))
    assert state is not None
    assert not state.is_preempted
    assert state.ends is None
    assert not state.is_out_of_time


def test_parse_job_is_none_when_slurm_says_nothing() -> None:
    assert parse_job("slurm_load_jobs error: Invalid job id specified") is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:01:00", 60.0),
        ("12:30:05", 45005.0),
        ("2-01:00:00", 176400.0),
        ("UNLIMITED", None),
        ("", None),
    ],
)
def test_parse_limit_reads_a_time(text: str, seconds: float | None) -> None:
    assert parse_limit(text) == seconds


@pytest.mark.parametrize(("ran_s", "is_out"), [(61, True), (30, False)])
def test_job_is_out_of_time_when_it_ran_as_long_as_it_may(ran_s: int, is_out: bool) -> None:
    end = int(time.time()) - 1
    line = f"JobState=COMPLETING StartTime={end - ran_s} EndTime={end} TimeLimit=00:01:00"
    state = parse_job(line)
    assert state is not None
    assert state.is_out_of_time is is_out


def test_place_is_none_outside_of_slurm() -> None:
    assert JobPlace.read({}) is None


def test_place_counts_the_first_start_as_no_restart() -> None:
    place = JobPlace.read({"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"})
    assert place == JobPlace(job_id="7", restart=0, nodes="", num_nodes=1, array_idx=2)


def test_member_of_an_array_is_asked_for_by_a_name_that_is_its_alone() -> None:
    variables = {
        "SLURM_JOB_ID": "36",
        "SLURM_ARRAY_JOB_ID": "36",
        "SLURM_ARRAY_TASK_ID": "2",
    }
    member = JobPlace.read(variables)
    assert member is not None
    assert (member.job_id, member.name) == ("36", "36_2")
    alone = JobPlace.read({"SLURM_JOB_ID": "36"})
    assert alone is not None
    assert alone.name == "36"


def test_ask_takes_the_job_itself_where_slurm_shows_the_whole_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "JobId=37 JobState=PENDING\\nJobId=36 JobState=RUNNING\\n"
    put_command(tmp_path, monkeypatch, "scontrol", f"printf '{lines}'")
    state = ask("36")
    assert state is not None
    assert state.state == "RUNNING"


@pytest.mark.parametrize(
    ("answer", "may_pass"),
    [
        ("Unable to contact slurm controller (connect failure)", True),
        ("slurm_requeue error: Socket timed out on send/recv operation", True),
        ("Requested operation is presently disabled for job 7", False),
        ("Access/permission denied for job 7", False),
    ],
)
def test_requeue_tells_an_outage_from_a_no(
    answer: str, may_pass: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_command(tmp_path, monkeypatch, "scontrol", f"echo '{answer}' >&2; exit 1")
    assert requeue("7") == (answer, may_pass)


def test_requeue_says_that_there_is_no_scontrol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert requeue("7") == ("scontrol cannot be run on this node", False)


def test_run_client_is_none_when_there_is_no_such_command(tmp_path: Path) -> None:
    assert run_client([str(tmp_path / "scontrol")]) is None
