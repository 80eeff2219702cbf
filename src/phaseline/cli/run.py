"""`phaseline run`: what every rank runs."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from phaseline.cli.options import AcceptChanges, ConfigFile, Overrides, SessionDir, TakeOver
from phaseline.cluster.refusal import REFUSAL_VARIABLE, last_words
from phaseline.distributed.environment import RankEnvironment
from phaseline.errors import ExitCode, PhaselineError, printable
from phaseline.resilience.consequence import is_consequence
from phaseline.resilience.stop_flag import StopFlag
from phaseline.session import linux
from phaseline.session.attempts import ErrorRecord, Outcome, write_error, write_outcome
from phaseline.session.files import write_json
from phaseline.session.layout import AttemptLayout

if TYPE_CHECKING:
    from phaseline.training.pipeline.session_manager import OpenSession

_TELL_LIMIT_S = 2.0


def run(
    config: ConfigFile,
    override: Overrides = None,
    session: SessionDir = None,
    take_over: TakeOver = False,
    accept_change: AcceptChanges = None,
) -> None:
    """Start or resume a session on this rank. `accelerate launch ... -m phaseline run CONFIG`."""
    linux.die_with_parent()
    # Before the slow imports: a stop that comes while they run must find somebody listening.
    stop_flag = StopFlag()
    stop_flag.listen()
    environment = RankEnvironment.read()
    from phaseline.training.pipeline.fresh_images import FreshImages
    from phaseline.training_pipeline import TrainingPipeline

    images = FreshImages()
    pipeline = TrainingPipeline(
        config,
        overrides=override or (),
        session_dir=session,
        take_over=take_over,
        accept_changes=accept_change or (),
        images=images,
        stop_flag=stop_flag,
    )
    # Ranks that end on purpose all end 0: the launcher's agent would turn another code of
    # one rank into a failure of the job. The outcome on the disk says how it ended.
    try:
        pipeline.run()
    except PhaselineError as error:
        if pipeline.session is None:
            _refuse(error, environment)
        _fail(error, pipeline.session, environment, images.terminal)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is put on record
        _fail(error, pipeline.session, environment, images.terminal)


def _refuse(error: PhaselineError, environment: RankEnvironment) -> NoReturn:
    """Ends before anything was begun; the launcher passes the code on."""
    listener = os.environ.get(REFUSAL_VARIABLE)
    if environment.is_main and listener:
        try:
            write_json(Path(listener), {"code": int(error.exit_code), "message": str(error)})
        except OSError:  # a full disk: the code is the agent's then, and the reason is above it
            listener = None
    if environment.is_main and not listener:
        with suppress(OSError, ValueError):
            print(f"phaseline: {error}", file=sys.stderr, flush=True)
    # With a launcher that listens the code is on the disk, and any other end than 0 would
    # bury the message under the agent's report of a failed job.
    os._exit(0 if listener else int(error.exit_code))


def _fail(
    error: BaseException,
    session: OpenSession | None,
    environment: RankEnvironment,
    terminal: TextIO,
) -> NoReturn:
    """Leaves a record and ends at once: no collective, no destructor may wait for a peer."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    # A reader that is gone must not keep this rank from leaving its record.
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
    consequence = is_consequence(error)
    if session is None or REFUSAL_VARIABLE not in os.environ:
        # No launcher will say it.
        message = printable(f"rank {environment.rank}: {type(error).__name__}: {error}")
        with suppress(OSError, ValueError):
            print(message, file=terminal)
    if session is not None:
        record = ErrorRecord(
            rank=environment.rank,
            host=socket.gethostname(),
            phase=session.place.phase,
            step=session.place.step,
            kind=type(error).__name__,
            message=str(error),
            traceback=text,
            consequence=consequence,
            time=time.time(),
        )
        outcome = None
        if isinstance(error, PhaselineError) and error.exit_code is not ExitCode.FAILED:
            # Another start of the same would end the same: the code must say so.
            outcome = Outcome(error.exit_code, f"{type(error).__name__}: {error}", time.time())
        _leave_record(session.attempt, record, outcome, terminal)
        with suppress(OSError, PhaselineError):
            session.abandon()
        if not consequence:
            _tell_peers(session, environment)
    os._exit(int(error.exit_code) if isinstance(error, PhaselineError) else 1)


def _leave_record(
    attempt: AttemptLayout, record: ErrorRecord, outcome: Outcome | None, terminal: TextIO
) -> None:
    """Records a failure in the attempt, else where the launcher looks, else on the terminal.

    A full disk must not keep this rank alive: its peers wait for its end.
    """
    places = [attempt]
    listener = os.environ.get(REFUSAL_VARIABLE)
    if listener:
        places.append(last_words(Path(listener)))
    for place in places:
        try:
            if place is not attempt:
                place.dir.mkdir(exist_ok=True)
            write_error(place, record)
            if outcome is not None:
                write_outcome(place, outcome)
        except (OSError, PhaselineError):
            continue
        return
    with suppress(OSError, ValueError):
        print(printable(f"{record.where}: {record.kind}: {record.message}"), file=terminal)


def _tell_peers(session: OpenSession, environment: RankEnvironment) -> None:
    """Says so at the store, in a thread: a store whose host is gone would never answer."""
    who = f"rank {environment.rank}"
    thread = threading.Thread(target=session.rendezvous.tell_failure, args=(who,), daemon=True)
    thread.start()
    thread.join(_TELL_LIMIT_S)
