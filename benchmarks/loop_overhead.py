"""CPU time that a training loop costs per optimizer step, above a bare loop.

All loops live in one process and take turns of a few dozen steps, so that a noisy machine
disturbs them alike. Each difference is taken within a round; the table shows the medians.
"""

from __future__ import annotations

import argparse
import os
import pstats
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

# Before torch is imported: one rank on one core.
os.environ["OMP_NUM_THREADS"] = "1"

import torch
import transformers
from loops import RandomRows, accelerate_loop, hf_trainer, torch_bare, torch_with_loader
from measuring import measure, print_table, profile
from pausing import PausedLoop
from phaseline_loop import phaseline_loop, phaseline_runtime, runtimes_on_and_off

ZERO_STAGES = (0, 1, 2, 3)
BARE = "torch, bare"


def main() -> None:
    """Measures, or profiles Phaseline's loop."""
    arguments = _parse()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="(torch|accelerate|transformers|deepspeed).*")
    if arguments.tracking:
        _compare_on_with_off(arguments)
    elif arguments.stages is None:
        _compare_loops(arguments)
    elif len(arguments.stages) == 1:
        _compare_with_deepspeed(arguments, arguments.stages[0])
    else:
        _run_each_stage_alone(arguments, arguments.stages or ZERO_STAGES)


def _compare_loops(arguments: argparse.Namespace) -> None:
    shape = {"sequence_length": arguments.sequence_length, "micro_size": arguments.micro_size}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # First: building its engine takes accelerate's state in the process for itself.
        with phaseline_runtime(folder, **shape) as runtime:
            if arguments.profile:
                num_steps = arguments.rounds * arguments.steps
                stats = pstats.Stats(profile(phaseline_loop(runtime), num_steps=num_steps))
                print(f"{num_steps} steps of Phaseline, seconds")
                stats.strip_dirs()
                stats.sort_stats("cumulative").print_stats(35)
                stats.sort_stats("tottime").print_stats(35)
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
    print_table(costs, base=BARE, num_rounds=arguments.rounds, num_steps=arguments.steps)


def _compare_on_with_off(arguments: argparse.Namespace) -> None:
    """Every metric, record, event and display against null objects in their places."""
    shape = {"sequence_length": arguments.sequence_length, "micro_size": arguments.micro_size}
    base = "everything off"
    with tempfile.TemporaryDirectory() as name, runtimes_on_and_off(Path(name), **shape) as pair:
        loops = [
            PausedLoop("everything on", phaseline_loop(pair[0])),
            PausedLoop(base, phaseline_loop(pair[1])),
        ]
        costs = measure(loops, num_rounds=arguments.rounds, num_steps=arguments.steps)
        for loop in loops:
            loop.close()
    print_table(costs, base=base, num_rounds=arguments.rounds, num_steps=arguments.steps)


def _compare_with_deepspeed(arguments: argparse.Namespace, stage: int) -> None:
    """Phaseline over its DeepSpeed engine, against DeepSpeed by hand, in this process."""
    # DeepSpeed reads what a launcher would have set.
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    engine = f"{{kind: deepspeed, zero_stage: {stage}}}"
    shape = {"sequence_length": arguments.sequence_length, "micro_size": arguments.micro_size}
    with (
        tempfile.TemporaryDirectory() as name,
        phaseline_runtime(Path(name), **shape, engine=engine) as runtime,
    ):
        # Not above: importing DeepSpeed takes seconds, which only these loops need.
        from deepspeed_loop import configuration_of, raw_deepspeed
        from profile_difference import print_difference

        rows, configuration = RandomRows(arguments.sequence_length), configuration_of(runtime)
        raw, again = (raw_deepspeed(rows, arguments.micro_size, configuration) for _ in range(2))
        print(f"\nZeRO stage {stage}")
        if arguments.profile:
            num_steps = arguments.rounds * arguments.steps
            print_difference(raw, phaseline_loop(runtime), num_steps=num_steps)
            return
        base = "DeepSpeed by hand"
        loops = [
            PausedLoop(base, raw),
            PausedLoop("the same once more", again),
            PausedLoop("Phaseline", phaseline_loop(runtime)),
        ]
        costs = measure(loops, num_rounds=arguments.rounds, num_steps=arguments.steps)
        for loop in loops:
            loop.close()
    print_table(costs, base=base, num_rounds=arguments.rounds, num_steps=arguments.steps)


def _run_each_stage_alone(arguments: argparse.Namespace, stages: Sequence[int]) -> None:
    """ZeRO-3 changes torch for its whole process, so no stage shares one with another."""
    names = ("rounds", "steps", "sequence_length", "micro_size")
    numbers = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in names]
    flags = ["--profile"] if arguments.profile else []
    for stage in stages:
        subprocess.run(
            [sys.executable, __file__, f"--stages={stage}", *numbers, *flags], check=True
        )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--steps", type=int, default=64, help="per round and loop")
    parser.add_argument("--sequence-length", type=int, default=16)
    parser.add_argument("--micro-size", type=int, default=2)
    parser.add_argument(
        "--stages",
        type=int,
        nargs="*",
        choices=ZERO_STAGES,
        metavar="STAGE",
        help="over DeepSpeed's ZeRO, against DeepSpeed by hand; none named: stages 0 to 3",
    )
    parser.add_argument(
        "--tracking", action="store_true", help="Phaseline with everything on, against all off"
    )
    parser.add_argument("--profile", action="store_true", help="where Phaseline's time goes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
