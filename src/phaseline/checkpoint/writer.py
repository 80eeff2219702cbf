"""Writing one rank's part of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from phaseline.checkpoint.manifest import FileRecord, hash_file
from phaseline.checkpoint.reader import WEIGHT, persistent_buffers
from phaseline.distributed.engines.base import Engine, Scalar, StateFragment, whole_shape
from phaseline.errors import AnomalyError
from phaseline.session.files import fsync_file


class RankState:
    """What one rank saves: flat tensors, where each begins, and the optimizer's numbers."""

    def __init__(self, engine: Engine, *, dp_rank: int, dp_world_size: int) -> None:
        """Collects views of a live engine's state; nothing is copied.

        Args:
            engine: The engine.
            dp_rank: This rank.
            dp_world_size: All ranks; they share what is replicated.

        Raises:
            AnomalyError: A weight is not finite, so this state must not be published.
        """
        self.tensors: dict[str, torch.Tensor] = {}
        self.fragments: dict[str, tuple[int, int]] = {}
        self.scalars: dict[str, dict[str, tuple[Scalar, bool]]] = {}
        for fragment in engine.state_fragments():
            first, numel = _share(fragment, dp_rank, dp_world_size)
            self._add(WEIGHT, fragment, fragment.weight, first, numel)
            for key, tensor in fragment.tensors().items():
                self._add(key, fragment, tensor, first, numel)
            if fragment.state:
                self.scalars[fragment.name] = {
                    key: (value, fragment.scalar_is_tensor(key))
                    for key, value in fragment.scalars().items()
                }
        for name, buffer in persistent_buffers(engine.module).items():
            self.tensors[f"buffer/{name}"] = buffer.detach().reshape(-1)

    def _add(
        self, key: str, fragment: StateFragment, tensor: torch.Tensor, first: int, numel: int
    ) -> None:
        if numel == 0:
            return
        part = tensor.detach().narrow(0, first, numel)
        if key == WEIGHT and not bool(torch.isfinite(part).all()):
            raise AnomalyError(
                f"{fragment.name} holds weights that are not finite, so they are not saved. The "
                "last checkpoint is kept; lower optimizer.lr or set optimizer.clip_norm."
            )
        name = f"{key}/{fragment.name}"
        self.tensors[name] = part
        self.fragments[name] = (fragment.start + first, numel)

    def write(self, folder: Path, dp_rank: int) -> dict[str, FileRecord]:
        """Writes and flushes this rank's two files; returns their records by name."""
        name = f"rank-{dp_rank:05d}"
        tensor_path = folder / f"{name}.safetensors"
        save_file({key: tensor.cpu() for key, tensor in self.tensors.items()}, tensor_path)
        fsync_file(tensor_path)
        index = {"fragments": self.fragments, "scalars": self.scalars}
        index_record = write_part(folder / f"{name}.json", index)
        return {tensor_path.name: hash_file(tensor_path), f"{name}.json": index_record}


def write_part(path: Path, content: Any) -> FileRecord:
    """Writes and flushes one JSON file inside a folder that is not published yet."""
    path.write_text(json.dumps(content), encoding="utf-8")
    fsync_file(path)
    return hash_file(path)


def describe_model(module: torch.nn.Module) -> dict[str, Any]:
    """Names, shapes and dtypes of a module's parameters, and which names are tied."""
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
    }


def _share(fragment: StateFragment, dp_rank: int, dp_world_size: int) -> tuple[int, int]:
    """This rank's (first, numel) of a fragment: all of it, or its slice of a replicated one."""
    if not fragment.replicated:
        return 0, fragment.numel
    size = -(-fragment.numel // dp_world_size)
    first = min(dp_rank * size, fragment.numel)
    return first, min(size, fragment.numel - first)
