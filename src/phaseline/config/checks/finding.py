"""What a rule reports."""

from __future__ import annotations

from dataclasses import dataclass

from phaseline.config.sections import Config, PhaseSection
from phaseline.config.tree import Loc


@dataclass(frozen=True)
class Finding:
    """One contradiction between settings.

    Attributes:
        loc: The setting to blame.
        problem: What was found and what is allowed.
        fix: What to write instead.
        unused: The setting merely has no effect. As a default that is no fault, as long as
            it has one in some phase.
    """

    loc: Loc
    problem: str
    fix: str
    unused: bool = False


@dataclass(frozen=True)
class Place:
    """A phase and where it stands: what a rule about phases looks at.

    Attributes:
        config: The whole session.
        idx: The phase's index.
        phase: The phase.
    """

    config: Config
    idx: int
    phase: PhaseSection

    def loc(self, *keys: str | int) -> Loc:
        """The path of one of the phase's settings."""
        return ("phases", self.idx, *keys)
