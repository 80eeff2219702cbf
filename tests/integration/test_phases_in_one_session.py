"""Phases of one session are what separate runs would be, and leave nothing in the process.

Launched, every phase has a process image of its own. So the same session in one process per
rank must end with the same bits; where ZeRO-3 keeps phases out of one process, the launched
session must equal one whose phases were each started by a command of their own.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from distributed.ranks import run_ranks
from integration.launched import launch, require_same_phase, view
from integration.phase_callbacks import MEMORY_VARIABLE, STOP_VARIABLE
from integration.phase_sequences import ENGINES, run_in_place, write_sequence
from phaseline.errors import ExitCode

pytestmark = pytest.mark.extended("each phase once more in a process of its own")

TESTS = Path(__file__).parents[1]
LIMIT_S = 3000.0
MEGABYTE = 2**20

# One letter per phase, p for plain: together they hold every ordered pair of stages.
PAIRS_IN_PLACE = "pp001122p1p20210p"
PAIRS_WITH_STAGE_3 = "p33031323p"


def engines_of(letters: str) -> list[str]:
    """The engines of a sequence."""
    return ["plain" if letter == "p" else f"zero{letter}" for letter in letters]


def run_launched(
    config: Path,
    session: Path,
    *,
    num_ranks: int,
    code: ExitCode = ExitCode.FINISHED,
    variables: dict[str, str] | None = None,
) -> None:
    """Runs `phaseline launch` to its end."""
    folder = session.parent
    launched = launch(
        config,
        session,
        "--processes",
        str(num_ranks),
        log=folder / f"{session.name}.log",
        variables={
            "PYTHONPATH": str(TESTS),
            "PHASELINE_CACHE": str(folder / "cache"),
            **(variables or {}),
        },
    )
    try:
        assert launched.process.wait(LIMIT_S) == code, launched.output
    finally:
        launched.end()


def run_here(config: Path, session: Path, *, num_ranks: int) -> None:
    """Runs a session through `TrainingPipeline.run`, in one process per rank."""
    arguments = (str(config), str(session), str(session.parent / "cache"))
    run_ranks(run_in_place, num_ranks, *arguments, timeout_s=LIMIT_S)


def require_equal(one: Path, other: Path, phases: Sequence[str]) -> None:
    """Every tensor, every number and every record of two sessions is the same."""
    for phase in phases:
        require_same_phase(one, other, phase)
    assert {record["phase"] for record in view(one)} == set(phases)
    assert view(other) == view(one)


def test_sequences_hold_every_ordered_pair_of_stages() -> None:
    sequences = map(engines_of, (PAIRS_IN_PLACE, PAIRS_WITH_STAGE_3))
    pairs = [pair for engines in sequences for pair in itertools.pairwise(engines)]
    assert sorted(pairs) == sorted(itertools.product(ENGINES, repeat=2))


@pytest.mark.parametrize(
    "letters",
    [
        pytest.param("2p1", id="three"),
        pytest.param(PAIRS_IN_PLACE, id="every pair", marks=pytest.mark.nightly),
    ],
)
def test_phases_in_one_process_equal_those_in_processes_of_their_own(
    letters: str, tmp_path: Path
) -> None:
    config = tmp_path / "session.yaml"
    phases = write_sequence(config, engines_of(letters))
    run_launched(config, tmp_path / "launched", num_ranks=2)
    run_here(config, tmp_path / "here", num_ranks=2)
    require_equal(tmp_path / "launched", tmp_path / "here", phases)


@pytest.mark.nightly
def test_phases_of_one_command_equal_those_of_a_command_each_when_zero_3_is_among_them(
    tmp_path: Path,
) -> None:
    config = tmp_path / "session.yaml"
    callbacks = ["integration.phase_callbacks:StopAtEdge"]
    phases = write_sequence(config, engines_of(PAIRS_WITH_STAGE_3), callbacks=callbacks)
    run_launched(config, tmp_path / "one", num_ranks=2)
    for phase in phases[:-1]:
        stop = {STOP_VARIABLE: phase}
        run_launched(config, tmp_path / "each", num_ranks=2, code=ExitCode.STOPPED, variables=stop)
    run_launched(config, tmp_path / "each", num_ranks=2)
    require_equal(tmp_path / "one", tmp_path / "each", phases)


def require_constant_memory(file: Path, phases: Sequence[str]) -> None:
    """Phases start within 5 % of what the process weighed when the first did."""
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [record["phase"] for record in records] == list(phases)
    for key, compared in (("before_bytes", records), ("with_engine_bytes", [records[-1]])):
        megabytes = [round(record[key] / MEGABYTE) for record in records]
        first = records[0][key]
        assert all(abs(record[key] - first) <= 0.05 * first for record in compared), megabytes


# The engines of the first phase and of the last are alike, so those can be compared too.
@pytest.mark.parametrize("letters", ["2p2", pytest.param("2p102", marks=pytest.mark.nightly)])
def test_memory_is_constant_when_phases_run_in_one_process(
    letters: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "session.yaml"
    phases = write_sequence(
        config,
        engines_of(letters),
        num_steps=1,
        width=256,
        depth=4,
        callbacks=["integration.phase_callbacks:ResidentMemory"],
    )
    monkeypatch.setenv(MEMORY_VARIABLE, str(tmp_path / "memory.jsonl"))
    run_here(config, tmp_path / "here", num_ranks=1)
    require_constant_memory(tmp_path / "memory.jsonl", phases)


@pytest.mark.nightly
def test_memory_is_constant_when_launched_phases_use_zero_3(tmp_path: Path) -> None:
    config, memory = tmp_path / "session.yaml", tmp_path / "memory.jsonl"
    phases = write_sequence(
        config,
        engines_of("3p213"),
        num_steps=1,
        width=384,
        depth=6,
        callbacks=["integration.phase_callbacks:ResidentMemory"],
    )
    variables = {MEMORY_VARIABLE: str(memory)}
    run_launched(config, tmp_path / "launched", num_ranks=1, variables=variables)
    require_constant_memory(memory, phases)
