"""Phaseline's own loop, built as `phaseline run` builds it, with everything switched on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loops import CLIP_NORM, LOGGING_STEPS, LR, Loop
from pausing import Turnstile

from phaseline.cluster.slot import EndlessSlot
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.world import World
from phaseline.errors import ExitCode
from phaseline.resilience.stack_watch import watching_for_stacks
from phaseline.resilience.stop_flag import StopFlag, listening
from phaseline.resilience.stop_notice import StopNotice
from phaseline.tracking.console import NullDisplay
from phaseline.tracking.display_building import build_display
from phaseline.tracking.recorder import NullRecorder
from phaseline.training.phases.callbacks import Callback, CallbackList
from phaseline.training.phases.phase_manager import TrainingPhaseManager
from phaseline.training.phases.runtime import PhaseRuntime
from phaseline.training.phases.step_metrics import StepMetrics
from phaseline.training.pipeline.configuration_builder import ConfigurationBuilder
from phaseline.training.pipeline.model_building import ModelBuilding
from phaseline.training.pipeline.preparation import prepare_data
from phaseline.training.pipeline.session_manager import SessionManager

PLAIN_ENGINE = "{kind: plain}"

_CONFIG = """
session: {{name: loop_overhead}}
model: {{factory: "one_parameter:build"}}
phases:
  - name: measured
    objective: causal_lm
    duration: 10000000 steps
    data:
      source: text_files
      arguments: {{paths: ["{folder}/*.txt"]}}
      sequence_length: {sequence_length}
      held_out_frac: 0.2
    batch: {{global_size: {micro_size}, micro_size: {micro_size}}}
    optimizer: {{lr: {lr}, clip_norm: {clip_norm}}}
    schedule: {{name: cosine, warmup: 100 steps}}
    engine: {engine}
    evaluate: {{every: 10000000 steps}}
    checkpoint: {{every: 10000000 steps}}
tracking:
  interval_steps: {interval_steps}
  console: plain
  plain_interval_s: 0.5
  peak_tflops: 1
  wandb: {{mode: disabled}}
"""


class SilentMetrics(StepMetrics):
    """Keeps nothing, so that nothing is ever read, recorded or shown."""

    def add(self, *_arguments: Any, **_more: Any) -> None:
        pass


@contextmanager
def runtimes_on_and_off(
    folder: Path, *, sequence_length: int, micro_size: int
) -> Iterator[tuple[PhaseRuntime, PhaseRuntime]]:
    """The same phase twice: with all that tracks it, and with null objects instead."""
    shape = {"sequence_length": sequence_length, "micro_size": micro_size}
    with _phase_building(folder, **shape, engine=PLAIN_ENGINE) as building:
        on, off = building.build(0, None), building.build(0, None)
        off.recorder.close()
        off.recorder = NullRecorder()
        off.display = NullDisplay()
        off.callbacks = CallbackList([])
        off.step_metrics = SilentMetrics(off.world)
        yield on, off
        on.recorder.close()
        for runtime in (on, off):
            runtime.engine.close()


@contextmanager
def phaseline_runtime(
    folder: Path, *, sequence_length: int, micro_size: int, engine: str = PLAIN_ENGINE
) -> Iterator[PhaseRuntime]:
    """A phase's runtime in a real session: lease, stop signals, records in a file, event log.

    Everything is on. Only the display's stream is a null device. Validation and checkpoints are configured,
    but their first turn never comes.

    Args:
        folder: Empty; takes the corpus, the session and the cache.
        sequence_length: Tokens per row.
        micro_size: Rows per step.
        engine: The phase's `engine` section.
    """
    with _phase_building(
        folder, sequence_length=sequence_length, micro_size=micro_size, engine=engine
    ) as building:
        runtime = building.build(0, None)
        yield runtime
        runtime.recorder.close()
        runtime.engine.close()


@contextmanager
def _phase_building(
    folder: Path, *, sequence_length: int, micro_size: int, engine: str
) -> Iterator[ModelBuilding]:
    os.environ["PHASELINE_CACHE"] = str(folder / "cache")
    for idx in range(100):
        (folder / f"{idx}.txt").write_text(f"{idx} is followed by {idx + 1}. " * 100)
    config_file = folder / "session.yaml"
    config_file.write_text(
        _CONFIG.format(
            folder=folder,
            sequence_length=sequence_length,
            micro_size=micro_size,
            lr=LR,
            clip_norm=CLIP_NORM,
            interval_steps=LOGGING_STEPS,
            engine=engine,
        )
    )
    environment = RankEnvironment.read({})
    builder = ConfigurationBuilder(config_file, session_dir=folder / "session")
    configuration = builder.build(dp_world_size=1)
    session = SessionManager(configuration, environment).open()
    notice = StopNotice(StopFlag(), session.rendezvous)
    prepare_data(configuration.config, session.rendezvous, lambda _text: None, notice, fetches=True)
    world = World(environment, session.rendezvous, collective_timeout_s=60)
    tracking = configuration.config.tracking
    with (
        Path(os.devnull).open("w") as stream,
        listening(None) as stop_flag,
        watching_for_stacks(session.attempt, rank=0),
    ):
        display = build_display(tracking.console, stream, tracking.plain_interval_s)
        yield ModelBuilding(
            configuration,
            session,
            world,
            display=display,
            stop_flag=stop_flag,
            slot=EndlessSlot(),
        )
        display.close()
    session.end(ExitCode.STOPPED, "the benchmark is over")
    world.close()


def phaseline_loop(runtime: PhaseRuntime) -> Loop:
    """The whole of `TrainingPhaseManager.run`, held at the edge of a step by a callback."""

    def loop(turnstile: Turnstile) -> None:
        runtime.callbacks = CallbackList([runtime.callbacks, _Pause(turnstile)])
        TrainingPhaseManager(runtime=runtime).run()

    return loop


class _Pause(Callback):
    def __init__(self, turnstile: Turnstile) -> None:
        self._turnstile = turnstile

    def step_ended(self, runtime: PhaseRuntime) -> None:  # noqa: ARG002 - the hook's shape
        self._turnstile.step_ended()
