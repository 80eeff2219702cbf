"""Saving the tests' engines, and looking at what was saved."""

from __future__ import annotations

from pathlib import Path

import torch

from distributed.engine_cases import Mixed
from phaseline.checkpoint.reader import CheckpointReader
from phaseline.checkpoint.retention import Retention
from phaseline.checkpoint.store import CheckpointStore, Origin, SavedPosition
from phaseline.distributed.engines import Engine
from phaseline.distributed.world import World


def store_at(folder: Path, world: World) -> CheckpointStore:
    return CheckpointStore(
        folder,
        world,
        Origin(session="s", attempt=1, config_fingerprint="f"),
        Retention(keep_last=9),
        fence=lambda: None,
        timeout_s=20,
    )


def save(engine: Engine, store: CheckpointStore, step: int) -> Path:
    position = SavedPosition(
        phase="p", phase_step=step, global_step=step, tokens=step, final=False, committed=()
    )
    store.save(engine, position, {"stateful": {}})
    return store.wait()[0].folder


def whole_state(folder: Path) -> dict[str, list[float]]:
    """Every tensor of a checkpoint put together, and its numbers; as bits, in a way JSON keeps."""
    found: dict[str, list[float]] = {}
    with CheckpointReader(folder) as reader:
        for name, record in reader.parameters.items():
            numel = int(torch.tensor(record["shape"]).prod())
            for key in ["weight", *reader.state_keys(name)]:
                flat = torch.empty(numel, dtype=reader.dtype(f"{key}/{name}"))
                reader.read(f"{key}/{name}", 0, flat)
                found[f"{key}/{name}"] = flat.double().tolist()
            found[f"numbers/{name}"] = [value for value, _ in reader.scalars(name).values()]
        module = Mixed(5)
        reader.read_buffers(module, 0)
        found["buffer"] = module.state_dict()["seen"].tolist()
    return found
