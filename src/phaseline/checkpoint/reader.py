"""Reading a checkpoint: only the ranges that are asked for, whoever wrote them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from phaseline.checkpoint.manifest import Manifest
from phaseline.distributed.engines.base import Engine, Scalar, StateFragment, whole_shape
from phaseline.errors import CheckpointError
from phaseline.session.stored import Count, StoredFileError, check, parse_object, read_file

MOST_JSON_BYTES = 1 << 30
"""Largest index that is read, 1 GiB."""
_REMEDY = "Use another checkpoint."


@dataclass(frozen=True)
class _Parameter:
    """What `model.json` says of a parameter."""

    shape: tuple[Count, ...]
    dtype: str
    trainable: bool


@dataclass(frozen=True)
class _Model:
    """What `model.json` holds."""

    parameters: dict[str, _Parameter]
    tied: list[list[str]]
    lora: dict[str, Any] | None


@dataclass(frozen=True)
class _Index:
    """What `index.json` holds."""

    fragments: dict[str, list[tuple[Count, Count, Count]]]
    scalars: dict[str, dict[str, tuple[Any, bool]]]


@dataclass(frozen=True)
class _State:
    """What `state.json` holds."""

    stateful: dict[str, Any] = field(default_factory=dict)


WEIGHT = "weight"
_BUFFER = "buffer/"


def weights_name(dp_rank: int) -> str:
    """The file with a rank's weights and buffers."""
    return f"rank-{dp_rank:05d}.weights.safetensors"


def optimizer_name(dp_rank: int) -> str:
    """The file with a rank's optimizer state; a checkpoint of weights alone has none."""
    return f"rank-{dp_rank:05d}.optimizer.safetensors"


def is_optimizer_file(name: str) -> bool:
    """Whether a file's name is one of `optimizer_name`."""
    return name.endswith(".optimizer.safetensors")


def index_name(dp_rank: int) -> str:
    """The file that says where in its parameter each of a rank's tensors begins."""
    return f"rank-{dp_rank:05d}.json"


INDEX = "index.json"
"""The file that says the same of all ranks' tensors, and which rank's files hold each."""


