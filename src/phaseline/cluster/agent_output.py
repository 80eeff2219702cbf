"""Reading out of what torch's agent prints which rank was killed: nothing else says it.

A rank that fails by itself leaves a record. One that is killed cannot; the agent, whose child
it is, learns the signal and prints it.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import IO, TextIO

_RANK = re.compile(r"^\s*rank\s*:\s*(?P<rank>\d+) ")
_EXIT_CODE = re.compile(r"^\s*exitcode\s*:\s*(?P<code>-\d+) ")


@dataclass(frozen=True)
class Death:
    """Something that was killed.

    Attributes:
        rank: The rank.
        message: By what, for people.
    """

    rank: int
    message: str

    @classmethod
    def of_launcher(cls, first_rank: int, number: int) -> Death:
        """The launcher of a node's ranks, of which one is named."""
        return cls(first_rank, f"the launcher of this node's ranks was killed by {_name(number)}")


class AgentOutput:
    """Passes on what the agent and its ranks print, and keeps what it tells about deaths.

    Torch's agent lists every rank that failed, the first one at the end, as "Root Cause".
    """

    def __init__(self, out: TextIO) -> None:
        """Takes where to pass it on."""
        self._out = out
        self._rank: int | None = None
        self.deaths: list[Death] = []
        """Ranks that a signal ended, in the agent's order: the first failure comes last."""

    def read(self, stream: IO[bytes]) -> None:
        """Reads until the other end is closed."""
        for raw in iter(stream.readline, b""):
            line = raw.decode(errors="replace")
            self._out.write(line)
            self._out.flush()
            self._look(line)

    def _look(self, line: str) -> None:
        rank = _RANK.match(line)
        if rank is not None:
            self._rank = int(rank["rank"])
        code = _EXIT_CODE.match(line)
        if code is not None and self._rank is not None:
            number = -int(code["code"])
            # The agent itself ends the others with SIGTERM.
            if number != signal.SIGTERM:
                text = f"killed by {_name(number)}{_hint(number)}"
                self.deaths.append(Death(self._rank, text))


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _hint(number: int) -> str:
    if number == signal.SIGKILL:
        return ": by somebody, or by the kernel because memory ran out"
    return ""
