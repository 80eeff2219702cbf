"""Runtimes of a phase for tests, made of the real collaborators."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from phaseline.checkpoint.reader import CheckpointReader, load_engine
from phaseline.checkpoint.retention import Retention
from phaseline.checkpoint.stateful import StatefulRegistry
from phaseline.checkpoint.store import CheckpointStore, Origin
from phaseline.config.batch_layout import BatchLayout
from phaseline.config.sections import Config
from phaseline.data.loader import build_loader
from phaseline.data.phase_data import open_phase_data
from phaseline.data.preparation import prepare
from phaseline.distributed.engines import EngineSettings, build_engine
from phaseline.distributed.world import World
from phaseline.models.optimizers import build_optimizer
from phaseline.objectives import Objective, build_objective
from phaseline.objectives.validation_metric import Seen
from phaseline.resilience.stop import StopVote
from phaseline.resilience.stop_flag import StopFlag
from phaseline.session.records import RecordWriter, read_records
from phaseline.tracking.console import PhaseBanner, Progress
from phaseline.training.phases.callbacks import Callback, CallbackList
from phaseline.training.phases.meter import Meter
from phaseline.training.phases.phase_manager import PhaseEnding, TrainingPhaseManager
from phaseline.training.phases.plan import PhasePlan
from phaseline.training.phases.position import PhasePosition
from phaseline.training.phases.progress_clock import ProgressClock
from phaseline.training.phases.runtime import PhaseRuntime
from phaseline.training.phases.step_metrics import StepMetrics
from phaseline.training.phases.utilization import Utilization
from unit.covered_lines import covered
from unit.training.pipeline.preference_session import write_answers


class Bigram(torch.nn.Module):
    """Predicts a token from the one before; drops some of what it knows while it trains."""

    def __init__(self, vocab_size: int, dropout: float) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(vocab_size, 8)
        self.dropout = torch.nn.Dropout(dropout)
        self.head = torch.nn.Linear(8, vocab_size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.dropout(self.table(ids)))
        return logits


class SeenDisplay:
    """Keeps what a person would have seen."""

    def __init__(self) -> None:
        self.banners: list[PhaseBanner] = []
        self.progress: list[Progress] = []
        self.notes: list[str] = []

    def phase_started(self, banner: PhaseBanner) -> None:
        self.banners.append(banner)

    def update(self, progress: Progress) -> None:
        self.progress.append(progress)

    def phase_ended(self) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None:
        pass


class RuntimeMaker:
    """Makes runtimes of one phase; each writes into a folder of its own."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self._numbers = itertools.count(1)

    def make(
        self,
        *,
        callbacks: Sequence[Callback] = (),
        objective: Objective | None = None,
        stop_flag: StopFlag | None = None,
        dropout: float = 0.2,
        build: Callable[[int], torch.nn.Module] | None = None,
        **phase: Any,
    ) -> PhaseRuntime:
        """A runtime at the phase's first step; keywords overwrite the phase's sections.

        Its model is a `Bigram`, or what `build` makes for the size of a vocabulary.
        """
        if objective is not None and objective.normaliser == "pairs":
            phase = {"objective": objective.name, **phase}
        config = Config.model_validate(
            {
                "session": {"name": "test", "seed": 5},
                "model": {"factory": "nowhere:needed"},
                "resilience": {"max_skipped_steps": 3},
                "phases": [_phase(phase)],
            }
        )
        section = config.phases[0]
        prepare(config, lambda _: None)
        layout = BatchLayout.derive(section.global_size, section.batch.micro_size, 1)
        data = open_phase_data(config, 0, layout)
        plan = PhasePlan.derive(
            section, tokens_per_step=data.tokens_per_step, steps_per_epoch=None, interval_steps=4
        )
        torch.manual_seed(0)
        vocab_size = data.tokenizer.vocab_size
        module = Bigram(vocab_size, dropout) if build is None else build(vocab_size)
        engine = build_engine(
            module,
            build_optimizer(module, section.optimizer, device=self.world.device),
            EngineSettings(
                kind="plain",
                zero_stage=1,
                micro_batch_size=layout.micro_size,
                accumulation_steps=layout.accumulation_steps,
                clip_norm=section.optimizer.clip_norm,
            ),
            self.world,
        )
        root = self.folder / f"session-{next(self._numbers)}"
        folder = root / "phases" / section.name / "run-1"
        folder.mkdir(parents=True)
        stateful = StatefulRegistry()
        stateful.register("position", position := PhasePosition())
        return PhaseRuntime(
            section=section,
            resilience=config.resilience,
            phase_idx=0,
            num_phases=1,
            seed=config.session.seed,
            plan=plan,
            layout=layout,
            world=self.world,
            engine=engine,
            objective=objective or build_objective(section.objective, path=""),
            data=data,
            loader=build_loader(section.data, data, seed=5, phase_idx=0, dp_rank=0),
            position=position,
            stateful=stateful,
            step_metrics=StepMetrics(self.world),
            meter=Meter(self.world.device),
            utilization=Utilization(flops_per_token=1e6, peak_flops=1e12),
            recorder=RecordWriter(folder / "metrics.jsonl"),
            attempt=2,
            committed=covered((1, 3)),
            store=CheckpointStore(
                folder / "checkpoints",
                self.world,
                Origin(session="s", attempt=2, config_fingerprint="f"),
                Retention(keep_last=100),
                fence=lambda: None,
            ),
            stop=StopVote(stop_flag or StopFlag(), self.world),
            display=SeenDisplay(),
            clock=ProgressClock(plan, later_tokens=0),
            callbacks=CallbackList(callbacks),
            samples_folder=folder / "samples",
        )


