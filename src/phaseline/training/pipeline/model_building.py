"""Step two of a run: the tokenizer, the model, and everything else that one phase works with."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from phaseline.checkpoint.reader import CheckpointReader, load_engine
from phaseline.checkpoint.retention import Retention
from phaseline.checkpoint.stateful import StatefulRegistry
from phaseline.checkpoint.store import CheckpointStore, Origin
from phaseline.cluster.slot import Slot
from phaseline.config.inheritance import source_phase, teacher_phase
from phaseline.config.plugins import load_attribute
from phaseline.data.loader import Loader, build_loader
from phaseline.data.phase_data import PhaseData, open_phase_data
from phaseline.data.tokenizer import Tokenizer
from phaseline.distributed.engines import Engine
from phaseline.distributed.peak_flops import peak_flops_of
from phaseline.distributed.world import World
from phaseline.errors import CheckpointError
from phaseline.models.flops import flops_per_token
from phaseline.objectives import Objective, build_objective, require_shape
from phaseline.objectives.distillation import Distillation
from phaseline.objectives.validation_metric import ValidationMetric, build_metrics
from phaseline.resilience.save_timer import SaveTimer
from phaseline.resilience.stop import StopVote
from phaseline.resilience.stop_flag import StopFlag
from phaseline.session.records import RecordWriter
from phaseline.tracking.console import Display
from phaseline.tracking.recorder import MetricRecorder, NullRecorder
from phaseline.tracking.tracker import tracker_names
from phaseline.training.phases.callbacks import Callback, CallbackList
from phaseline.training.phases.meter import Meter
from phaseline.training.phases.plan import PhasePlan
from phaseline.training.phases.position import PhasePosition
from phaseline.training.phases.profiling import PhaseProfiler
from phaseline.training.phases.progress_clock import ProgressClock
from phaseline.training.phases.reference import Reference
from phaseline.training.phases.runtime import PhaseRuntime
from phaseline.training.phases.step_metrics import StepMetrics
from phaseline.training.phases.utilization import Utilization
from phaseline.training.pipeline.configuration_builder import TrainingConfiguration
from phaseline.training.pipeline.content_identity import (
    ContentIdentity,
    require_same_contents,
    tokenizer_identity,
)
from phaseline.training.pipeline.engine_building import build_phase_engine, engine_settings
from phaseline.training.pipeline.event_log import EventLog
from phaseline.training.pipeline.feed_notices import FeedNotices
from phaseline.training.pipeline.lineage import parents_of
from phaseline.training.pipeline.phase_checkpoints import Wanted, best_by, choose, wanted_of
from phaseline.training.pipeline.phase_start import PhaseStart, StartContext, find_phase_start
from phaseline.training.pipeline.reference_building import ReferenceBuilding
from phaseline.training.pipeline.resume_point import ResumePoint
from phaseline.training.pipeline.session_manager import OpenSession
from phaseline.training.pipeline.slot_pace import SlotPace
from phaseline.training.pipeline.teaching import load_teacher


def build_registry(position: PhasePosition, data: PhaseData, phase: str) -> StatefulRegistry:
    """What every phase's checkpoints carry; callbacks add their own."""
    registry = StatefulRegistry()
    registry.register("position", position)
    registry.register("data", ContentIdentity("data", data.fingerprint, phase))
    registry.register("tokenizer", tokenizer_identity(data.tokenizer, phase))
    return registry


