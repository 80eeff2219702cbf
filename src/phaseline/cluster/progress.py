"""Giving up: starts in a row that end without a new checkpoint are no use to anybody."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phaseline.session.attempts import read_error, read_outcome
from phaseline.session.jobs import JobStart
from phaseline.session.layout import SessionLayout

_ATTEMPT = re.compile(r"\.a(\d{4,9})$", re.ASCII)
_UNKNOWN = "nobody could say: its node failed, its memory ran out, or it was ended without notice"


@dataclass(frozen=True)
class EndedStart:
    """A start that is over, as far as progress is concerned.

    Attributes:
        name: What a person knows it by, as "job 12, start 2".
        since: The newest attempt before it.
        checkpoint: The newest checkpoint when it began.
        cause: What ended it; empty: not known.
    """

    name: str
    since: int
    checkpoint: str | None
    cause: str

    @classmethod
    def of(cls, start: JobStart) -> EndedStart:
        """A start of a job."""
        name = f"job {start.job_id}, start {start.restart + 1}"
        return cls(name, start.since, start.checkpoint, start.cause)


def newest_checkpoint(layout: SessionLayout) -> str | None:
    """The checkpoint that was published last, as a path below the session's directory."""
    # Nothing that is being written or was put aside has such a name.
    manifests = list(layout.root.glob("phases/*/run-*/checkpoints/step-*/manifest.json"))
    if not manifests:
        return None
    newest = max(manifests, key=_age_rank)
    return str(newest.parent.relative_to(layout.root))


def _age_rank(manifest: Path) -> tuple[int, int, str]:
    """Grows from checkpoint to checkpoint, also where clocks differ between two attempts."""
    name = manifest.parent.name
    attempt = _ATTEMPT.search(name)
    return int(attempt[1]) if attempt else 0, manifest.stat().st_mtime_ns, name


def why_give_up(layout: SessionLayout, starts: Sequence[EndedStart], *, limit: int) -> str:
    """What the last starts died of, if none of as many as may be left a new checkpoint.

    Args:
        layout: The session.
        starts: Starts that are over and followed each other by themselves, oldest first.
        limit: So many without progress are enough.

    Returns:
        The reason for giving up; empty while there is none.
    """
    now = newest_checkpoint(layout)
    in_vain = []
    for start in reversed(starts):
        if start.checkpoint != now:
            break
        in_vain.append(start)
    if len(in_vain) < limit:
        return ""
    in_vain.reverse()
    saved = "no checkpoint was ever written" if now is None else f"the newest is still {now}"
    lines = [f"{len(in_vain)} starts in a row left no new checkpoint ({saved}). They died of:"]
    for start, following in zip(in_vain, [*in_vain[1:], None], strict=True):
        until = None if following is None else following.since
        lines.append(f"  {start.name}: {describe_death(layout, start, until)}")
    lines.append(
        "Mend what they died of and submit it again; resilience.max_starts_without_progress sets "
        "how many are enough."
    )
    return "\n".join(lines)


def describe_death(layout: SessionLayout, start: EndedStart, until: int | None) -> str:
    """What a start died of: in the words of its own ranks, else of whoever watched it."""
    numbers = [
        number
        for number in layout.attempt_numbers()
        if number > start.since and (until is None or number <= until)
    ]
    for number in reversed(numbers):
        attempt = layout.attempt(number)
        error, outcome = read_error(attempt), read_outcome(attempt)
        if error is not None:
            first_line = error.message.partition("\n")[0]
            told = f"{error.where}: {error.kind}: {first_line}"
            if error.consequence and start.cause:
                told = f"{start.cause} ({told})"
            return f"attempt {number}, {told}"
        if outcome is not None:
            return f"attempt {number}, {outcome.reason}"
    if start.cause:
        return start.cause
    return f"{'attempt ' + str(numbers[-1]) if numbers else 'before an attempt'}, {_UNKNOWN}"
