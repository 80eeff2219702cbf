"""A stop signal to one rank only, at every kind of moment: all saved, all stopped, same end.

Each moment has a session on two ranks that is stopped there and started again by the same call;
at the end it must equal one that ran through. These ranks live on from session to session, as a
program of one's own does. Launched sessions then show the exit code, what becomes of a
request over fresh images, and `phaseline stop`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from distributed.ranks import run_ranks
from integration import stop_moments
from integration.launched import (
    COMMAND,
    Launched,
    interrupt,
    launch,
    require_same_phase,
    view,
    wait_until,
)
from integration.stop_moments import MOMENTS, VARIABLE
from phaseline.checkpoint.manifest import list_published, verify
from phaseline.errors import ExitCode
from phaseline.resilience.stop_flag import StopFlag
from phaseline.session.attempts import read_error, read_outcome
from phaseline.session.layout import SessionLayout
from phaseline.session.records import read_records
from phaseline.session.stop_request import read_stop_request
from phaseline.training_pipeline import TrainingPipeline

pytestmark = pytest.mark.extended(
    "some twenty sessions in two ranks, one for each moment of a stop"
)

CONFIG = Path(__file__).parent / "stop_moments.yaml"
TESTS = Path(__file__).parents[1]
LIMIT_S = 280.0
PLAIN = "{kind: plain}"
REPRESENTATIVES = (
    "start-up",
    "waiting for data",
    "trial",
    "first step",
    "accumulation",
    "validation in between",
    "saving",
    "phase edge",
    "validation at the start",
    "generation",
)
"""One moment of each kind; the others are for the night."""


def run_session(folder: str, name: str, stop_at: str, cache: str, num_workers: int = 0) -> int:
    """One start of a session in this rank's process; returns its outcome's code."""
    os.environ["PHASELINE_CACHE"] = str(Path(folder) / cache)
    os.environ[VARIABLE] = stop_at
    flag = StopFlag()
    flag.listen()
    try:
        if stop_at == f"{os.environ['RANK']}:start-up":
            stop_moments.send()
        pipeline = TrainingPipeline(
            CONFIG,
            overrides=[f"defaults.data.num_workers={num_workers}"],
            session_dir=Path(folder) / name,
            stop_flag=flag,
        )
        return int(pipeline.run().code)
    finally:
        stop_moments.undo()
        flag.ignore()


def each_alone(folder: str, rank: int, names: list[str], workers: list[list[int]]) -> list[int]:
    """A session that runs through, and one for every moment, stopped there and run to its end.

    `workers` says in turn how many loader workers have what is stopped and what goes on.
    """
    codes = [run_session(folder, "smooth", "-1:", "cache")]
    for idx, name in enumerate(names):
        # What is not prepared yet must be prepared then, so it has a cache of its own.
        cache = f"cache {name}" if name in stop_moments.UNPREPARED else "cache"
        before, after = workers[idx % len(workers)]
        codes.append(run_session(folder, name, f"{rank}:{name}", cache, before))
        codes.append(run_session(folder, name, "-1:", cache, after))
    return codes


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[int]]]:
    folder = tmp_path_factory.mktemp("moments")
    names = list(REPRESENTATIVES)
    # With workers before or after, in turn; the night stops with and without at each moment.
    workers = [[0, 2], [2, 0]]
    ranks = run_ranks(each_alone, 2, str(folder), 1, names, workers, timeout_s=LIMIT_S)
    return folder, ranks


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_all_is_saved_and_goes_on_to_the_same_end_when_one_rank_is_asked_to_stop(
    name: str, story: tuple[Path, list[list[int]]]
) -> None:
    folder, codes = story
    first = 1 + 2 * REPRESENTATIVES.index(name)
    assert [of_rank[first : first + 2] for of_rank in codes] == [[75, 0], [75, 0]]
    require_saved(folder / name, name, attempt=1)
    require_equal(folder / "smooth", folder / name)


def test_stop_leaves_nothing_half_prepared(story: tuple[Path, list[list[int]]]) -> None:
    folder, _ = story
    for name in set(stop_moments.UNPREPARED) & set(REPRESENTATIVES):
        left = [path.name for path in (folder / f"cache {name}" / "stores").glob(".*")]
        assert left == []


@pytest.mark.nightly
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("rank", [0, 1])
def test_all_is_saved_whichever_rank_is_asked_at_whichever_moment(
    rank: int, num_workers: int, tmp_path: Path
) -> None:
    names = list(MOMENTS)
    codes = run_ranks(
        each_alone, 2, str(tmp_path), rank, names, [[num_workers, 0]], timeout_s=3 * LIMIT_S
    )
    assert codes == [[0, *(code for _ in MOMENTS for code in (75, 0))]] * 2
    for name in MOMENTS:
        require_saved(tmp_path / name, name, attempt=1)
        require_equal(tmp_path / "smooth", tmp_path / name)


def test_launched_session_exits_75_and_goes_on_to_the_same_end(
    story: tuple[Path, list[list[int]]], tmp_path: Path
) -> None:
    folder, _ = story
    launched = start(tmp_path / "rough", PLAIN)
    wait_until(lambda: has_rank(launched, 1), launched, "rank 1")
    launched.rank(1).send_signal(signal.SIGUSR1)
    assert launched.wait() == ExitCode.STOPPED, launched.output
    stop_in_turn(tmp_path / "rough", PLAIN, "validation at the start")
    require_equal(folder / "smooth", tmp_path / "rough")


@pytest.mark.nightly
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_launched_session_goes_on_to_the_same_end_with_deepspeed(
    stage: int, tmp_path: Path
) -> None:
    engine = f"{{zero_stage: {stage}}}"
    launched = start(tmp_path / "smooth", engine)
    assert launched.wait() == 0, launched.output
    stop_in_turn(tmp_path / "rough", engine, "validation at the start", "generation")
    require_equal(tmp_path / "smooth", tmp_path / "rough")


def stop_in_turn(session: Path, engine: str, *names: str) -> None:
    """Stops a session at one moment after the other, and lets it end."""
    for name in names:
        launched = start(session, engine, stop_at=f"1:{name}")
        assert launched.wait() == ExitCode.STOPPED, launched.output
        assert "Everything is saved: stopped on request" in launched.output
        require_saved(session, name, attempt=max(SessionLayout(session).attempt_numbers()))
    launched = start(session, engine)
    assert launched.wait() == 0, launched.output


def test_phaseline_stop_ends_the_attempt_that_runs_and_no_later_one(tmp_path: Path) -> None:
    session = tmp_path / "long"
    layout = SessionLayout(session)
    long = ("-o", "phases[first].duration=100k steps", "-o", "phases[first].evaluate.every=null")
    launched = start(session, PLAIN, *long)
    wait_until(lambda: trains(layout, attempt=1), launched, "training")
    stopping = stop_command(session, "--wait")
    assert launched.wait() == ExitCode.STOPPED, launched.output
    assert stopping.returncode == 0, stopping.stderr
    assert f"Attempt 1 of {session} (process " in stopping.stdout
    assert "Attempt 1 ended: stopped: stopped on request (phaseline stop on " in stopping.stdout
    assert read_stop_request(layout.attempt(1)) is not None
    refused = stop_command(session)
    assert refused.returncode == ExitCode.USAGE
    assert "Nothing runs in" in refused.stderr

    launched = start(session, PLAIN, *long)
    wait_until(lambda: trains(layout, attempt=2), launched, "training again")
    saved = set(list_published(layout.phase("first").checkpoints_dir))
    wait_until(
        lambda: bool(set(list_published(layout.phase("first").checkpoints_dir)) - saved),
        launched,
        "a checkpoint of the second attempt, which nobody asked to stop",
    )
    interrupt(launched)
    assert launched.wait() == ExitCode.STOPPED, launched.output


def start(session: Path, engine: str, *arguments: str, stop_at: str = "-1:") -> Launched:
    """Launches the session on two ranks."""
    return launch(
        CONFIG,
        session,
        *("-o", f"defaults.engine={engine}", *arguments),
        log=session.with_suffix(".log"),
        variables={
            "PYTHONPATH": str(TESTS),
            "PHASELINE_CACHE": str(session.parent / "cache"),
            VARIABLE: stop_at,
        },
    )


def stop_command(session: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "stop", str(session), *options],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def has_rank(launched: Launched, number: int) -> bool:
    try:
        return bool(launched.rank(number).is_running())
    except (AssertionError, psutil.Error):
        return False


def trains(layout: SessionLayout, *, attempt: int) -> bool:
    events = layout.attempt(attempt).events_file
    return any(event["event"] == "phase_started" for event in read_records(events))


def require_saved(session: Path, name: str, *, attempt: int) -> None:
    """An attempt stopped on request, and saved where it was."""
    moment, layout = MOMENTS[name], SessionLayout(session)
    outcome = read_outcome(layout.attempt(attempt))
    assert outcome is not None
    assert outcome.code is ExitCode.STOPPED
    assert re.match(r"stopped on request \(.*SIG", outcome.reason)
    assert read_error(layout.attempt(attempt)) is None
    saved = [
        folder
        for phase in ("first", "second")
        for folder in list_published(layout.phase(phase).checkpoints_dir)
        if folder.name.endswith(f".a{attempt:04d}")
    ]
    if not moment.phase:
        assert saved == []
        return
    manifest = verify(saved[-1])
    assert manifest.phase == moment.phase
    assert manifest.phase_step >= moment.step
    if moment.unfinished:
        assert manifest.phase_step == moment.step
        state = json.loads((saved[-1] / "state.json").read_text())["stateful"]["position"]
        assert state["unfinished"] == moment.unfinished


def require_equal(smooth: Path, rough: Path) -> None:
    """Every tensor, every number and every record of two sessions is the same."""
    for phase in ("first", "second"):
        require_same_phase(smooth, rough, phase)
    assert view(rough) == view(smooth)
