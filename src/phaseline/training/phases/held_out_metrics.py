"""The user's metrics beside the losses of a validation."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch

from phaseline.distributed.world import World
from phaseline.errors import ConfigurationError, Fault, LostRankError
from phaseline.objectives.validation_metric import Seen, ValidationMetric


class HeldOutMetrics:
    """What metrics sum up over a batch, one after the other, and what their totals say.

    One that fails on some rank keeps no other rank waiting: the validation goes on to its end
    without it, and then every rank learns of it.
    """

    def __init__(self, members: Sequence[ValidationMetric]) -> None:
        """Takes the metrics of a phase."""
        self.has_failed = False
        """Whether one failed on some rank, which all ranks know alike."""
        self._members = members
        self._failure: Exception | None = None

    @property
    def needs_logits(self) -> bool:
        """Whether one of them looks at logits."""
        return any(member.needs_logits for member in self._members)

    @property
    def num_sums(self) -> int:
        """Sums of all of them."""
        return sum(len(member.measures) for member in self._members)

    def sums(self, seen: Seen) -> Iterator[torch.Tensor]:
        """Every sum over a batch. Scalars."""
        for member in self._members:
            if self._failure is None:
                try:
                    yield from _sums_of(member, seen)
                    continue
                except Exception as error:  # noqa: BLE001 - whatever it is, it is raised later
                    self._failure = error
            yield from seen.losses.values.new_zeros(len(member.measures)).unbind()

    def metrics(
        self, totals: Sequence[float] | None, taken: Collection[str], world: World
    ) -> dict[str, float]:
        """What is reported. **Ranks:** all. A collective on the CPU, if there are metrics.

        Args:
            totals: Of every sum, in the order of `sums`; None: nothing was seen.
            taken: Names that the validation reports already.
            world: The ranks that saw it.

        Raises:
            Exception: What a metric raised on this rank.
            ConfigurationError: A metric reports one of these names, or one that another has.
            LostRankError: One failed on another rank.
        """
        if not self._members:
            return {}
        found: dict[str, float] = {}
        if self._failure is None and totals is not None:
            try:
                found = self._reported(totals, taken)
            except Exception as error:  # noqa: BLE001 - as above
                self._failure = error
        self.has_failed = any(world.gather_objects(self._failure is not None))
        if self._failure is not None:
            raise self._failure
        if self.has_failed:
            raise LostRankError("A metric of the validation failed on another rank.")
        return found

    def _reported(self, totals: Sequence[float], taken: Collection[str]) -> dict[str, float]:
        found: dict[str, float] = {}
        rest = list(totals)
        for member in self._members:
            mine, rest = rest[: len(member.measures)], rest[len(member.measures) :]
            reported = member.metrics(dict(zip(member.measures, mine, strict=True)))
            _require_new(member, reported, {*taken, *found})
            found |= {name: float(value) for name, value in reported.items()}
        return found


def _sums_of(member: ValidationMetric, seen: Seen) -> Iterator[torch.Tensor]:
    sums = member.sums(seen)
    wanted = (len(member.measures),)
    if sums.shape != wanted:
        raise _fault(
            member,
            f"whose sums have the shape {list(sums.shape)}; it must be {list(wanted)}, one "
            "for each of its measures",
            "Return torch.stack of one scalar for each.",
        )
    yield from sums.detach().unbind()


def _require_new(
    member: ValidationMetric, reported: Mapping[str, float], taken: Collection[str]
) -> None:
    for name in reported:
        if name in taken:
            raise _fault(
                member,
                f"which reports {name}, and a validation has that already",
                "Report it by a name of its own.",
            )


def _fault(member: ValidationMetric, problem: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Fault("evaluate.metrics", "", f"has {member.name}, {problem}", fix)])
