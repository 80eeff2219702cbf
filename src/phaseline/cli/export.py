"""`phaseline export`: a phase's weights as a folder that plain transformers loads."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from phaseline.cli.options import (
    BestOfPhase,
    PhaseName,
    PhaseStep,
    TrustCode,
    require_one_choice,
)
from phaseline.cli.showing import show, warn
from phaseline.cli.trust import code_of_session
from phaseline.errors import UsageError
from phaseline.units import parse_size


class Dtype(str, Enum):
    """Of the exported weights."""

    BF16 = "bf16"
    FP32 = "fp32"


class Lora(str, Enum):
    """What becomes of a phase's adapters."""

    MERGED = "merged"
    ADAPTER = "adapter"


def export(
    directory: Annotated[Path, typer.Argument(help="The session directory.")],
    to: Annotated[Path, typer.Option(help="The folder to write; it must not exist yet.")],
    phase: PhaseName = None,
    step: PhaseStep = None,
    best: BestOfPhase = False,
    trust_code: TrustCode = False,
    dtype: Annotated[Dtype, typer.Option(help="Of the weights in the files.")] = Dtype.FP32,
    max_shard_size: Annotated[
        str, typer.Option(help="Divide weights into files of at most this size.")
    ] = "5GB",
    lora: Annotated[
        Lora, typer.Option(help="Of a phase with adapters: added in, or they alone, for peft.")
    ] = Lora.MERGED,
) -> None:
    """Write a phase's weights, configuration and tokenizer into a Hugging Face folder.

    Works on any checkpoint, whichever engine and number of ranks wrote it, without a GPU; a
    session that is running may be exported too. The folder appears when it is whole.
    """
    require_one_choice(step, best=best)
    try:
        max_shard_bytes = parse_size(max_shard_size)
    except ValueError as error:
        raise UsageError(f"--max-shard-size {error}. Write for example 5GB.") from error
    # Not above: torch and transformers take seconds, and the help needs neither.
    from phaseline.training.pipeline.exporting import ExportForm, export_phase
    from phaseline.training.pipeline.trained_phase import TrainedPhase

    form = ExportForm(dtype=dtype.value, max_shard_bytes=max_shard_bytes, lora=lora.value)
    with code_of_session(directory, is_trusted=trust_code):
        trained = TrainedPhase.find(directory, phase, step=step, best=best, say=warn)
        export_phase(trained, to, form)
    manifest = trained.manifest
    show(f"exported {trained.phase} at step {manifest.phase_step} to {to}")
