"""The sole orchestrator: it alone knows the order of steps and of phases."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from phaseline.cluster.causes import cause_of_stop
from phaseline.cluster.slot import EndlessSlot, Slot, open_slot
from phaseline.cluster.slurm import JobPlace
from phaseline.config.environment import WANDB_MODE
from phaseline.config.inheritance import describe_start
from phaseline.config.model_head import model_head
from phaseline.distributed.determinism import (
    deterministic_kernels,
    prepare_environment,
    promises,
    resolve,
    visible_device_type,
)
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.world import World
from phaseline.errors import CheckpointError, ExitCode
from phaseline.models.build import require_buildable
from phaseline.resilience.stack_watch import watching_for_stacks
from phaseline.resilience.stop_flag import StopFlag
from phaseline.resilience.stop_notice import StopNotice
from phaseline.session import linux
from phaseline.session.attempts import Outcome
from phaseline.session.records import count_lines
from phaseline.session.stop_request import StopRequestWatch
from phaseline.tracking.console import Display
from phaseline.tracking.display_building import build_display
from phaseline.tracking.feed_problem import take_problem
from phaseline.tracking.follower import finish_feeding, start_follower
from phaseline.tracking.tracker import describe_wandb, tracker_names
from phaseline.training.phases.phase_manager import PhaseEnding, TrainingPhaseManager
from phaseline.training.phases.runtime import PhaseRuntime
from phaseline.training.pipeline.configuration_builder import TrainingConfiguration
from phaseline.training.pipeline.feed_notices import FeedNotices
from phaseline.training.pipeline.finalization import Finalization, summarize
from phaseline.training.pipeline.images import ProcessImages
from phaseline.training.pipeline.keeping import differences, keep_session_inputs
from phaseline.training.pipeline.model_building import ModelBuilding
from phaseline.training.pipeline.preparation import prepare_data
from phaseline.training.pipeline.resume_point import ResumePoint, newest_verified
from phaseline.training.pipeline.session_manager import OpenSession
from phaseline.training.pipeline.trial_record import TrialPlace, TrialRecord
from phaseline.training.pipeline.validation import PhaseValidation

_LONGEST_FAREWELL_S = 30.0
"""How long the end waits for each tracker to have written what it was given."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The next piece of work, as the main rank decided it.

    Attributes:
        kind: validate, train or finalize.
        phase_idx: Which phase; without meaning for finalize.
        point: What a phase that trains goes on from.
        tries_checkpoint: Whether a trial has one of a kind of engine that was not tried yet.
    """

    kind: str
    phase_idx: int = 0
    point: ResumePoint | None = None
    tries_checkpoint: bool = False


class PipelineOrchestrator:
    """Runs preparation, model building, validation, the training phases and finalization.

    What comes next is read from the session's directory each time, by the main rank, which
    tells the others. So a fresh image, a restart after a crash and an in-place run are one
    and the same thing.
    """

    def __init__(
        self,
        configuration: TrainingConfiguration,
        session: OpenSession,
        *,
        images: ProcessImages,
        stop_flag: StopFlag,
    ) -> None:
        """Takes the open session.

        Args:
            configuration: The run's configuration.
            session: The open session.
            images: What happens to the process between pieces of work.
            stop_flag: Set when this process is asked to stop.
        """
        self._configuration = configuration
        self._session = session
        self._images = images
        self._stop_flag = stop_flag
        self._environment: RankEnvironment = session.environment
        self._display = self._build_display()
        self._num_tasks = 0
        self._world: World | None = None
        self._asked_by = ""
        self._slot: Slot = EndlessSlot()
        if session.is_main:
            cluster = configuration.config.cluster
            self._slot = open_slot(session.layout, lead_s=cluster.signal_lead_s)

    def run(self) -> Outcome:
        """Does what is left to do, on every rank, and returns how the attempt ended.

        With fresh images this process goes from task to task by replacing itself, and only
        the last image returns.
        """
        requests = StopRequestWatch(self._session.attempt)

        def look() -> str:
            # One rank looks; the others learn of it as they do of a signal.
            if not self._session.is_main:
                return ""
            lease = self._session.lease
            if lease is not None and lease.lost.is_set():
                return "the session is lost"
            return requests.look() or self._slot.look()

        try:
            with (
                self._stop_flag.watching(look),
                watching_for_stacks(self._session.attempt, self._environment.rank),
            ):
                return self._run()
        except BaseException:
            # A fresh image ends with its failure; the caller's process may try again.
            if not self._images.fresh:
                self._abandon()
            raise

    def _run(self) -> Outcome:
        config = self._configuration.config
        self._start_followers()
        for note in self._session.notes:
            self._display.note(note)
        # A later image finds everything in the cache and need not say it again.
        report = self._display.note if self._environment.image == 0 else _say_nothing
        rendezvous = self._session.rendezvous
        for idx in range(len(config.phases)):
            report(f"{describe_start(config, idx)}.")
        report(self._describe_wandb())
        first = config.phases[0]
        if self._environment.image == 0 and not self._session.layout.phase(first.name).dir.is_dir():
            # On every rank: any of them may be the one that prepares.
            require_buildable(config.model, model_head(config, first.objective))
        notice = StopNotice(self._stop_flag, rendezvous)
        fetches = self._environment.local_rank == 0
        # As `phases/NAME/run-1/...`.
        begun = {Path(name).parts[1] for name in self._session.adopted.checkpoints}
        facts = prepare_data(config, rendezvous, report, notice, fetches=fetches, begun=begun)
        if facts and self._environment.image == 0:
            self._session.event("data_prepared", sources=facts)
            if self._session.is_main:
                self._keep_inputs()
        self._prepare_determinism(report)
        world = self._world = World(
            self._environment,
            rendezvous,
            collective_timeout_s=config.resilience.collective_timeout_s,
        )
        if self._is_stop_agreed(world):
            return self._stop(world)
        task = self._next_task(world)
        while task.kind != "finalize":
            self._work(task, world)
            if self._is_stop_agreed(world):
                return self._stop(world)
            done, task = task, self._next_task(world)
            if task.kind != "finalize":
                self._move_on(world, done, task)
        return self._finalize(world)

    # -- The steps

    def _start_followers(self) -> None:
        root, is_first = self._session.layout.root, self._environment.image == 0
        for name in self._trackers():
            if is_first:
                take_problem(root, name)  # of another start
            problem = start_follower(root, name=name)
            if problem and is_first:
                self._display.note(problem)

    def _keep_inputs(self) -> None:
        config = self._configuration.config
        has_begun = self._session.adopted.resumed_from is not None
        session = self._session
        keep_session_inputs(session.layout, config, session.moved, has_begun=has_begun)
        for note in differences(config) if has_begun else ():
            self._display.note(note)

    def _prepare_determinism(self, report: Callable[[str], None]) -> None:
        """Before the world: CUDA's libraries read their environment when they start."""
        device_type = visible_device_type()
        phases = {
            phase.name: resolve(phase.engine.deterministic, device_type)
            for phase in self._configuration.config.phases
        }
        prepare_environment(phases, device_type)
        for line in promises(phases, device_type):
            report(line)

    def _work(self, task: Task, world: World) -> None:
        """Validates or trains one phase, under its own switches."""
        setting = self._configuration.config.phases[task.phase_idx].engine.deterministic
        path = f"phases[{task.phase_idx}].engine.deterministic"
        with deterministic_kernels(setting, world.device.type, path=path):
            runtime = self._build(task, world)
            try:
                if task.kind == "validate":
                    self._validate(task, runtime)
                else:
                    self._train(task, runtime)
            except BaseException:
                runtime.loader.close()
                # A fresh image ends at once, with its threads.
                if not self._images.fresh:
                    runtime.store.abandon()
                raise
            self._release(runtime)

    def _build(self, task: Task, world: World) -> PhaseRuntime:
        building = ModelBuilding(
            self._configuration,
            self._session,
            world,
            display=self._display,
            stop_flag=self._stop_flag,
            slot=self._slot,
        )
        place = self._session.place
        place.phase = self._configuration.config.phases[task.phase_idx].name
        is_trial = task.kind == "validate"
        runtime = building.build(task.phase_idx, task.point, is_trial=is_trial)
        place.position = runtime.position
        return runtime

    def _validate(self, task: Task, runtime: PhaseRuntime) -> None:
        name = runtime.section.name
        checkpoint = "a checkpoint and back, " if task.tries_checkpoint else ""
        self._display.note(f"validating {name}: its worst batch, {checkpoint}the disk")
        trial = PhaseValidation(
            runtime, self._session.attempt, tries_checkpoint=task.tries_checkpoint
        )
        if not trial.run():
            return
        identity = self._session.identity
        if identity is not None:
            records = self._trials(runtime.world).with_trial(task.phase_idx)
            self._session.save(replace(identity, validated=records))
        self._session.event("phase_validated", phase=name)

    def _train(self, task: Task, runtime: PhaseRuntime) -> PhaseEnding:
        point = task.point
        if point is not None and point.manifest.phase == runtime.section.name:
            self._display.note(
                f"resuming {runtime.section.name} at step {runtime.position.phase_step} "
                f"of {runtime.plan.num_steps}"
            )
        return TrainingPhaseManager(runtime=runtime).run()

    def _finalize(self, world: World) -> Outcome:
        outcome = Outcome(code=ExitCode.FINISHED, reason="every phase is trained", time=time.time())
        if self._session.is_main:
            Finalization(self._configuration, self._session, self._display).run()
            for line in summarize(self._session):
                self._display.note(line)
            self._display.note(f"finished; everything lies in {self._session.layout.root}")
        return self._end(world, outcome)

    def _stop(self, world: World) -> Outcome:
        self._session.require_lease()
        outcome = Outcome(
            code=ExitCode.STOPPED,
            reason=f"stopped on request ({self._explain_stop()})",
            time=time.time(),
        )
        if self._session.is_main:
            self._display.phase_ended()
            self._display.note(
                "stopped on request, everything is saved; the same command goes on from here"
            )
        return self._end(world, outcome)

    def _explain_stop(self) -> str:
        """What asked, and on the main rank also why, if a signal of SLURM's did."""
        number = self._stop_flag.number
        if number is None or not self._session.is_main:
            return self._asked_by
        lead_s = self._configuration.config.cluster.signal_lead_s
        return cause_of_stop(number, JobPlace.read(), lead_s=lead_s)

    def _end(self, world: World, outcome: Outcome) -> Outcome:
        self._display.close()
        if self._session.is_main:
            for name in self._trackers():
                # One that somebody killed meanwhile: what it had not sent is sent now.
                start_follower(self._session.layout.root, name=name)
            self._session.end(outcome.code, outcome.reason)
            for name in self._trackers():
                attempt = self._session.attempt.number
                finish_feeding(
                    self._session.layout.root, _LONGEST_FAREWELL_S, name, attempt=attempt
                )
            FeedNotices(self._session.layout.root, self._trackers(), self._display).look()
        world.close()
        return outcome

    # -- What comes next

    def _next_task(self, world: World) -> Task:
        """The main rank reads the session's directory; all ranks get the same answer."""
        key = f"task/{self._num_tasks}"
        self._num_tasks += 1
        if world.is_main:
            task = self._decide(world)
            folder = None if task.point is None else str(task.point.folder)
            world.rendezvous.publish(key, {**vars(task), "point": folder})
            return task
        told: dict[str, Any] = world.rendezvous.wait_for(key)
        folder = told.pop("point")
        return Task(point=None if folder is None else ResumePoint.at(Path(folder)), **told)

    def _decide(self, world: World) -> Task:
        phases = self._configuration.config.phases
        names = [phase.name for phase in phases]
        assert self._session.identity is not None
        point, rejected = newest_verified(
            self._session.trusted_checkpoints(), names, self._session.identity.id
        )
        for one in rejected:
            self._session.event("checkpoint_rejected", problem=one.problem)
            self._display.note(f"left out: {one.problem}")
        self._require_own_lines(point)
        next_idx = 0
        if point is not None:
            next_idx = names.index(point.manifest.phase) + int(point.manifest.final)
        trials = self._trials(world)
        for idx in range(next_idx, len(phases)):
            if not trials.is_tried(idx):
                is_new = not trials.is_checkpoint_tried(idx)
                return Task(kind="validate", phase_idx=idx, tries_checkpoint=is_new)
        if next_idx == len(phases):
            return Task(kind="finalize")
        return Task(kind="train", phase_idx=next_idx, point=point)

    def _require_own_lines(self, point: ResumePoint | None) -> None:
        """Refuses to fall back within an attempt: the steps between would be recorded twice.

        A new attempt, which the same command begins, takes the older checkpoint cleanly.
        """
        attempt = self._session.attempt
        committed = () if point is None else point.manifest.committed
        covered = sum(part.lines for part in committed if part.attempt == attempt.number)
        if count_lines(attempt.metrics_file) > covered:
            raise CheckpointError(
                f"The last checkpoint of attempt {attempt.number} cannot be read any more, so it "
                "ends here. Run the same command to go on from the one before."
            )

    def _trials(self, world: World) -> TrialRecord:
        identity = self._session.identity
        records = [] if identity is None else identity.validated
        return TrialRecord(self._configuration.config, TrialPlace.of(world), records)

    def _is_stop_agreed(self, world: World) -> bool:
        """Asks all ranks, and keeps for the record which of them was asked by whom."""
        flag = self._stop_flag
        reasons = world.gather_objects(flag.reason if flag.is_set else "")
        asked = [(rank, reason) for rank, reason in enumerate(reasons) if reason]
        if asked:
            rank, reason = asked[0]
            self._asked_by = reason if rank == 0 else f"{reason} on rank {rank}"
        return bool(asked)

    # -- The process

    def _move_on(self, world: World, done: Task, task: Task) -> None:
        """Ends what cannot outlive this image and asks for the next, or clears this one up."""
        if self._images.fresh and self._needs_fresh_image(world, done, task):
            self._display.close()
            self._session.close()
            self._images.next_image(world, attempt=self._session.attempt, stop_flag=self._stop_flag)
        # Engines refer to themselves in circles, so they go when circles are looked for.
        gc.collect()
        linux.return_free_memory()
        if world.device.type == "cuda":
            torch.cuda.empty_cache()

    def _needs_fresh_image(self, world: World, done: Task, task: Task) -> bool:
        """Whether what one task leaves in the process would weigh on the next.

        A phase that was trained leaves too much. Trials leave nothing, but for those of
        ZeRO-3, which leak; on a GPU the communicators of their engines stay, which a trial
        can bear and a phase should not.
        """
        engine = self._configuration.config.phases[done.phase_idx].engine
        leaks = engine.kind == "deepspeed" and engine.zero_stage == 3
        is_trial_next = task.kind == "validate"
        return done.kind == "train" or leaks or not (is_trial_next or world.device.type == "cpu")

    def _release(self, runtime: PhaseRuntime) -> None:
        runtime.recorder.close()
        runtime.loader.close()
        runtime.engine.close()

    def _abandon(self) -> None:
        """Gives back what a failure would leave in this process. No collective."""
        self._display.close()
        self._session.close()
        self._session.abandon()
        if self._world is not None:
            self._world.abandon()

    def _build_display(self) -> Display:
        tracking = self._configuration.config.tracking
        kind = tracking.console if self._environment.is_main else "off"
        return build_display(kind, self._images.terminal, tracking.plain_interval_s)

    def _describe_wandb(self) -> str:
        config, root = self._configuration.config, self._session.layout.root
        where = self._configuration.locate(("tracking", "wandb", "mode"))
        return describe_wandb(config.tracking, root, where if where.startswith(WANDB_MODE) else "")

    def _trackers(self) -> tuple[str, ...]:
        """What the main rank has fed beside training."""
        is_main = self._environment.is_main
        return tracker_names(self._configuration.config.tracking) if is_main else ()


def _say_nothing(_text: str) -> None:
    """Takes the place of a report that nobody needs."""
