"""What a save costs the loop: Phaseline's against DeepSpeed's own, of the same live state.

Ranks with ZeRO-2 in bf16 take turns: DeepSpeed's `save_checkpoint`, which the loop waits for
and which is not flushed to the disk, then Phaseline's save, of which the loop waits for the copy
alone. Then both are loaded, and Phaseline's on one rank too. On GPUs where there are any.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from phaseline.checkpoint.reader import CheckpointReader, load_engine
from phaseline.checkpoint.retention import Retention
from phaseline.checkpoint.store import CheckpointStore, Origin, SavedPosition
from phaseline.distributed.engines import EngineSettings, build_engine
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.distributed.world import World

WIDTH = 2048
MILLION = 1_000_000


def main() -> None:
    """Starts the ranks, or is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, nargs="*", default=[50, 200], help="parameters")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        _be_a_rank(arguments)
        return
    for millions in arguments.millions:
        with tempfile.TemporaryDirectory() as folder:
            common = [
                f"--rounds={arguments.rounds}",
                f"--ranks={arguments.ranks}",
                "--millions",
                str(millions),
                "--folder",
                folder,
            ]
            _start(arguments.ranks, common)
            _start(1, [*common, "--load"])


def _start(num_ranks: int, arguments: list[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, *arguments],
            env={**os.environ, **variables, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(num_ranks)
    ]
    codes = [rank.wait() for rank in ranks]
    if any(codes):
        sys.exit(1)


def _be_a_rank(arguments: argparse.Namespace) -> None:
    [millions] = arguments.millions
    environment = RankEnvironment.read()
    world = World(environment, Rendezvous(environment, timeout_s=120), collective_timeout_s=300)
    torch.manual_seed(0)
    layers = [torch.nn.Linear(WIDTH, WIDTH) for _ in range(millions * MILLION // WIDTH**2)]
    module = torch.nn.Sequential(*layers).to(world.device)
    settings = EngineSettings(
        kind="deepspeed",
        zero_stage=2,
        micro_batch_size=1,
        accumulation_steps=1,
        clip_norm=None,
        precision="bf16",
    )
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    engine = build_engine(module, optimizer, settings, world)
    step = _stepper(engine, world.device)
    if arguments.load:
        _time_load(engine, arguments.folder, world, f"Phaseline, on 1 rank of {arguments.ranks}")
    else:
        _compare(engine, step, world, arguments)
    world.close()


def _stepper(engine: Any, device: torch.device) -> Callable[[], None]:
    rows = torch.randn(1, WIDTH, dtype=torch.bfloat16, device=device)

    def step() -> None:
        engine.begin_micro_step(is_last=True)
        engine.backward(engine.model(rows).square().mean())
        engine.step()

    return step


def _compare(
    engine: Any, step: Callable[[], None], world: World, arguments: argparse.Namespace
) -> None:
    folder: Path = arguments.folder
    store = CheckpointStore(
        folder / "ours",
        world,
        Origin(session="s", attempt=1, config_fingerprint="f"),
        Retention(keep_last=2),
        fence=lambda: None,
    )
    costs: dict[str, list[float]] = {"DeepSpeed": [], "stall": [], "until published": []}
    for number in range(1, arguments.rounds + 2):
        step()
        world.rendezvous.barrier("round")
        costs["DeepSpeed"].append(
            _timed(lambda: engine._engine.save_checkpoint(folder / "ds", "a"))  # noqa: SLF001 - what is compared with
        )
        world.rendezvous.barrier("saved")
        position = SavedPosition(
            phase="p", phase_step=number, global_step=number, tokens=0, final=False, committed=()
        )
        costs["stall"].append(_timed(lambda p=position: store.save(engine, p, {})))  # type: ignore[misc]  # bound now
        [report] = store.wait()
        costs["until published"].append(report.duration_s)
    if world.is_main:
        size_mib = report.size_bytes / 2**20
        print(
            f"\n{arguments.millions[0]} M parameters, {size_mib:.0f} MiB, {world.dp_world_size} rank(s), seconds"
        )
        for name, values in costs.items():
            # The first takes its memory.
            first, *others = values
            print(f"  {name:18} {statistics.median(others):7.3f}   (first: {first:.3f})")
        ratio = statistics.median(costs["stall"][1:]) / statistics.median(costs["DeepSpeed"][1:])
        print(f"  stall is 1/{1 / ratio:.1f} of DeepSpeed's save")
    world.rendezvous.barrier("loads")
    _time_load(engine, folder, world, "Phaseline, same ranks")
    taken = _timed(lambda: engine._engine.load_checkpoint(folder / "ds", "a"))  # noqa: SLF001 - likewise
    if world.is_main:
        print(f"  load, DeepSpeed: {taken:.3f}")
        shutil.rmtree(folder / "ds")


def _time_load(engine: Any, folder: Path, world: World, what: str) -> None:
    newest = max((folder / "ours").glob("step-*"))

    def load() -> None:
        with CheckpointReader(newest) as reader:
            load_engine(reader, engine, dp_rank=world.dp_rank)

    taken = _timed(load)
    if world.is_main:
        print(f"  load, {what}: {taken:.3f}")


def _wait_for_gpu() -> None:
    """What was asked of a GPU before belongs to nobody's time."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _timed(work: Callable[[], object]) -> float:
    _wait_for_gpu()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
