"""Loops that take turns, what each costs, and where its time goes."""

from __future__ import annotations

import cProfile
import gc
import statistics
import time

from loops import Loop
from pausing import PausedLoop, Turnstile

WARM_UP_STEPS = 200

Costs = dict[str, list[float]]
"""CPU time of the process per step, milliseconds, by loop and round."""


def measure(loops: list[PausedLoop], *, num_rounds: int, num_steps: int) -> Costs:
    """Lets the loops take turns.

    Args:
        loops: Each waits in a thread of its own.
        num_rounds: Turns of every loop.
        num_steps: Optimizer steps of a turn.
    """
    for loop in loops:
        loop.advance(WARM_UP_STEPS)
    gc.collect()
    gc.freeze()
    costs: Costs = {loop.name: [] for loop in loops}
    for round_idx in range(num_rounds):
        first = round_idx % len(loops)
        for loop in loops[first:] + loops[:first]:
            began = time.process_time()
            loop.advance(num_steps)
            costs[loop.name].append((time.process_time() - began) / num_steps * 1e3)
    return costs


def print_table(costs: Costs, *, base: str, num_rounds: int, num_steps: int) -> None:
    """Prints medians and quartiles, and those of the differences within a round.

    Args:
        costs: What `measure` returned.
        base: Name of the loop that the others are compared with.
        num_rounds: For the title.
        num_steps: For the title.
    """
    print(f"CPU ms per step, median of {num_rounds} rounds of {num_steps} steps [quartiles]")
    print(f"{'loop':<24}{'whole step':>28}{f'above {base}':>32}")
    for name, values in costs.items():
        above = [value - least for value, least in zip(values, costs[base], strict=True)]
        shown = "" if name == base else _spread(above)
        print(f"{name:<24}{_spread(values):>28}{shown:>32}")


def profile(loop: Loop, *, num_steps: int) -> cProfile.Profile:
    """Profiles so many steps of a loop; under the profiler all cost more."""
    profiler = cProfile.Profile()

    def profiled(turnstile: Turnstile) -> None:
        turnstile.step_ended()
        # A profiler sees only the thread that enables it.
        profiler.enable()
        try:
            loop(turnstile)
        finally:
            profiler.disable()

    paused = PausedLoop("profiled", profiled)
    paused.advance(1)
    paused.advance(num_steps)
    paused.close()
    return profiler


def _spread(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"
