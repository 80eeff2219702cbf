"""Creating and resuming sessions: one attempt at a time, and what it stands on."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from phaseline import __version__
from phaseline.checkpoint.manifest import Manifest
from phaseline.checkpoint.trust import list_inherited, list_trusted
from phaseline.config.resolved import to_yaml
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.errors import (
    ExitCode,
    PhaselineError,
    SessionBusyError,
    SessionError,
    UsageError,
    WorldError,
    is_passing,
)
from phaseline.session.attempts import (
    Adopted,
    Outcome,
    read_adopted,
    take_attempt,
    write_adopted,
    write_outcome,
)
from phaseline.session.committed import CommittedLines, find_lost_lines
from phaseline.session.confinement import require_confined
from phaseline.session.copies import place_of_session, require_no_copy
from phaseline.session.files import write_json, write_text
from phaseline.session.identity import SessionIdentity, load_identity, save_identity
from phaseline.session.inputs import read_moved, write_moved
from phaseline.session.layout import AttemptLayout, SessionLayout
from phaseline.session.lease import Lease
from phaseline.session.records import RecordWriter
from phaseline.session.sweep import SweepTrial
from phaseline.training.phases.position import PhasePosition
from phaseline.training.pipeline.changed_settings import ChangedSettings, require_acceptable
from phaseline.training.pipeline.configuration_builder import TrainingConfiguration
from phaseline.training.pipeline.environment_record import (
    changed_since,
    describe_environment,
    read_started_with,
)
from phaseline.training.pipeline.lost_records import require_records
from phaseline.training.pipeline.repeated_steps import find_repeated_steps
from phaseline.training.pipeline.resume_point import (
    SetAside,
    find_headless,
    newest_verified,
    set_aside,
)

OPENED_KEY = "session/opened"


@dataclass(slots=True)
class Place:
    """Where this rank is, for the record of an error.

    Attributes:
        phase: Name of the phase, once one is at hand.
        position: The phase's counters, once it is built.
    """

    phase: str | None = None
    position: PhasePosition | None = None

    @property
    def step(self) -> int | None:
        """Completed steps of the phase."""
        return None if self.position is None else self.position.phase_step


@dataclass(kw_only=True)
class OpenSession:
    """A session that this attempt may write to.

    Attributes:
        layout: Its directory.
        attempt: This attempt's folder.
        environment: This process's coordinates.
        rendezvous: The store that the ranks meet at.
        adopted: What this attempt took over when it began.
        identity: Who the session is; None on every rank but the main one.
        lease: Held by the main rank.
        events: What happened, on the main rank.
        place: Where this rank is.
        notes: What a person is told of how it was opened, on the main rank.
        moved: Paths of the configuration that lie elsewhere now, with the same contents.
    """

    layout: SessionLayout
    attempt: AttemptLayout
    environment: RankEnvironment
    rendezvous: Rendezvous
    adopted: Adopted
    identity: SessionIdentity | None = None
    lease: Lease | None = None
    events: RecordWriter | None = None
    place: Place = field(default_factory=Place)
    notes: tuple[str, ...] = ()
    moved: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes what there is one of."""
        return self.environment.is_main

    def require_lease(self) -> None:
        """Raises if the session is not this attempt's any more, so that nothing is written into it.

        Raises:
            SessionBusyError: Another process took it over.
            SessionError: Its directory was moved or replaced.
        """
        if self.lease is None or not self.lease.is_lost():
            return
        if self.lease.is_moved:
            raise SessionError(
                f"The session's directory is not at {self.layout.root} any more: it was moved or "
                f"replaced while attempt {self.attempt.number} ran, so the attempt ends here and "
                "writes nothing more. Go on with the directory where it lies now (--session DIR)."
            )
        raise SessionBusyError(
            f"Another process took over the session at {self.layout.root}, so attempt "
            f"{self.attempt.number} ends here and writes nothing more."
        )

    def save(self, identity: SessionIdentity) -> None:
        """Main rank: changes the session's identity."""
        self.require_lease()
        self.identity = identity
        save_identity(self.layout, identity)

    def event(self, name: str, **facts: Any) -> None:
        """Main rank: records that something happened; other ranks do nothing."""
        if self.events is not None:
            self.events.append([{"time": time.time(), "event": name, **facts}])

    def end(self, code: ExitCode, reason: str) -> None:
        """Main rank: writes how the attempt ended and gives the lease back."""
        if not self.is_main:
            return
        self.event("attempt_ended", code=int(code), reason=reason)
        write_outcome(self.attempt, Outcome(code=code, reason=reason, time=time.time()))
        self.close()
        if self.lease is not None:
            self.lease.release()

    def abandon(self) -> None:
        """After a failure: gives the lease back, so that the next start need not wait for it."""
        if self.lease is not None:
            self.lease.stop()
            self.lease.release()

    def close(self) -> None:
        """Ends what has a thread or an open file, and keeps the lease for the next image."""
        if self.events is not None:
            self.events.close()
        if self.lease is not None:
            self.lease.stop()

    def trusted_checkpoints(self) -> list[Path]:
        """Published checkpoints that this attempt adopted or wrote, in no order."""
        return list_trusted(self.layout, self.attempt.number, self.adopted)


