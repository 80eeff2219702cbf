"""The checkpoint of a trial: bounded, and compared with what lives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from phaseline.checkpoint.disk import Disk
from phaseline.checkpoint.manifest import MANIFEST_NAME, FileRecord, list_published
from phaseline.checkpoint.trial import (
    SampledEngine,
    checkpoint_bytes,
    require_whole_model,
    try_checkpoint,
)
from phaseline.distributed.engines import Engine, StateFragment
from phaseline.distributed.world import World
from phaseline.errors import CheckpointError
from unit.checkpoint.live_engines import at, build, save, store_in, train


def trained(world: World) -> Engine:
    engine = build(world, 1)
    train(engine, range(1))
    return engine


def test_trial_writes_no_more_than_its_sample(world: World, tmp_path: Path) -> None:
    engine = trained(world)
    sample = SampledEngine(engine, 100)
    found = [(fragment.name, fragment.numel) for fragment in sample.state_fragments()]
    # Frozen, or of one element, 4 bytes an element; then with two moments 12: the rest is cut.
    assert found == [("frozen", 5), ("gain", 1), ("shift", 1), ("embed.weight", 5)]
    try_checkpoint(store_in(tmp_path, world), engine, world, phase="p", state={}, sample_bytes=100)
    [folder] = list_published(tmp_path)
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
    whole = save(store_in(tmp_path / "whole", world), engine, at(1), {}).folder
    assert all(size < (whole / name).stat().st_size for name, size in sizes.items())


def test_sample_of_everything_is_everything(world: World) -> None:
    engine = trained(world)
    sampled = [(f.name, f.start, f.numel) for f in SampledEngine(engine, 1 << 20).state_fragments()]
    assert sampled == [(f.name, f.start, f.numel) for f in engine.state_fragments()]


def test_size_is_that_of_a_whole_checkpoint(world: World, tmp_path: Path) -> None:
    engine = trained(world)
    report = save(store_in(tmp_path, world), engine, at(1), {})
    headers_and_indexes = report.size_bytes - checkpoint_bytes(engine, world)
    tensors = sum(
        tensor.numel() * tensor.element_size()
        for fragment in engine.state_fragments()
        for tensor in (fragment.weight, *fragment.tensors().values())
    )
    buffers = 8 + 5 * 4
    assert checkpoint_bytes(engine, world) == tensors + buffers
    assert 0 < headers_and_indexes < 8192


class Forgetful(Disk):
    """Keeps other bytes of one kind of file than it was given, and says what it was given."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def rename(self, path: Path, other: Path) -> None:
        [file] = path.glob(f"*{self._kind}")
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
        super().rename(path, other)


@pytest.mark.parametrize(
    "kind", [".weights.safetensors", ".optimizer.safetensors", "rank-00000.json"]
)
def test_trial_fails_when_the_disk_keeps_other_bytes(
    world: World, tmp_path: Path, kind: str
) -> None:
    store = store_in(tmp_path, world, disk=Forgetful(kind))
    with pytest.raises(CheckpointError, match=f"{kind}.* does not have the contents"):
        try_checkpoint(store, trained(world), world, phase="p", state={})


class Shifting(Disk):
    """Trains on between the copy and the look at it, as a copy of other numbers would look."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def write_file(self, path: Path, parts: object) -> FileRecord:
        record = super().write_file(path, parts)  # type: ignore[arg-type]  # passed on
        if path.name == MANIFEST_NAME:
            next(self._engine.state_fragments()).weight.neg_()
        return record


def test_trial_fails_when_what_is_read_is_not_what_lives(world: World, tmp_path: Path) -> None:
    engine = trained(world)
    store = store_in(tmp_path, world, disk=Shifting(engine))
    with pytest.raises(CheckpointError, match=r"weight/frozen reads back other than it was"):
        try_checkpoint(store, engine, world, phase="p", state={})


class Lossy(SampledEngine):
    """An engine that shows less of its state than there is."""

    def state_fragments(self) -> Iterator[StateFragment]:
        for fragment in super().state_fragments():
            if fragment.name == "mix.bias":
                yield replace(fragment, numel=fragment.numel - 1, weight=fragment.weight[:-1])
            else:
                yield fragment


def test_model_that_the_ranks_do_not_hold_whole_is_refused(world: World) -> None:
    engine = Lossy(trained(world), 1 << 20)
    with pytest.raises(
        CheckpointError, match=r"plain engine hold 71 weights, and the model has 72"
    ):
        require_whole_model(engine, world)
