"""SIGKILL at random moments, with saves behind the loop: the same end as if nothing had been.

Six kills in CI. `make nightly` has two hundred, in chunks; with CAMPAIGN_DIR set, a chunk
that is done leaves its table there and is not done again.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from integration.crash_campaign import campaign, read_table, start, write_table
from integration.launched import require_same_phase, view

pytestmark = pytest.mark.extended("six starts of two ranks, killed at random")

PHASES = {"first", "second"}
NUM_CHUNKS, KILLS_PER_CHUNK = 20, 10


@pytest.fixture(scope="module")
def smooth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    session = tmp_path_factory.mktemp("campaign") / "smooth"
    launched = start(session)
    assert launched.wait() == 0, launched.output
    return session


def require_same_end(smooth: Path, rough: Path) -> None:
    launched = start(rough)
    assert launched.wait() == 0, launched.output
    for phase in ("first", "second"):
        require_same_phase(smooth, rough, phase)
    assert view(rough) == view(smooth)


@pytest.mark.timeout(900)
def test_end_is_the_same_whenever_ranks_are_killed(smooth: Path) -> None:
    rough = smooth.parent / "rough"
    kills = campaign(rough, seed=1, num_kills=6, span_s=1.6)
    assert len(kills) >= 4
    assert {kill.resumed_from.split("/")[1] for kill in kills if kill.resumed_from} == PHASES
    assert all(kill.code in (1, -9) for kill in kills)
    require_same_end(smooth, rough)


@pytest.mark.nightly
@pytest.mark.parametrize("chunk", range(NUM_CHUNKS))
def test_end_is_the_same_after_hundreds_of_kills(smooth: Path, chunk: int) -> None:
    folder = Path(os.environ.get("CAMPAIGN_DIR", smooth.parent))
    table = folder / f"chunk-{chunk:02d}.jsonl"
    if not table.exists():
        rough = smooth.parent / f"rough-{chunk:02d}"
        kills = campaign(rough, seed=100 + chunk, num_kills=KILLS_PER_CHUNK, span_s=1.8)
        require_same_end(smooth, rough)
        write_table(kills, table)
    assert all(kill.code in (1, -9) for kill in read_table(table))
