"""From a checkpoint to a folder that plain transformers loads, a tensor at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from phaseline.checkpoint.reader import CheckpointReader, persistent_buffers
from phaseline.checkpoint.shard_writer import ShardWriter
from phaseline.checkpoint.weight_matching import match_names
from phaseline.checkpoint.weight_readers import CheckpointWeights, WeightReader
from phaseline.config.inheritance import outside_weights, pretrained_weights, source_phase
from phaseline.distributed.adapter_record import AdapterRecord, is_adapter
from phaseline.errors import UsageError
from phaseline.models.export import (
    adapter_file_names,
    save_adapter_config,
    save_architecture,
    stored_tensors,
)
from phaseline.session.files import fsync_file, fsync_folder
from phaseline.training.pipeline.model_card import write_model_card
from phaseline.training.pipeline.trained_phase import TrainedPhase

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_ADAPTER_FILE = "adapter_model.safetensors"
_ASIDE = ".aside-"


@dataclass(frozen=True, kw_only=True)
class ExportForm:
    """How a phase is exported.

    Attributes:
        dtype: fp32 or bf16, of the weights.
        max_shard_bytes: Largest size of one file's tensors.
        lora: merged or adapter; without effect for a phase without adapters.
    """

    dtype: str = "fp32"
    max_shard_bytes: int = 5 * 1000**3
    lora: str = "merged"


def export_phase(
    trained: TrainedPhase, folder: Path, form: ExportForm, *, replace: bool = False
) -> None:
    """Writes a folder aside and puts it in place at once: what has the name is whole.

    Args:
        trained: The checkpoint, and what it is of.
        folder: Where it goes.
        form: How.
        replace: Whether a folder that is there goes; else it is refused.

    Raises:
        UsageError: The folder is there already, or there are no adapters to export alone.
    """
    if folder.exists() and not replace:
        raise UsageError(
            f"{folder} exists already. Name a new folder with --to, or remove that one first."
        )
    aside = folder.with_name(f"{_ASIDE}{folder.name}-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        write = _write_adapter if form.lora == "adapter" else _write_model
        write(trained, aside, form)
        if trained.section.data.sequence_length is not None:
            trained.tokenizer.save(aside)
        write_model_card(trained, aside, dtype=form.dtype, is_adapter=form.lora == "adapter")
        for path in aside.iterdir():
            fsync_file(path)
        fsync_folder(aside)
        _put_in_place(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put_in_place(aside: Path, folder: Path) -> None:
    """A folder that is there is moved away first, so that at no time a half one has the name."""
    old = aside.with_name(f"{aside.name}-old")
    if folder.exists():
        folder.rename(old)
    aside.rename(folder)
    fsync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _write_model(trained: TrainedPhase, folder: Path, form: ExportForm) -> None:
    module, dtype = trained.build_skeleton(), _DTYPES[form.dtype]
    save_architecture(module, folder, dtype=dtype)
    with trained.open() as reader:
        names = match_names(reader, module)
        reader.read_buffers(module)
        empty = _tensors(module, dtype, lambda _, shape: torch.empty(shape, device="meta"))
        plan = {name: (tuple(t.shape), t.dtype) for name, t in empty}
        with ShardWriter(folder, plan, max_bytes=form.max_shard_bytes) as writer:
            for name, tensor in _tensors(module, dtype, _from(reader, names)):
                writer.write(name, tensor)


def _tensors(
    module: torch.nn.Module,
    dtype: torch.dtype,
    value_of: Callable[[str, tuple[int, ...]], torch.Tensor],
) -> Iterator[tuple[str, torch.Tensor]]:
    """Everything that is stored of a model, in the order of its parameters; tied weights once.

    Args:
        module: The model, its buffers filled.
        dtype: Of the weights.
        value_of: A parameter's value in fp32, by its name and shape.
    """
    for name, parameter in module.named_parameters():
        value = value_of(name, tuple(parameter.shape)).to(dtype)
        yield from stored_tensors(module, name, value).items()
    yield from persistent_buffers(module).items()


def _from(
    reader: WeightReader, names: Mapping[str, str]
) -> Callable[[str, tuple[int, ...]], torch.Tensor]:
    def read(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        whole = torch.empty(shape)
        reader.read(names[name], 0, whole.view(-1))
        return whole

    return read


def _write_adapter(trained: TrainedPhase, folder: Path, form: ExportForm) -> None:
    with CheckpointWeights(trained.checkpoint) as reader:
        record = reader.adapters
        if record is None:
            raise UsageError(
                f"{trained.phase} has no adapters to export alone. Leave --lora out, or export a "
                "phase with trainable.lora."
            )
        _require_adapters_alone(trained)
        save_adapter_config(record, folder, base_model=_base_of(trained))
        _write_adapters(reader, record, folder, _DTYPES[form.dtype])


def _write_adapters(
    reader: WeightReader, record: AdapterRecord, folder: Path, dtype: torch.dtype
) -> None:
    from safetensors.torch import save_file

    read = _from(reader, {name: name for name in reader.shapes})
    tensors = {
        stored: read(name, reader.shapes[name]).to(dtype)
        for name, stored in adapter_file_names(record).items()
    }
    save_file(tensors, folder / _ADAPTER_FILE, metadata={"format": "pt"})


def _require_adapters_alone(trained: TrainedPhase) -> None:
    """Adapters do not hold what the phase trained of the model itself."""
    parameters = CheckpointReader(trained.checkpoint).parameters
    more = [
        name for name, record in parameters.items() if record["trainable"] and not is_adapter(name)
    ]
    if more:
        raise UsageError(
            f"{trained.phase} trained {more[0]} besides its adapters, which would be lost. Export "
            "it with --lora merged."
        )


def _base_of(trained: TrainedPhase) -> str | None:
    """The public name of what the adapters belong to; None if this session trained that too."""
    config = trained.config
    idx = [phase.name for phase in config.phases].index(trained.phase)
    if source_phase(config, idx) is not None:
        return None
    outside = outside_weights(config, idx)
    is_pretrained = outside is not None and outside == pretrained_weights(config.model)
    return config.model.pretrained if is_pretrained else outside
