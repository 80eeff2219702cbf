"""Everything that one phase works with, built by the pipeline and handed over whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from phaseline.checkpoint.stateful import StatefulRegistry
from phaseline.checkpoint.store import CheckpointStore
from phaseline.config.batch_layout import BatchLayout
from phaseline.config.sections import PhaseSection, ResilienceSection
from phaseline.data.loader import Loader
from phaseline.data.phase_data import PhaseData
from phaseline.distributed.engines import Engine
from phaseline.distributed.world import World
from phaseline.objectives import Objective
from phaseline.objectives.validation_metric import ValidationMetric
from phaseline.resilience.stop import StopVote
from phaseline.session.committed import CommittedLines
from phaseline.tracking.console import Display
from phaseline.tracking.recorder import MetricRecorder
from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.meter import Meter
from phaseline.training.phases.plan import PhasePlan
from phaseline.training.phases.position import PhasePosition
from phaseline.training.phases.progress_clock import ProgressClock
from phaseline.training.phases.reference import NoReference, Reference
from phaseline.training.phases.step_metrics import StepMetrics
from phaseline.training.phases.utilization import Utilization


@dataclass(slots=True, kw_only=True)
class PhaseRuntime:
    """The typed collaborators of one phase; the mixins work on nothing else.

    Attributes:
        section: The phase's configuration.
        resilience: How failure is met.
        phase_idx: The phase's place in the session.
        num_phases: Phases in the session.
        seed: The session's seed.
        plan: The phase's lengths in steps.
        layout: How a global batch is spread over ranks and micro-steps.
        world: The started world.
        engine: Forward, backward and step.
        objective: Turns a batch into losses.
        metrics: The user's own, of validations.
        data: Batches as a function of position, and the tokenizer they were made with.
        loader: Reads this rank's micro-batches.
        position: Where training stands.
        stateful: What checkpoints carry besides weights and optimizer.
        step_metrics: What steps measured and nobody has read yet.
        meter: What this rank waits for and holds.
        utilization: What the share of the device's peak is computed from.
        recorder: Writes metric records, on the main rank.
        attempt: The attempt that this process works for.
        committed: Lines of metrics of earlier attempts that this one stands on.
        store: Publishes checkpoints.
        stop: Whether all ranks stop here.
        display: What a person sees.
        clock: Speed, and time left.
        callbacks: Code of others.
        samples_folder: Where generated text is kept.
        reference: What a policy is held against.
        last_metrics: The metrics that were read last, for the display.
        last_timing: The timing that belongs to them.
    """

    section: PhaseSection
    resilience: ResilienceSection
    phase_idx: int
    num_phases: int
    seed: int
    plan: PhasePlan
    layout: BatchLayout
    world: World
    engine: Engine
    objective: Objective
    data: PhaseData
    loader: Loader
    position: PhasePosition
    stateful: StatefulRegistry
    step_metrics: StepMetrics
    meter: Meter
    utilization: Utilization
    recorder: MetricRecorder
    attempt: int
    committed: tuple[CommittedLines, ...]
    store: CheckpointStore
    stop: StopVote
    display: Display
    clock: ProgressClock
    callbacks: Callback
    samples_folder: Path
    metrics: tuple[ValidationMetric, ...] = ()
    reference: Reference = field(default_factory=NoReference)
    last_metrics: dict[str, float] = field(default_factory=dict)
    last_timing: dict[str, float] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """What the phase does, in one line for people."""
        return (
            f"{self.section.objective}, {self.engine.settings.name}, "
            f"{self.section.step_text} a step "
            f"on {self.world.dp_world_size} rank(s)"
        )
