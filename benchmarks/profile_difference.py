"""What one loop spends and another does not, function by function."""

from __future__ import annotations

import cProfile
from dataclasses import dataclass
from pathlib import Path

from loops import Loop
from measuring import profile

_SHOWN = 45


@dataclass(frozen=True)
class _Cost:
    calls: float = 0.0
    own_us: float = 0.0
    whole_us: float = 0.0

    def __sub__(self, other: _Cost) -> _Cost:
        return _Cost(
            self.calls - other.calls, self.own_us - other.own_us, self.whole_us - other.whole_us
        )


def print_difference(base: Loop, other: Loop, *, num_steps: int) -> None:
    """Profiles two loops and prints what the second costs more, largest first.

    Under the profiler every call costs more than it does alone, so the numbers say where to
    look and not what is gained.

    Args:
        base: What is subtracted.
        other: What is looked at.
        num_steps: Steps that each is profiled for.
    """
    before = _costs_per_step(profile(base, num_steps=num_steps), num_steps)
    after = _costs_per_step(profile(other, num_steps=num_steps), num_steps)
    more = {name: after.get(name, _Cost()) - before.get(name, _Cost()) for name in before | after}
    print("more per step than the base: calls, us in the function itself, us with what it calls")
    print(f"in all {sum(cost.own_us for cost in more.values()):.0f} us")
    for name, cost in sorted(more.items(), key=lambda item: -abs(item[1].own_us))[:_SHOWN]:
        print(f"{cost.calls:8.2f}{cost.own_us:9.2f}{cost.whole_us:10.2f}  {name}")


def _costs_per_step(profiler: cProfile.Profile, num_steps: int) -> dict[str, _Cost]:
    costs: dict[str, _Cost] = {}
    for entry in profiler.getstats():
        code = entry.code
        if isinstance(code, str):
            name = code
        else:
            name = f"{Path(code.co_filename).name}:{code.co_firstlineno} {code.co_name}"
        sofar = costs.get(name, _Cost())
        us_per_step = 1e6 / num_steps
        costs[name] = _Cost(
            sofar.calls + entry.callcount / num_steps,
            sofar.own_us + entry.inlinetime * us_per_step,
            sofar.whole_us + entry.totaltime * us_per_step,
        )
    return costs
