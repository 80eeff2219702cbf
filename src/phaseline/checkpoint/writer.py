"""One rank's part of a checkpoint: collected, copied, and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from phaseline.checkpoint.disk import Disk
from phaseline.checkpoint.manifest import FileRecord
from phaseline.checkpoint.reader import (
    MOST_JSON_BYTES,
    WEIGHT,
    index_name,
    optimizer_name,
    persistent_buffers,
    weights_name,
)
from phaseline.checkpoint.snapshot import Snapshot
from phaseline.distributed.adapter_record import record_of
from phaseline.distributed.engines.base import SavedEngine, Scalar, StateFragment, whole_shape
from phaseline.errors import AnomalyError, CheckpointError
from phaseline.session.stored import parse_object, read_file


class RankState:
    """What one rank saves: flat tensors, where each begins, and the optimizer's numbers.

    Attributes:
        weights: Weights and buffers, by key.
        optimizer: Element-wise state of the optimizer, by key.
        fragments: Of each key that is part of a parameter, its first element and its length.
        scalars: Per parameter, the optimizer's numbers, each with whether it is in a tensor.
    """

    def __init__(self, engine: SavedEngine, *, dp_rank: int, dp_world_size: int) -> None:
        """Collects views of a live engine's state; nothing is copied.

        Args:
            engine: The engine.
            dp_rank: This rank.
            dp_world_size: All ranks; they share what is replicated.
        """
        self.weights: dict[str, torch.Tensor] = {}
        self.optimizer: dict[str, torch.Tensor] = {}
        self.fragments: dict[str, tuple[int, int]] = {}
        self.scalars: dict[str, dict[str, tuple[Scalar, bool]]] = {}
        for fragment in engine.state_fragments():
            share = _share(fragment, dp_rank, dp_world_size)
            self._add(self.weights, WEIGHT, fragment, fragment.weight, share)
            for key, tensor in fragment.tensors().items():
                self._add(self.optimizer, key, fragment, tensor, share)
            if fragment.state:
                self.scalars[fragment.name] = {
                    key: (value, fragment.scalar_is_tensor(key))
                    for key, value in fragment.scalars().items()
                }
        for name, buffer in persistent_buffers(engine.module).items():
            self.weights[f"buffer/{name}"] = buffer.detach().reshape(-1)

    def _add(
        self,
        tensors: dict[str, torch.Tensor],
        key: str,
        fragment: StateFragment,
        tensor: torch.Tensor,
        share: tuple[int, int],
    ) -> None:
        first, numel = share
        if numel == 0:
            return
        name = f"{key}/{fragment.name}"
        tensors[name] = tensor.detach().narrow(0, first, numel)
        self.fragments[name] = (fragment.start + first, numel)


class RankSnapshot:
    """A rank's state as it was at one step, apart from the live engine's."""

    def __init__(self) -> None:
        """Takes no memory yet."""
        self._weights = Snapshot()
        self._optimizer = Snapshot()
        self._index = b""

    def take(self, engine: SavedEngine, *, dp_rank: int, dp_world_size: int) -> None:
        """Copies the state, in place of what was copied before. The loop waits for this alone.

        Raises:
            CheckpointError: A tensor has a dtype that a checkpoint cannot hold.
        """
        state = RankState(engine, dp_rank=dp_rank, dp_world_size=dp_world_size)
        self._weights.fill(state.weights)
        self._optimizer.fill(state.optimizer)
        index = {"fragments": state.fragments, "scalars": state.scalars}
        self._index = json.dumps(index).encode()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def write(self, folder: Path, dp_rank: int, disk: Disk) -> dict[str, FileRecord]:
        """Writes and flushes this rank's files; returns their records by name.

        Raises:
            AnomalyError: A weight is not finite, so this state must not be published.
        """
        self._require_finite()
        return {
            name: disk.write_file(folder / name, parts)
            for name, parts in (
                (weights_name(dp_rank), self._weights.file_parts()),
                (optimizer_name(dp_rank), self._optimizer.file_parts()),
                (index_name(dp_rank), [memoryview(self._index)]),
            )
        }

    def _require_finite(self) -> None:
        for key, view in self._weights.views.items():
            kind, _, name = key.partition("/")
            if kind == WEIGHT and not bool(torch.isfinite(view).all()):
                raise AnomalyError(
                    f"{name} holds weights that are not finite, so they are not saved. The last "
                    "checkpoint is kept; lower optimizer.lr or set optimizer.clip_norm."
                )


def merge_indexes(folder: Path, num_ranks: int) -> bytes:
    """Joins the indexes that all ranks wrote into a folder: one file tells where everything is.

    Args:
        folder: A checkpoint that is not published yet.
        num_ranks: Ranks that wrote their part.

    Returns:
        JSON: `fragments`, by key a list of (first element, length, rank) in order, and `scalars`.

    Raises:
        CheckpointError: Ranks have different optimizer numbers for one parameter.
    """
    fragments: dict[str, list[tuple[int, int, int]]] = {}
    scalars: dict[str, Any] = {}
    for rank in range(num_ranks):
        path = folder / index_name(rank)
        data = read_file(path, remedy="", max_bytes=MOST_JSON_BYTES)
        index = parse_object(data, path, remedy="")
        for key, (start, numel) in index["fragments"].items():
            fragments.setdefault(key, []).append((start, numel, rank))
        for name, numbers in index["scalars"].items():
            known = scalars.setdefault(name, numbers)
            if known != numbers:
                raise CheckpointError(
                    f"rank {rank} has other optimizer numbers for {name} than a rank before it: "
                    f"{numbers} and {known}. No checkpoint can hold both"
                )
    for pieces in fragments.values():
        pieces.sort()
    return json.dumps({"fragments": fragments, "scalars": scalars}).encode()


def describe_model(module: torch.nn.Module) -> dict[str, Any]:
    """Names, shapes and dtypes of a module's parameters, which names are tied, its adapters."""
    adapters = record_of(module)
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {
        "parameters": {
            name: {
                "shape": list(whole_shape(parameter)),
                "dtype": str(parameter.dtype).removeprefix("torch."),
                "trainable": parameter.requires_grad,
            }
            for name, parameter in module.named_parameters()
        },
        "tied": [tied for tied in names.values() if len(tied) > 1],
        "lora": None if adapters is None else adapters.to_json(),
    }


def _share(fragment: StateFragment, dp_rank: int, dp_world_size: int) -> tuple[int, int]:
    """This rank's (first, numel) of a fragment: all of it, or its slice of a replicated one."""
    if not fragment.replicated:
        return 0, fragment.numel
    size = -(-fragment.numel // dp_world_size)
    first = min(dp_rank * size, fragment.numel)
    return first, min(size, fragment.numel - first)