class ModelBuilding:
    """Builds the runtime of a phase, and gives it the state that it goes on from."""

    def __init__(
        self,
        configuration: TrainingConfiguration,
        session: OpenSession,
        world: World,
        *,
        display: Display,
        stop_flag: StopFlag,
        slot: Slot,
    ) -> None:
        """Takes what all phases share.

        Args:
            configuration: The run's configuration.
            session: The open session.
            world: The started world.
            display: What a person sees.
            stop_flag: Set when this process is asked to stop.
            slot: The time that the job has.
        """
        self._configuration = configuration
        self._session = session
        self._world = world
        self._display = display
        self._stop_flag = stop_flag
        self._slot = slot

    def build(
        self, phase_idx: int, point: ResumePoint | None, *, is_trial: bool = False
    ) -> PhaseRuntime:
        """Builds a phase's runtime. **Ranks:** all.

        Args:
            phase_idx: Which phase.
            point: What it goes on from: a checkpoint of this phase, the last one of the phase
                before, or None for fresh weights.
            is_trial: Whether the phase is only tried: weights from outside are then held against
                the model, and not read.
        """
        section = self._configuration.config.phases[phase_idx]
        data = self._open_data(phase_idx)
        plan, position = self._plan(phase_idx, data), PhasePosition()
        stateful = build_registry(position, data, section.name)
        callbacks = self._callbacks(phase_idx, stateful)
        context = self._context(phase_idx, data.tokenizer, is_trial=is_trial)
        objective = self._objective(context, data, stateful)
        references = self._reference_building(phase_idx, objective)
        references.prepare(stateful, data.tokenizer)
        find_start = partial(self._find_start, context, point)
        start = find_start() if point is None or point.manifest.phase != section.name else None
        engine = self._engine(context, point, start)
        self._go_on_from(point, data, engine, stateful, position)
        plan.require_not_over(position.phase_step, path=f"phases[{phase_idx}]")
        self._world.require_agreement("where training goes on", position.state_dict())
        reference = (
            references.build_for_trial(engine, data)
            if is_trial
            else references.build(
                engine, data, step=position.phase_step, start=start, find_start=find_start
            )
        )
        return self._put_together(
            phase_idx,
            plan=plan,
            engine=engine,
            objective=objective,
            data=data,
            position=position,
            stateful=stateful,
            callbacks=callbacks,
            reference=reference,
            store=self._store(phase_idx, plan, data, point, start),
        )

    def _put_together(
        self,
        phase_idx: int,
        *,
        plan: PhasePlan,
        engine: Engine,
        objective: Objective,
        data: PhaseData,
        position: PhasePosition,
        stateful: StatefulRegistry,
        callbacks: CallbackList,
        reference: Reference,
        store: CheckpointStore,
    ) -> PhaseRuntime:
        config = self._configuration.config
        section = config.phases[phase_idx]
        return PhaseRuntime(
            section=section,
            resilience=config.resilience,
            phase_idx=phase_idx,
            num_phases=len(config.phases),
            seed=config.session.seed,
            plan=plan,
            layout=self._configuration.layouts[phase_idx],
            world=self._world,
            engine=engine,
            objective=objective,
            metrics=self._metrics(phase_idx),
            data=data,
            loader=self._loader(phase_idx, data),
            position=position,
            stateful=stateful,
            step_metrics=StepMetrics(self._world),
            meter=Meter(self._world.device),
            utilization=self._utilization(phase_idx, engine),
            recorder=self._recorder(),
            attempt=self._session.attempt.number,
            committed=self._session.adopted.committed,
            store=store,
            stop=StopVote(self._stop_flag, self._world, SaveTimer(plan.checkpoint_s)),
            display=self._display,
            clock=self._clock(phase_idx, plan),
            callbacks=callbacks,
            samples_folder=self._session.layout.phase(section.name).samples_dir,
            reference=reference,
        )

    def _reference_building(self, phase_idx: int, objective: Objective) -> ReferenceBuilding:
        phase = self._configuration.config.phases[phase_idx].name
        folder = self._session.layout.phase(phase).reference_dir
        return ReferenceBuilding(
            self._configuration,
            phase_idx,
            objective,
            self._world,
            folder,
            fence=self._session.require_lease,
        )

    def _context(self, phase_idx: int, tokenizer: Tokenizer, *, is_trial: bool) -> StartContext:
        return StartContext(
            configuration=self._configuration,
            world=self._world,
            phase_idx=phase_idx,
            tokenizer=tokenizer,
            is_trial=is_trial,
        )

    def _find_start(self, context: StartContext, point: ResumePoint | None) -> PhaseStart | None:
        return find_phase_start(context, self._inherited(context.phase_idx, point))

    def _engine(
        self, context: StartContext, point: ResumePoint | None, start: PhaseStart | None
    ) -> Engine:
        world = self._world
        engine = build_phase_engine(
            self._configuration, world, context.phase_idx, context.tokenizer, point, start
        )
        if start is not None and not context.is_trial and world.is_main:
            self._session.event("weights_taken", **start.facts())
            for note in start.notes():
                self._display.note(note)
        return engine

    def _teach(self, objective: Distillation, context: StartContext) -> ContentIdentity:
        """Gives the objective its teacher; returns what checkpoints remember of it."""
        settings = engine_settings(self._configuration, context.phase_idx)
        name, ours = teacher_phase(objective.teacher), None
        if name is not None and not context.is_trial:
            ours = self._checkpoint_of(name, "last", None)
        teacher = load_teacher(context, objective, settings, ours)
        objective.teach_with(teacher.model)
        if self._world.is_main and not context.is_trial:
            self._session.event("teacher_taken", **teacher.facts(context.phase))
            self._display.note(f"taught by {teacher.path} ({teacher.kind})")
        return teacher.identity(context.phase)

    def _inherited(self, phase_idx: int, point: ResumePoint | None) -> Path | None:
        """The checkpoint of another phase that a phase starts from."""
        config = self._configuration.config
        source = source_phase(config, phase_idx)
        if source is None or point is None:
            return None
        at = config.phases[phase_idx].inherit.at
        return self._checkpoint_of(config.phases[source].name, at, point)

    def _checkpoint_of(self, phase: str, at: str, point: ResumePoint | None) -> Path:
        """A verified checkpoint of a phase; the main rank finds it. **Ranks:** all."""
        told = {"path": "", "problem": ""}
        if self._world.is_main:
            try:
                wanted = wanted_of(self._configuration.config, phase, at)
                told["path"] = str(self._find(wanted, point))
            except CheckpointError as error:
                told["problem"] = str(error)
        # One that fails by itself would leave the others waiting for it.
        main = self._world.gather_objects(told)[0]
        if main["problem"]:
            raise CheckpointError(main["problem"])
        return Path(main["path"])

    def _find(self, wanted: Wanted, point: ResumePoint | None) -> Path:
        if point is not None and wanted.best is None and point.manifest.phase == wanted.phase:
            return point.folder  # verified when it was found
        session = self._session
        assert session.identity is not None
        return choose(wanted, session.trusted_checkpoints(), session=session.identity.id)

    def _open_data(self, phase_idx: int) -> PhaseData:
        configuration = self._configuration
        data = open_phase_data(configuration.config, phase_idx, configuration.layouts[phase_idx])
        self._world.require_agreement("the prepared data", data.fingerprint)
        return data

    def _loader(self, phase_idx: int, data: PhaseData) -> Loader:
        config = self._configuration.config
        return build_loader(
            config.phases[phase_idx].data,
            data,
            seed=config.session.seed,
            phase_idx=phase_idx,
            dp_rank=self._world.dp_rank,
        )

    def _go_on_from(
        self,
        point: ResumePoint | None,
        data: PhaseData,
        engine: Engine,
        stateful: StatefulRegistry,
        position: PhasePosition,
    ) -> None:
        """Within a phase takes up everything that was saved, after another one only the counts."""
        if point is None:
            return
        if point.manifest.phase != data.phase:
            position.follow(point.manifest.global_step, point.manifest.tokens)
            return
        require_same_contents(point.manifest, data.contents)
        with CheckpointReader(point.folder) as reader:
            load_engine(reader, engine, dp_rank=self._world.dp_rank)
            stateful.load_state_dict(reader.state["stateful"])

    def _objective(
        self, context: StartContext, data: PhaseData, stateful: StatefulRegistry
    ) -> Objective:
        """Builds it, and what it compares with; checkpoints remember that."""
        phase_idx = context.phase_idx
        section = self._configuration.config.phases[phase_idx]
        path = f"phases[{phase_idx}].objective"
        objective = build_objective(section.objective, section.objective_arguments, path=path)
        require_shape(objective, data.shape, path=path)
        if isinstance(objective, Distillation):
            stateful.register("teacher", self._teach(objective, context))
        return objective

    def _metrics(self, phase_idx: int) -> tuple[ValidationMetric, ...]:
        section = self._configuration.config.phases[phase_idx]
        return build_metrics(
            section.evaluate.metrics,
            path=f"phases[{phase_idx}].evaluate.metrics",
            has_logits=not section.engine.linear_cross_entropy,
        )

    def _plan(self, phase_idx: int, data: PhaseData) -> PhasePlan:
        config = self._configuration.config
        global_size = self._configuration.layouts[phase_idx].global_size
        per_epoch = data.samples_per_epoch
        return PhasePlan.derive(
            config.phases[phase_idx],
            tokens_per_step=data.tokens_per_step,
            steps_per_epoch=None if per_epoch is None else per_epoch / global_size,
            interval_steps=config.tracking.interval_steps,
        )

    def _callbacks(self, phase_idx: int, stateful: StatefulRegistry) -> CallbackList:
        section = self._configuration.config.phases[phase_idx]
        members: list[Callback] = [EventLog(self._session), SlotPace(self._slot)]
        if self._session.is_main:
            names = tracker_names(self._configuration.config.tracking)
            members.append(FeedNotices(self._session.layout.root, names, self._display))
        if section.profile is not None:
            members.append(PhaseProfiler(section.profile, self._session.attempt.profile_dir))
        for idx, name in enumerate(section.callbacks):
            path = f"phases[{phase_idx}].callbacks[{idx}]"
            member = load_attribute(name, path=path)()
            if hasattr(member, "state_dict"):
                stateful.register(f"callback {name}", member)
            members.append(member)
        return CallbackList(members)

    def _recorder(self) -> MetricRecorder:
        if self._world.is_main:
            return RecordWriter(self._session.attempt.metrics_file)
        return NullRecorder()

    def _store(
        self,
        phase_idx: int,
        plan: PhasePlan,
        data: PhaseData,
        point: ResumePoint | None,
        start: PhaseStart | None,
    ) -> CheckpointStore:
        session, section = self._session, self._configuration.config.phases[phase_idx]
        weights = None if start is None else start.parent
        parents = parents_of(section.name, point, weights) if self._world.is_main else ()
        return CheckpointStore(
            session.layout.phase(section.name).checkpoints_dir,
            self._world,
            Origin(
                session="" if session.identity is None else session.identity.id,
                attempt=session.attempt.number,
                config_fingerprint=self._configuration.fingerprint,
                parents=parents,
                data=data.contents,
            ),
            self._retention(phase_idx, plan),
            fence=session.require_lease,
            max_in_memory=section.checkpoint.max_in_memory,
        )

    def _retention(self, phase_idx: int, plan: PhasePlan) -> Retention:
        session, phases = self._session, self._configuration.config.phases
        section, root = phases[phase_idx].checkpoint, session.layout.root
        resumed_from = session.adopted.resumed_from
        # A phase that takes over the optimizer's state may have to begin once more.
        needed = {
            source_phase(self._configuration.config, idx)
            for idx in range(phase_idx, len(phases))
            if phases[idx].inherit.optimizer == "keep"
        }
        finished = [
            session.layout.phase(phase.name)
            for idx, phase in enumerate(phases[:phase_idx])
            if idx not in needed
        ]
        return Retention(
            keep_last=section.keep_last,
            keep_every_steps=plan.keep_every_steps,
            best=best_by(phases[phase_idx]),
            adopted=[root / name for name in session.adopted.checkpoints],
            resumed_from=None if resumed_from is None else root / resumed_from,
            finished=[(phase.checkpoints_dir, phase.final_dir) for phase in finished],
        )

    def _clock(self, phase_idx: int, plan: PhasePlan) -> ProgressClock:
        config = self._configuration.config
        later = 0.0
        for idx in range(phase_idx + 1, len(config.phases)):
            phase = config.phases[idx]
            if phase.duration.unit == "tokens":
                later += phase.duration.value
            elif phase.duration.unit == "steps":
                later += phase.duration.value * phase.tokens_per_step
        return ProgressClock(plan, later_tokens=int(later))

    def _utilization(self, phase_idx: int, engine: Engine) -> Utilization:
        config = self._configuration.config
        peak_tflops = config.tracking.peak_tflops
        length = config.phases[phase_idx].data.sequence_length
        return Utilization(
            # What an image or a row of features costs, no formula tells.
            flops_per_token=None if length is None else flops_per_token(engine.module, length),
            peak_flops=(
                peak_flops_of(self._world.device, engine.settings.precision)
                if peak_tflops is None
                else peak_tflops * 1e12
            ),
        )