@dataclass(frozen=True)
class _Begun:
    """An attempt, and what was found when it began.

    Attributes:
        attempt: Its folder.
        adopted: What it stands on.
        moved: Paths that lie elsewhere now.
        put_aside: Checkpoints that it does not trust.
        found: What else a person must know, by the name of its event.
    """

    attempt: AttemptLayout
    adopted: Adopted
    moved: Mapping[str, str]
    put_aside: Sequence[SetAside] = ()
    found: Sequence[tuple[str, str]] = ()

    def notes(self) -> Iterator[str]:
        """One line each, for a person."""
        yield from map(str, self.put_aside)
        yield from (problem for _, problem in self.found)


class SessionManager:
    """Opens the session on every rank; the main rank decides and tells the others."""

    def __init__(
        self,
        configuration: TrainingConfiguration,
        environment: RankEnvironment,
        *,
        take_over: bool = False,
        accept_changes: Sequence[str] = (),
    ) -> None:
        """Takes what the session is about.

        Args:
            configuration: What is asked for now.
            environment: This process's coordinates.
            take_over: Whether another holder's lease is taken from it.
            accept_changes: Settings whose changes are accepted, though they change numbers.
        """
        self._configuration = configuration
        self._environment = environment
        self._take_over = take_over
        self._accept_changes = tuple(accept_changes)
        self._originals: list[Any] = []
        self._layout = SessionLayout(configuration.session_dir)

    @property
    def configuration(self) -> TrainingConfiguration:
        """What the open session trains: what is asked for, paths by what the session calls them."""
        return self._configuration

    def open(self) -> OpenSession:
        """Creates the session or resumes it. **Ranks:** all. No collective.

        Raises:
            SessionBusyError: Another process holds the lease.
            SessionChangedError: The configuration differs in what would change the numbers.
            UsageError: Something is accepted that is not refused.
            PhaselineError: The same as on the main rank, on every rank.
        """
        timeout_s = self._configuration.config.resilience.start_timeout_s
        rendezvous = Rendezvous(self._environment, timeout_s=timeout_s)
        if not self._environment.is_main:
            return self._follow(rendezvous)
        try:
            session = self._lead(rendezvous)
        except Exception as error:
            code = error.exit_code if isinstance(error, PhaselineError) else ExitCode.FAILED
            rendezvous.publish(OPENED_KEY, {"error": str(error), "code": int(code)})
            raise
        rendezvous.publish(
            OPENED_KEY,
            {
                "error": None,
                "attempt": session.attempt.number,
                "fingerprint": self._configuration.fingerprint,
                "originals": self._originals,
                "moved": dict(session.moved),
                "adopted": asdict(session.adopted),
            },
        )
        return session

    def _follow(self, rendezvous: Rendezvous) -> OpenSession:
        """Other ranks: take over what the main rank decided."""
        # No deadline: the main rank may have a large checkpoint to read.
        told = rendezvous.wait_for(OPENED_KEY)
        if told["error"] is not None:
            error = PhaselineError(told["error"])
            error.exit_code = ExitCode(told["code"])
            raise error
        self._configuration = self._configuration.with_values(told["originals"])
        if told["fingerprint"] != self._configuration.fingerprint:
            raise WorldError(
                f"Rank {self._environment.rank} has another configuration than rank 0. Start all "
                "ranks with the same file and the same overrides."
            )
        adopted = told["adopted"]
        return OpenSession(
            layout=self._layout,
            attempt=self._layout.attempt(told["attempt"]),
            environment=self._environment,
            rendezvous=rendezvous,
            moved=told["moved"],
            adopted=Adopted(
                checkpoints=tuple(adopted["checkpoints"]),
                resumed_from=adopted["resumed_from"],
                committed=tuple(CommittedLines(**part) for part in adopted["committed"]),
            ),
        )

    def _lead(self, rendezvous: Rendezvous) -> OpenSession:
        """Main rank: takes the lease, the attempt's number and what it will stand on."""
        layout, environment = self._layout, self._environment
        lease = self._take_lease()
        try:
            changes = self._require_acceptable()
            self._originals = [[[*loc], text] for loc, text in changes.moved.originals.items()]
            self._configuration = self._configuration.with_values(self._originals)
            if environment.attempt is not None:
                begun = self._take_up(layout.attempt(environment.attempt))
            else:
                require_records(layout)
                begun = self._begin(changes)
                changes = self._with_ranks(changes, begun.adopted)
            events = RecordWriter(begun.attempt.events_file)
        except BaseException:
            lease.release()
            raise
        session = OpenSession(
            layout=layout,
            attempt=begun.attempt,
            environment=environment,
            rendezvous=rendezvous,
            adopted=begun.adopted,
            lease=lease,
            events=events,
            notes=(*begun.notes(), *changes.notes()),
            moved=begun.moved,
        )
        self._record_start(session, begun, changes)
        session.identity = self._identify()
        return session

    def _take_up(self, attempt: AttemptLayout) -> _Begun:
        """A later image: what the first one wrote down."""
        adopted = read_adopted(attempt)
        assert adopted is not None
        return _Begun(attempt, adopted, read_moved(attempt))

    def _begin(self, changes: ChangedSettings) -> _Begun:
        """The first image: takes the attempt's number, and writes down what it stands on."""
        layout = self._layout
        attempt = take_attempt(layout)
        adopted, put_aside = self._adopt(attempt)
        found = [("metrics_damaged", one) for one in find_lost_lines(layout, adopted.committed)]
        found += [("environment_changed", one) for one in self._describe(attempt)]
        repeated = find_repeated_steps(layout, attempt.number, adopted)
        if repeated is not None:
            found.append(("steps_repeated", str(repeated)))
        write_moved(attempt, changes.moved.places)
        return _Begun(attempt, adopted, changes.moved.places, put_aside, found)

    def _describe(self, attempt: AttemptLayout) -> list[str]:
        """Records what the attempt runs with; returns what of it is not as at the last start."""
        config = self._configuration.config
        facts = describe_environment(self._environment, config)
        before = read_started_with(self._layout, attempt.number)
        write_text(attempt.config_file, to_yaml(config))
        write_json(attempt.environment_file, facts)
        return [] if before is None else list(changed_since(before, facts))

    def _take_lease(self) -> Lease:
        root = self._layout.root
        try:
            if self._environment.attempt is None:
                require_confined(self._layout)
            root.mkdir(parents=True, exist_ok=True)
            if self._environment.attempt is None:
                require_no_copy(self._layout)
            return Lease.acquire(self._layout, take_over=self._take_over)
        except OSError as error:
            if is_passing(error):
                raise SessionError(
                    f"The session directory {root} cannot be written now: "
                    f"{error.strerror or error}. The same command goes on once it can."
                ) from error
            raise UsageError(
                f"The session directory {root} cannot be written: {error.strerror or error}. Make "
                "it writable, or put the session elsewhere (--session DIR or session.root)."
            ) from error

    def _record_start(self, session: OpenSession, begun: _Begun, changes: ChangedSettings) -> None:
        session.event(
            "image_started",
            image=self._environment.image,
            world_size=self._environment.world_size,
            resumed_from=session.adopted.resumed_from,
        )
        for one in begun.put_aside:
            session.event("checkpoint_rejected", **asdict(one))
        for name, problem in begun.found:
            session.event(name, problem=problem)
        # Recorded before they are stored: after a kill in between they are found again.
        for name, facts in changes.events():
            session.event(name, changes=facts)

    def _require_acceptable(self) -> ChangedSettings:
        """What this start changes; later images of an attempt go by what the first one stored."""
        if self._environment.attempt is not None:
            return ChangedSettings()
        return require_acceptable(self._layout, self._configuration, self._accept_changes)

    def _with_ranks(self, changes: ChangedSettings, adopted: Adopted) -> ChangedSettings:
        if adopted.resumed_from is None:
            return changes
        manifest = Manifest.load(self._layout.root / adopted.resumed_from)
        return changes.with_world_size(manifest.world_size, self._environment.world_size)

    def _identify(self) -> SessionIdentity:
        """Creates the session's identity, or stores what it goes on with."""
        layout, configuration = self._layout, self._configuration
        identity = load_identity(layout)
        text = to_yaml(configuration.config)
        if identity is None:
            trial = SweepTrial.of()
            identity = SessionIdentity(
                id=uuid.uuid4().hex,
                name=configuration.config.session.name,
                created=time.time(),
                config_fingerprint=configuration.fingerprint,
                wandb_id=uuid.uuid4().hex[:12] if trial is None else trial.run_id,
                phaseline_version=__version__,
                state="open",
                validated=[],
                place=place_of_session(layout),
            )
            write_text(layout.config_file, text)
            save_identity(layout, identity)
            return identity
        if identity.place != place_of_session(layout):
            identity = replace(identity, place=place_of_session(layout))
            save_identity(layout, identity)
        if layout.config_file.read_text(encoding="utf-8") != text:
            # A phase or an export that was added opens a finished session again. First: a kill
            # after the configuration was written must not leave it finished.
            identity = replace(
                identity,
                name=configuration.config.session.name,
                config_fingerprint=configuration.fingerprint,
                state="open",
            )
            save_identity(layout, identity)
            write_text(layout.config_file, text)
        return identity

    def _adopt(self, attempt: AttemptLayout) -> tuple[Adopted, list[SetAside]]:
        """Fixes which checkpoints this attempt trusts, and finds the one to go on from.

        Those that do not verify are put aside, now that this process alone may do so.
        """
        identity = load_identity(self._layout)
        session_id = "" if identity is None else identity.id
        folders = list_inherited(self._layout, attempt.number)
        names = [phase.name for phase in self._configuration.config.phases]
        headless = find_headless(self._layout)
        whole = [path for path in folders if path not in {one.folder for one in headless}]
        point, rejected = newest_verified(whole, names, session_id)
        rejected += headless
        done = [set_aside(one, point, names) for one in rejected]
        left_out = {one.folder for one in rejected}
        root = self._layout.root
        adopted = Adopted(
            checkpoints=tuple(
                str(path.relative_to(root)) for path in folders if path not in left_out
            ),
            resumed_from=None if point is None else str(point.folder.relative_to(root)),
            committed=() if point is None else point.manifest.committed,
        )
        write_adopted(attempt, adopted)
        return adopted, done
