"""A session that is killed again and again at moments that nobody chose."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from integration.launched import Launched, launch
from phaseline.session.attempts import read_adopted
from phaseline.session.layout import SessionLayout
from phaseline.session.records import read_records
from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.runtime import PhaseRuntime

CONFIG = Path(__file__).parent / "campaign.yaml"
TESTS = Path(__file__).parents[1]
_STEP_S = 0.02


class SlowSteps(Callback):
    """Makes a step last as long as a small real one."""

    def step_ended(self, runtime: PhaseRuntime) -> None:
        del runtime
        time.sleep(_STEP_S)


@dataclass(frozen=True)
class Kill:
    """What was killed, when, and what came of it.

    Attributes:
        victim: rank 0, rank 1 or launcher.
        delay_s: Seconds after what was waited for.
        since: start or training.
        code: Exit code of the launcher.
        last_event: The last thing that the attempt recorded.
        resumed_from: What the attempt had gone on from.
    """

    victim: str
    delay_s: float
    since: str
    code: int
    last_event: str
    resumed_from: str


def start(session: Path) -> Launched:
    """Launches the session; alike for the first start and for every other one."""
    return launch(
        CONFIG,
        session,
        log=session.with_suffix(".log"),
        variables={
            "PYTHONPATH": str(TESTS),
            "PHASELINE_CACHE": str(session.parent / "cache"),
        },
    )


def campaign(session: Path, *, seed: int, num_kills: int, span_s: float) -> list[Kill]:
    """Kills the session a number of times, or until it has finished.

    From half of the kills on it is left alone until its second phase has begun, but for kills
    at a start.

    Args:
        session: Its directory.
        seed: Of the moments.
        num_kills: How often.
        span_s: Longest time that it trains before a kill.
    """
    draw = random.Random(seed)
    kills: list[Kill] = []
    while len(kills) < num_kills:
        phase = "first" if 2 * len(kills) < num_kills else "second"
        kill = _kill_once(session, draw, span_s, phase)
        if kill is None:
            break
        kills.append(kill)
    return kills


def _kill_once(session: Path, draw: random.Random, span_s: float, phase: str) -> Kill | None:
    """None: the session finished before. `phase`: the earliest that it is killed in."""
    layout = SessionLayout(session)
    before = len(layout.attempt_numbers())
    from_start = draw.random() < 0.2
    victim = draw.choice(["rank 0", "rank 1", "rank 0", "rank 1", "launcher"])
    delay_s = draw.uniform(0, 8.0 if from_start else span_s)
    launched = start(session)
    try:
        while not from_start and launched.process.poll() is None:
            if len(layout.attempt_numbers()) > before and _has_begun(layout, phase):
                break
            time.sleep(0.01)
        time.sleep(delay_s)
        if launched.process.poll() == 0:
            return None
        _kill(launched, victim)
        code = launched.process.wait(120)
    finally:
        launched.end()
    number = layout.attempt_numbers()[-1] if layout.attempt_numbers() else 0
    attempt = layout.attempt(number)
    events = [event["event"] for event in read_records(attempt.events_file)]
    adopted = read_adopted(attempt)
    return Kill(
        victim=victim,
        delay_s=round(delay_s, 3),
        since="start" if from_start else "training",
        code=code,
        last_event=events[-1] if events else "",
        resumed_from=(adopted and adopted.resumed_from) or "",
    )


def _has_begun(layout: SessionLayout, phase: str) -> bool:
    events = read_records(layout.attempt(layout.attempt_numbers()[-1]).events_file)
    begun = [event["phase"] for event in events if event["event"] == "phase_started"]
    return phase in begun or "second" in begun


def _kill(launched: Launched, victim: str) -> None:
    """Kills a rank, or the launcher where that rank is not there."""
    if victim != "launcher":
        try:
            launched.rank(int(victim[-1])).kill()
        except Exception:  # noqa: BLE001 - it has not begun, or is replacing its image
            launched.process.kill()
    else:
        launched.process.kill()


def write_table(kills: list[Kill], path: Path) -> None:
    """One JSON line per kill."""
    path.write_text("".join(f"{json.dumps(asdict(kill))}\n" for kill in kills))


def read_table(path: Path) -> Iterator[Kill]:
    """The kills that a file tells of."""
    for line in path.read_text().splitlines():
        yield Kill(**json.loads(line))
