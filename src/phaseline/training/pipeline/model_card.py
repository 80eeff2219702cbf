"""The README of an exported model: what the session knows of it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from phaseline.checkpoint.manifest import Manifest
from phaseline.checkpoint.reader import CheckpointReader
from phaseline.checkpoint.trust import list_inherited
from phaseline.config.inheritance import describe_start, source_phase
from phaseline.errors import CheckpointError, PhaselineError
from phaseline.session.files import fsync_file
from phaseline.session.identity import load_identity
from phaseline.session.layout import SessionLayout
from phaseline.session.metrics_view import read_metrics
from phaseline.session.stored import read_stored
from phaseline.training.pipeline.environment_record import StartedWith
from phaseline.training.pipeline.trained_phase import TrainedPhase

_NAME = "README.md"
_LICENSE = (
    "No licence is stated: it depends on the data, and on the model that this one was made of. "
    "Whoever publishes it states it here and as `license:` in the header."
)


def write_model_card(trained: TrainedPhase, folder: Path, *, dtype: str, is_adapter: bool) -> None:
    """Writes README.md.

    Args:
        trained: The checkpoint, and what it is of.
        folder: The exported folder.
        dtype: Of the weights in it.
        is_adapter: Whether it holds adapters alone.
    """
    text = "\n".join(_lines(trained, dtype, is_adapter=is_adapter)) + "\n"
    (folder / _NAME).write_text(text, encoding="utf-8")
    fsync_file(folder / _NAME)


def _lines(trained: TrainedPhase, dtype: str, *, is_adapter: bool) -> Iterator[str]:
    manifest, identity = trained.manifest, load_identity(trained.layout)
    name = trained.config.session.name
    yield from ("---", f"library_name: {'peft' if is_adapter else 'transformers'}")
    yield from ("tags: [phaseline]", "---", "", f"# {name}: {trained.phase}", "")
    yield (
        f"{'Low-rank adapters' if is_adapter else 'Weights'} in {dtype}, from step "
        f"{manifest.phase_step:,} of the phase {trained.phase} of a training session."
    )
    yield from ("", "## Training", "")
    lineage = _lineage(trained)
    yield from (f"- {describe_start(trained.config, idx)}." for idx in lineage)
    yield from ("", "| phase | objective | steps | tokens | losses | data | fingerprint |")
    yield "|---|---|---|---|---|---|---|"
    phases = trained.config.phases
    before = 0
    for idx in range(max(lineage) + 1):
        saved = manifest if phases[idx].name == trained.phase else _last(trained, phases[idx].name)
        tokens = None if saved is None else saved.tokens
        if idx in lineage and saved is not None:
            yield _row(trained, idx, saved, saved.tokens - before)
        before = before if tokens is None else tokens
    yield from ("", "## Facts", "")
    yield f"- session: {'unknown' if identity is None else identity.id}"
    yield f"- tokens of all phases up to this checkpoint: {manifest.tokens:,}"
    yield f"- seed: {trained.config.session.seed}"
    yield f"- configuration: fingerprint {manifest.config_fingerprint}"
    checkpoint = trained.checkpoint.relative_to(trained.layout.root)
    yield f"- checkpoint: {checkpoint}, {manifest.engine} on {manifest.world_size} rank(s)"
    if trained.section.data.sequence_length is not None:
        yield f"- tokenizer: fingerprint {trained.tokenizer.fingerprint}"
    yield f"- versions: {_versions(trained.layout, manifest.attempt)}"
    yield from ("", "## Licence", "", _LICENSE)


def _lineage(trained: TrainedPhase) -> list[int]:
    """The phases that these weights went through, in order."""
    idx: int | None = [phase.name for phase in trained.config.phases].index(trained.phase)
    found: list[int] = []
    while idx is not None:
        found.insert(0, idx)
        idx = source_phase(trained.config, idx)
    return found


def _last(trained: TrainedPhase, phase: str) -> Manifest | None:
    """What the phase was finished with."""
    layout = trained.layout
    folders = list_inherited(layout, max(layout.attempt_numbers(), default=0) + 1)
    for folder in sorted(folders, reverse=True):
        try:
            manifest = Manifest.load(folder)
        except (CheckpointError, OSError):
            continue
        if manifest.phase == phase and manifest.final:
            return manifest
    return None


def _row(trained: TrainedPhase, idx: int, saved: Manifest, tokens: int) -> str:
    phase = trained.config.phases[idx]
    losses = _losses(trained.layout, phase.name, saved.phase_step)
    cells = (
        phase.name,
        phase.objective,
        f"{saved.phase_step:,}",
        f"{tokens:,}",
        ", ".join(f"{key} {value:.4f}" for key, value in losses.items()),
        ", ".join(source.source for source in phase.data.sources),
        _data_fingerprint(trained, phase.name),
    )
    return f"| {' | '.join(cells)} |"


def _losses(layout: SessionLayout, phase: str, step: int) -> dict[str, float]:
    """The last losses that were measured up to a step, by what they were measured on."""
    found: dict[str, float] = {}
    for record in read_metrics(layout, phase):
        for kind in ("train", "validation"):
            value = record["metrics"].get(f"{phase}/{kind}/loss")
            if value is not None and record["phase_step"] <= step:
                found[kind] = float(value)
    return found


def _data_fingerprint(trained: TrainedPhase, phase: str) -> str:
    """Of the prepared data that the phase's checkpoints belong to."""
    folders = [trained.checkpoint] if phase == trained.phase else []
    layout = trained.layout
    folders += sorted(layout.phase(phase).dir.glob("*/step-*"), reverse=True)
    for folder in folders:
        try:
            state = CheckpointReader(folder).state
            return str(state["stateful"]["data"]["fingerprint"])
        except (OSError, PhaselineError, KeyError, TypeError):
            continue
    return "unknown"


def _versions(layout: SessionLayout, attempt: int) -> str:
    path = layout.attempt(attempt).environment_file
    told = {}
    if path.is_file():
        remedy = "Remove it: only versions are told from it."
        told = read_stored(path, StartedWith, remedy=remedy).versions
    trained_with = [
        f"{name} {told[name]}" for name in ("phaseline", "python", "torch") if name in told
    ]
    return f"trained with {', '.join(trained_with)}; exported with transformers {version('transformers')}"