class CheckpointReader:
    """An opened checkpoint; a context manager. Its files are memory-mapped."""

    def __init__(self, folder: Path) -> None:
        """Reads the indexes. The folder must have been verified.

        Args:
            folder: A published checkpoint.
        """
        self.folder = folder
        self.manifest = Manifest.load(folder)
        self.model: dict[str, Any] = self._read("model.json", _Model, whole=True)
        """What `model.json` says: parameters, which names are tied, adapters."""
        self.parameters: dict[str, dict[str, Any]] = self.model["parameters"]
        self.state: dict[str, Any] = self._read("state.json", _State, whole=True)
        self._pieces: dict[str, list[tuple[int, int, int]]] = {}
        self._scalars: dict[str, dict[str, tuple[Scalar, bool]]] = {}
        self._files: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> CheckpointReader:  # noqa: PYI034 - Self is newer than Python 3.10
        index = self._read(INDEX, _Index)
        left_out = self.manifest.weights_only
        self._pieces = {
            key: [(start, numel, rank) for start, numel, rank in pieces]
            for key, pieces in index.fragments.items()
            if not left_out or key.startswith(f"{WEIGHT}/")
        }
        self._scalars = {
            name: {key: (value, in_tensor) for key, (value, in_tensor) in scalars.items()}
            for name, scalars in index.scalars.items()
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def state_keys(self, name: str) -> list[str]:
        """Keys of the element-wise optimizer state that a parameter has here."""
        suffix = f"/{name}"
        keys = (key[: -len(suffix)] for key in self._pieces if key.endswith(suffix))
        return sorted(key for key in keys if key != WEIGHT and "/" not in key)

    def scalars(self, name: str) -> dict[str, tuple[Scalar, bool]]:
        """A parameter's per-tensor numbers, each with whether it was kept in a tensor."""
        return self._scalars.get(name, {})

    def read(self, key: str, start: int, out: torch.Tensor) -> None:
        """Fills a flat tensor with elements of a saved one.

        Args:
            key: `weight/<parameter>` or `<state>/<parameter>`.
            start: First element wanted, in the flattened parameter.
            out: Where they go. [numel]

        Raises:
            CheckpointError: The checkpoint does not hold all of them.
        """
        numel, filled = out.numel(), 0
        for piece_start, piece_numel, rank in self._pieces.get(key, ()):
            low, high = max(start, piece_start), min(start + numel, piece_start + piece_numel)
            if low < high:
                file = self._file_of(key, rank)
                part = file.get_slice(key)[low - piece_start : high - piece_start]
                out.narrow(0, low - start, high - low).copy_(part)
                filled += high - low
        if filled != numel:
            raise CheckpointError(
                f"{self.folder} holds {filled} of the {numel} elements of {key} from {start} on. "
                "It was written for another model; start a new session."
            )

    def dtype(self, key: str) -> torch.dtype:
        """The dtype of a saved tensor."""
        _, _, rank = self._pieces[key][0]
        empty: torch.Tensor = self._file_of(key, rank).get_slice(key)[0:0]
        return empty.dtype

    def buffer_shapes(self) -> dict[str, tuple[int, ...]]:
        """The buffers that rank 0 saved, by name; they are kept flat."""
        file = self._open(weights_name(0))
        names = [key for key in file.keys() if key.startswith(_BUFFER)]  # noqa: SIM118
        return {
            name.removeprefix(_BUFFER): tuple(file.get_slice(name).get_shape()) for name in names
        }

    def read_buffers(self, module: torch.nn.Module, rank: int) -> None:
        """Gives a module's persistent buffers the values that a rank saved.

        A rank that the saving world did not have takes those of rank 0.
        """
        file = self._open(weights_name(rank if rank < self.manifest.world_size else 0))
        saved = set(file.keys())
        for name, buffer in persistent_buffers(module).items():
            key = f"{_BUFFER}{name}"
            if key not in saved:
                raise CheckpointError(f"{self.folder} does not hold the buffer {name}.")
            with torch.no_grad():
                buffer.copy_(file.get_tensor(key).view(buffer.shape))

    def _file_of(self, key: str, rank: int) -> Any:
        is_weight = key.startswith(f"{WEIGHT}/")
        return self._open(weights_name(rank) if is_weight else optimizer_name(rank))

    def _open(self, name: str) -> Any:
        """A file of tensors, opened once, when something in it is first asked for."""
        if name not in self._files:
            try:
                opened = safe_open(self.folder / name, framework="pt")
            except SafetensorError as error:
                raise CheckpointError(
                    f"{self.folder / name} cannot be read: {error}. {_REMEDY}"
                ) from error
            self._files[name] = self._stack.enter_context(opened)
        return self._files[name]

    def _read(self, name: str, model: type[Any], *, whole: bool = False) -> Any:
        """What a file holds, as a dataclass; the whole object, with keys that it does not know."""
        path = self.folder / name
        try:
            data = read_file(path, remedy=_REMEDY, max_bytes=MOST_JSON_BYTES)
            checked = check(data, model, path, remedy=_REMEDY)
            return parse_object(data, path, remedy=_REMEDY) if whole else checked
        except StoredFileError as error:
            raise CheckpointError(str(error)) from error


@torch.no_grad()
def load_engine(reader: CheckpointReader, engine: Engine, *, dp_rank: int) -> None:
    """Gives a live engine the saved weights and optimizer state. **Ranks:** all.

    Every rank reads the ranges that it holds and nothing else.

    Args:
        reader: An opened checkpoint, of any engine and world size.
        engine: The engine, built for the same parameters.
        dp_rank: This rank.

    Raises:
        CheckpointError: The checkpoint does not fit the engine.
    """
    shapes = {name: whole_shape(p) for name, p in engine.module.named_parameters()}
    _require_same_parameters(reader, shapes)
    for fragment in engine.state_fragments():
        reader.read(f"{WEIGHT}/{fragment.name}", fragment.start, fragment.weight)
    load_optimizer(reader, engine)
    reader.read_buffers(engine.module, dp_rank)
    engine.refresh_weights()


@torch.no_grad()
def load_optimizer(reader: CheckpointReader, engine: Engine) -> None:
    """Gives a live engine's optimizer the saved state of what it trains. **Ranks:** all.

    Raises:
        CheckpointError: The state does not fit the engine.
    """
    scalars: dict[int, tuple[str, dict[str, tuple[Scalar, bool]]]] = {}
    for fragment in engine.state_fragments():
        if fragment.trainable:
            _load_optimizer_state(reader, fragment, scalars)


def persistent_buffers(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A module's buffers that belong to its state, by name."""
    in_state = module.state_dict(keep_vars=True).keys()
    return {name: buffer for name, buffer in module.named_buffers() if name in in_state}


def _load_optimizer_state(
    reader: CheckpointReader,
    fragment: StateFragment,
    seen: dict[int, tuple[str, dict[str, tuple[Scalar, bool]]]],
) -> None:
    keys = reader.state_keys(fragment.name)
    fragment.create_state({key: reader.dtype(f"{key}/{fragment.name}") for key in keys})
    for key, view in fragment.tensors().items():
        if key in keys:
            reader.read(f"{key}/{fragment.name}", fragment.start, view)
    saved = reader.scalars(fragment.name)
    other, agreed = seen.setdefault(id(fragment.state), (fragment.name, saved))
    if agreed != saved:
        raise CheckpointError(
            f"{reader.folder}: {other} and {fragment.name} have different optimizer numbers "
            f"({agreed} and {saved}), but share one flat tensor under ZeRO. Train the phase "
            "with `engine.kind: plain`, in a session of its own."
        )
    for key, (value, as_tensor) in saved.items():
        fragment.set_scalar(key, value, as_tensor=as_tensor)


def _require_same_parameters(reader: CheckpointReader, shapes: dict[str, tuple[int, ...]]) -> None:
    saved = {name: tuple(record["shape"]) for name, record in reader.parameters.items()}
    if saved == shapes:
        return
    lines = [f"{name} is missing" for name in sorted(shapes.keys() - saved.keys())]
    lines += [f"{name} is too many" for name in sorted(saved.keys() - shapes.keys())]
    lines += [
        f"{name} is {list(saved[name])} and not {list(shapes[name])}"
        for name in sorted(saved.keys() & shapes.keys())
        if saved[name] != shapes[name]
    ]
    shown = "; ".join(lines[:5]) + ("; ..." if len(lines) > 5 else "")
    raise CheckpointError(
        f"{reader.folder} does not fit the model: {shown}. "
        "Keep `model` as it was, or start a new session."
    )