def _phase(changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "only",
        "objective": "causal_lm",
        "duration": "6 steps",
        "data": {
            "sources": [{"source": "text_files", "arguments": {"paths": ["corpus/*.txt"]}}],
            "sequence_length": 16,
            "held_out_frac": 0.2,
        },
        "batch": {"global_size": 8, "micro_size": 4},
        "optimizer": {"lr": 0.01},
        "schedule": {"name": "linear", "warmup": "2 steps"},
        **changes,
    }


def preferences(folder: Path, **data: Any) -> dict[str, Any]:
    """What `make` takes for a phase of preferences; its answers are written into the folder."""
    write_answers(folder / "answers.jsonl")
    source = {"source": "files", "arguments": {"paths": ["answers.jsonl"], "shape": "preferences"}}
    data = {"sources": [source], "sequence_length": 64, "held_out_frac": 0.2, **data}
    return {"objective": build_objective("dpo", path=""), "data": data}


def records_of(runtime: PhaseRuntime) -> list[dict[str, Any]]:
    """What the runtime's recorder has written; the recorder is closed."""
    runtime.recorder.close()
    return list(read_records(runtime.samples_folder.parent / "metrics.jsonl"))


def seen(runtime: PhaseRuntime) -> SeenDisplay:
    """The runtime's display."""
    assert isinstance(runtime.display, SeenDisplay)
    return runtime.display


def weights_of(runtime: PhaseRuntime) -> torch.Tensor:
    """All weights, flat."""
    return torch.cat([p.detach().flatten() for p in runtime.engine.module.parameters()])


class CountedUnits:
    """A metric that counts units, and fails where it is told to: in `sums`, `metrics` or its name."""

    name, measures, needs_logits = "units", ("count",), False

    def __init__(self, failing: str = "") -> None:
        self._failing = failing

    def sums(self, seen: Seen) -> torch.Tensor:
        if self._failing == "sums":
            raise ZeroDivisionError("no units")
        return seen.is_unit.sum().view(1)

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        if self._failing == "metrics":
            raise ZeroDivisionError("no units")
        return {"perplexity" if self._failing == "name" else "units": sums["count"]}


def finish_from(folder: Path, resumed: PhaseRuntime, whole: PhaseRuntime) -> None:
    """Loads a checkpoint into a runtime, which then ends as one that ran through."""
    with CheckpointReader(folder) as reader:
        load_engine(reader, resumed.engine, dp_rank=0)
        resumed.stateful.load_state_dict(reader.state["stateful"])
    assert TrainingPhaseManager(runtime=resumed).run() is PhaseEnding.FINISHED
    assert torch.equal(weights_of(resumed), weights_of(whole))
    assert resumed.position == whole.position


def bare(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what a clock measured."""
    return {key: value for key, value in record.items() if key != "timing"}
