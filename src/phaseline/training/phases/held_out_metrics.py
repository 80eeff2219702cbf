"""The user's metrics beside the losses of a validation."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch

from phaseline.errors import ConfigurationError, Fault
from phaseline.objectives.validation_metric import Seen, ValidationMetric


class HeldOutMetrics:
    """What metrics sum up over a batch, one after the other, and what their totals say."""

    def __init__(self, members: Sequence[ValidationMetric]) -> None:
        """Takes the metrics of a phase."""
        self._members = members

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

    def metrics(self, totals: Sequence[float], taken: Collection[str]) -> dict[str, float]:
        """What is reported.

        Args:
            totals: Of every sum, in the order of `sums`.
            taken: Names that the validation reports already.

        Raises:
            ConfigurationError: A metric reports one of these names, or one that another has.
        """
        found: dict[str, float] = {}
        rest = list(totals)
        for member in self._members:
            mine, rest = rest[: len(member.measures)], rest[len(member.measures) :]
            reported = member.metrics(dict(zip(member.measures, mine, strict=True)))
            _require_new(member, reported, {*taken, *found})
            found |= {name: float(value) for name, value in reported.items()}
        return found


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
