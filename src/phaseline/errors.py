"""The exception root and its few children.

Every message says what failed, where, what was found and what is allowed, and how to
mend it. Only the command line maps these classes to exit codes.
"""

from __future__ import annotations

import errno
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

PASSING = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.EDQUOT,
        errno.EINTR,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.ENOTCONN,
        errno.EREMOTEIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
"""What a file system may refuse for a while: another try may succeed, and is worth one."""


def printable(text: str) -> str:
    """A text as a terminal may show it: control characters but line breaks and tabs spelt out.

    Names, reasons and messages come from files that anybody may have written.
    """
    if text.isprintable():
        return text
    return "".join(ascii(char)[1:-1] if _moves_a_terminal(char) else char for char in text)


def _moves_a_terminal(char: str) -> bool:
    """Control characters, halves of characters, what turns the writing's direction."""
    is_control = unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t"
    return is_control or "\u202a" <= char <= "\u202e" or "\u2066" <= char <= "\u2069"


def is_passing(error: BaseException) -> bool:
    """Whether another try may read or write what could not be read or written now."""
    return isinstance(error, OSError) and error.errno in PASSING


class ExitCode(IntEnum):
    """How a session's attempt ended, as `phaseline launch` and batch scripts report it."""

    FINISHED = 0
    FAILED = 1
    USAGE = 2
    GATE = 3
    NO_PROGRESS = 4
    STOPPED = 75


class PhaselineError(Exception):
    """Root of every error that Phaseline raises on purpose."""

    exit_code: ExitCode = ExitCode.FAILED


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a configuration.

    Attributes:
        path: Where in the configuration, as `phases[1].optimizer.lr`.
        location: File and line, as `configs/a.yaml:31`, or the override's text.
        problem: What was found, and after a semicolon what is allowed.
        fix: What to write instead.
    """

    path: str
    location: str
    problem: str
    fix: str

    def __str__(self) -> str:
        found, semicolon, allowed = self.problem.partition("; ")
        where = f" ({self.location})" if self.location else ""
        path = self.path or "configuration"
        return f"{path} {found}{where}{semicolon}{allowed}. {self.fix}"


class ConfigurationError(PhaselineError):
    """The configuration cannot be used. Carries every fault that was found."""

    exit_code = ExitCode.USAGE

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        count = len(self.faults)
        head = f"{count} fault{'s' if count != 1 else ''} in the configuration:"
        super().__init__("\n".join([head, *(f"  {fault}" for fault in self.faults)]))


class UsageError(PhaselineError):
    """The command was called with something that it cannot work on."""

    exit_code = ExitCode.USAGE


class SessionError(PhaselineError):
    """The session directory is in a state that does not allow what was asked."""


class SessionBusyError(SessionError):
    """Another process holds the session's lease."""

    exit_code = ExitCode.USAGE


class SessionChangedError(SessionError):
    """The configuration differs from the one that the session was started with."""

    exit_code = ExitCode.USAGE


class DataError(PhaselineError):
    """A data source or a prepared data set cannot be used."""

    exit_code = ExitCode.USAGE


class UnreachableFileError(PhaselineError):
    """A file cannot be read just now, which says nothing about what it holds."""

    @classmethod
    def require_lasting(cls, error: BaseException, place: object) -> None:
        """Raises if it is the way to a file that fails, and not the file.

        Args:
            error: What reading it raised.
            place: The file, for the message.

        Raises:
            UnreachableFileError: Another try may succeed.
        """
        if is_passing(error):
            problem = getattr(error, "strerror", None) or error
            raise cls(
                f"{place} cannot be read or written now: {problem}. The same command goes on once it can."
            ) from error


class HubOutageError(DataError):
    """The Hugging Face hub cannot be asked just now; another start may succeed."""

    exit_code = ExitCode.FAILED


class DamagedDataError(PhaselineError):
    """Prepared data in the cache is not what was written; the next start makes it anew."""


class LostWorkerError(DataError):
    """A process that helped to prepare or to read data is gone; another start may succeed."""

    exit_code = ExitCode.FAILED


class CheckpointError(PhaselineError):
    """A checkpoint cannot be written, read or trusted."""


class CheckpointFormatError(CheckpointError):
    """A checkpoint is whole, and of a format that this version does not read.

    Attributes:
        session: Identity of the session that it says it belongs to.
    """

    exit_code = ExitCode.USAGE

    def __init__(self, message: str, *, session: str) -> None:
        self.session = session
        super().__init__(message)


class CheckpointUnreachableError(CheckpointError):
    """A checkpoint cannot be looked at just now, which says nothing about what it holds."""


class WorldError(PhaselineError):
    """The ranks do not form the world that was asked for, or one of them is lost."""


class LostRankError(WorldError):
    """Another rank is gone or stuck: the failure is its, not this rank's."""


class EngineError(PhaselineError):
    """An engine or a model does not do what the configuration says, and would not next time."""

    exit_code = ExitCode.USAGE


class StopRequestedError(PhaselineError):
    """Work was given up halfway because a stop was asked for; it left nothing behind."""

    exit_code = ExitCode.STOPPED


class AnomalyError(PhaselineError):
    """Training went wrong in its numbers, so it was stopped before it could do harm."""
