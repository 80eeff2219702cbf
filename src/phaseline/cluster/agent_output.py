"""What torch's agent tells about ranks that failed, where nothing else does.

A rank that fails by itself leaves a record. One that is killed cannot; the agent, whose child
it is, learns the signal and prints it.
"""

from __future__ import annotations

import re
import signal
from collections import deque
from dataclasses import dataclass
from typing import IO

_RANK = re.compile(r"^\s*rank\s*:\s*(?P<rank>\d+) ")
_EXIT_CODE = re.compile(r"^\s*exitcode\s*:\s*(?P<code>-?\d+) ")
_MAX_LINES = 2000


@dataclass(frozen=True)
class Death:
    """The end of a rank that may have left no record.

    Attributes:
        rank: The rank.
        message: How it ended, for people.
        is_killed: Whether a signal ended it, so that it cannot have left a record.
    """

    rank: int
    message: str
    is_killed: bool = True

    @classmethod
    def of_launcher(cls, first_rank: int, number: int) -> Death:
        """The launcher of a node's ranks, of which one is named."""
        return cls(first_rank, f"the launcher of this node's ranks was killed by {_name(number)}")


class AgentOutput:
    """Keeps what the agent prints, and what it tells about ranks that failed.

    Torch's agent lists every rank that failed, the first one at the end, as "Root Cause".
    """

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._rank: int | None = None
        self._lines: deque[str] = deque(maxlen=_MAX_LINES)
        self._names_ranks = False
        self.deaths: list[Death] = []
        """Ranks that failed, in the agent's order: the first failure comes last."""

    def read(self, stream: IO[bytes]) -> None:
        """Reads until the other end is closed."""
        for raw in iter(stream.readline, b""):
            line = raw.decode(errors="replace")
            self._lines.append(line)
            self._look(line)

    @property
    def text(self) -> str:
        """Its last lines."""
        return "".join(self._lines)

    @property
    def own_trouble(self) -> str:
        """What it said before it failed by itself; empty where it tells of ranks that failed."""
        return "" if self._names_ranks else self.text

    @property
    def first_death(self) -> Death | None:
        """The rank that failed first, a killed one before one that ended by itself."""
        killed = [death for death in self.deaths if death.is_killed]
        return next(reversed(killed or self.deaths), None)

    def _look(self, line: str) -> None:
        rank = _RANK.match(line)
        if rank is not None:
            self._rank = int(rank["rank"])
        code = _EXIT_CODE.match(line)
        if code is not None and self._rank is not None:
            self._names_ranks = True
            number = -int(code["code"])
            # The agent itself ends the others with SIGTERM.
            if number > 0 and number != signal.SIGTERM:
                text = f"killed by {_name(number)}{_hint(number)}"
                self.deaths.append(Death(self._rank, text))
            elif number < 0:
                text = f"ended with exit code {-number}"
                self.deaths.append(Death(self._rank, text, is_killed=False))


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _hint(number: int) -> str:
    if number == signal.SIGKILL:
        return ": by somebody, or by the kernel because memory ran out"
    return ""
