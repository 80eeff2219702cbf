"""The one entry point for callers: configuration, session, orchestrator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from phaseline.config.places import looking_in
from phaseline.distributed.environment import RankEnvironment
from phaseline.resilience.stop_flag import StopFlag, listening
from phaseline.session.attempts import Outcome
from phaseline.session.inputs import places_of
from phaseline.training.pipeline.configuration_builder import ConfigurationBuilder
from phaseline.training.pipeline.images import InPlace, ProcessImages
from phaseline.training.pipeline.orchestrator import PipelineOrchestrator
from phaseline.training.pipeline.session_manager import OpenSession, SessionManager


class TrainingPipeline:
    """Starts a session or resumes it; the same call does both.

    Every rank makes one and calls `run`. In a program of your own the phases run in place;
    the command line gives each a fresh process image.
    """

    def __init__(
        self,
        config: str | Path,
        *,
        overrides: Sequence[str] = (),
        session_dir: str | Path | None = None,
        take_over: bool = False,
        accept_changes: Sequence[str] = (),
        images: ProcessImages | None = None,
        stop_flag: StopFlag | None = None,
    ) -> None:
        """Takes what the caller said; nothing is read yet.

        Args:
            config: The session file.
            overrides: As `phases[0].optimizer.lr=1e-3`.
            session_dir: Instead of `<session.root>/<session.name>`.
            take_over: Whether the lease is taken from another holder.
            accept_changes: Settings of a resumed session whose changes are accepted, though they
                change its numbers: paths as the refusal writes them, or sections.
            images: What happens to the process between phases; in place if not given.
            stop_flag: Set when this process is asked to stop. If none is given, one listens to
                SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2 from `run` on.
        """
        self._builder = ConfigurationBuilder(
            Path(config),
            overrides=overrides,
            session_dir=None if session_dir is None else Path(session_dir),
        )
        self._take_over = take_over
        self._accept_changes = tuple(accept_changes)
        self._images = images or InPlace()
        self._stop_flag = stop_flag
        self.session: OpenSession | None = None
        """The session once it is open, for those who report a failure."""

    def run(self) -> Outcome:
        """Trains what is left to train. **Ranks:** all.

        Returns:
            How the attempt ended: finished, or stopped on request with everything saved.

        Raises:
            ConfigurationError: The configuration has faults; it carries all of them.
            SessionBusyError: Another process works on the session.
            SessionChangedError: The session was started with settings that differ, and would
                train other numbers with them.
            PhaselineError: Training could not go on; the message says why.
        """
        environment = RankEnvironment.read()
        ranks = environment.world_size
        if environment.session_dir is None:
            in_place = not self._images.fresh
            configuration = self._builder.build(dp_world_size=ranks, in_place=in_place)
        else:
            stored = Path(environment.session_dir)
            configuration = ConfigurationBuilder.stored(stored, dp_world_size=ranks)
        manager = SessionManager(
            configuration,
            environment,
            take_over=self._take_over,
            accept_changes=self._accept_changes,
        )
        self.session = manager.open()
        self._images.attempt_opened(self.session.attempt, environment.rank)
        places = places_of(self.session.layout, self.session.moved)
        with looking_in(places), listening(self._stop_flag) as stop_flag:
            orchestrator = PipelineOrchestrator(
                manager.configuration, self.session, images=self._images, stop_flag=stop_flag
            )
            return orchestrator.run()
