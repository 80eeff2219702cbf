"""CPU time that a training loop costs per optimizer step, above a bare torch loop.

All loops live in one process and take turns of a few dozen steps, so that a noisy machine
disturbs them alike. Each difference is taken within a round; the table shows the medians.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import os
import pstats
import statistics
import tempfile
import time
import warnings
from pathlib import Path

# Before torch is imported: one rank on one core.
os.environ["OMP_NUM_THREADS"] = "1"

import torch
import transformers
from loops import RandomRows, accelerate_loop, hf_trainer, torch_bare, torch_with_loader
from pausing import PausedLoop, Turnstile
from phaseline_loop import phaseline_loop, phaseline_runtime

from phaseline.training.phases.phase_manager import TrainingPhaseManager
from phaseline.training.phases.runtime import PhaseRuntime

WARM_UP_STEPS = 200
BARE = "torch, bare"


def main() -> None:
    """Measures, or profiles Phaseline's loop."""
    arguments = _parse()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="(torch|accelerate|transformers).*")
    shape = {"sequence_length": arguments.sequence_length, "micro_size": arguments.micro_size}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # First: building its engine takes accelerate's state in the process for itself.
        with phaseline_runtime(folder, **shape) as runtime:
            if arguments.profile:
                profile(runtime, arguments.rounds * arguments.steps)
                return
            rows = RandomRows(arguments.sequence_length)
            loops = [
                PausedLoop(BARE, torch_bare(rows, arguments.micro_size)),
                PausedLoop("torch, DataLoader", torch_with_loader(rows, arguments.micro_size)),
                PausedLoop("Phaseline", phaseline_loop(runtime)),
                PausedLoop("accelerate", accelerate_loop(rows, arguments.micro_size)),
                PausedLoop("HF Trainer", hf_trainer(rows, arguments.micro_size, folder / "hf")),
            ]
            costs = measure(loops, num_rounds=arguments.rounds, num_steps=arguments.steps)
            for loop in loops:
                loop.close()
    _print_table(costs, num_rounds=arguments.rounds, num_steps=arguments.steps)


def measure(loops: list[PausedLoop], *, num_rounds: int, num_steps: int) -> dict[str, list[float]]:
    """Lets the loops take turns.

    Returns:
        CPU time of the process per step, milliseconds, by loop and round.
    """
    for loop in loops:
        loop.advance(WARM_UP_STEPS)
    gc.collect()
    gc.freeze()
    costs: dict[str, list[float]] = {loop.name: [] for loop in loops}
    for round_idx in range(num_rounds):
        first = round_idx % len(loops)
        for loop in loops[first:] + loops[:first]:
            began = time.process_time()
            loop.advance(num_steps)
            costs[loop.name].append((time.process_time() - began) / num_steps * 1e3)
    return costs


def profile(runtime: PhaseRuntime, num_steps: int) -> None:
    """Prints where the time of Phaseline's steps goes; under the profiler all cost more."""
    profiler = cProfile.Profile()

    def loop(turnstile: Turnstile) -> None:
        turnstile.step_ended()
        # A profiler sees only the thread that enables it.
        profiler.enable()
        try:
            phaseline_loop(runtime)(turnstile)
        finally:
            profiler.disable()

    paused = PausedLoop("Phaseline", loop)
    paused.advance(1)
    paused.advance(num_steps)
    paused.close()
    stats = pstats.Stats(profiler)
    stats.strip_dirs()
    print(f"{num_steps} steps of {TrainingPhaseManager.__name__}, seconds")
    stats.sort_stats("cumulative").print_stats(35)
    stats.sort_stats("tottime").print_stats(35)


def _print_table(costs: dict[str, list[float]], *, num_rounds: int, num_steps: int) -> None:
    print(f"CPU ms per step, median of {num_rounds} rounds of {num_steps} steps [quartiles]")
    print(f"{'loop':<20}{'whole step':>28}{'above the bare torch loop':>32}")
    for name, values in costs.items():
        above = [value - bare for value, bare in zip(values, costs[BARE], strict=True)]
        shown = "" if name == BARE else _spread(above)
        print(f"{name:<20}{_spread(values):>28}{shown:>32}")


def _spread(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--steps", type=int, default=64, help="per round and loop")
    parser.add_argument("--sequence-length", type=int, default=16)
    parser.add_argument("--micro-size", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="where Phaseline's time goes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
