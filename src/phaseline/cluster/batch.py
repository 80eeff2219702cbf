"""What a SLURM job runs: watches over one session, and sees to it that the job goes on.

The batch script ends in `exec python -m phaseline.cluster.batch CONFIG`. So SLURM's signals to
the script reach this program, on the job's first node, outside of the ranks' step. It imports
no torch.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from phaseline.cluster import slurm
from phaseline.cluster.accelerators import count_gpus
from phaseline.cluster.addresses import is_free, ports_of
from phaseline.cluster.array import member_of_array
from phaseline.cluster.causes import PREEMPTED, cause_by_now, cause_in_words, cause_of_stop
from phaseline.cluster.job_end import JobEnd, Next, decide
from phaseline.cluster.job_history import JobHistory
from phaseline.cluster.progress import newest_checkpoint
from phaseline.cluster.refusal import REFUSAL_VARIABLE, read_refusal
from phaseline.cluster.slurm import JobPlace
from phaseline.cluster.step import JobStep, build_step_command
from phaseline.cluster.verdict import Verdict, judge, newest_attempt
from phaseline.config.loading import LoadedConfig
from phaseline.errors import ExitCode, PhaselineError, UsageError
from phaseline.session.jobs import JobStart
from phaseline.session.layout import SessionLayout
from phaseline.session.session_file import load_session_file

_ASK_EVERY_S = 30.0
_WAIT_S = 0.2
_LONGEST_STAY_S = 3600.0
_PAUSES_S = (2.0, 5.0, 15.0, 30.0, 60.0, *[120.0] * 29)
"""Between requests that SLURM does not answer, an hour in all: a controller is back within
minutes, and a start that is cut off must not end by itself (`BatchJob._await_its_end`)."""
_NUM_STEP_NUMBERS = 4
"""So many starts in a row have step numbers of their own."""


class BatchJob:
    """One start of a job. Lives in the main thread, which owns the signals."""

    def __init__(self, loaded: LoadedConfig, place: JobPlace, options: argparse.Namespace) -> None:
        """Takes what the job is about.

        Args:
            loaded: The configuration, for the nodes that there are.
            place: The job.
            options: The command line.
        """
        self._loaded = loaded
        self._place = place
        self._options = options
        self._layout = SessionLayout(loaded.session_dir)
        self._history = JobHistory(self._layout, line=options.line or place.job_id)
        self._start: JobStart | None = None
        self._step: JobStep | None = None
        self._signals: list[signal.Signals] = []
        self._num_answered = 0
        self._cause = ""
        self._next_question = 0.0

    def run(self) -> ExitCode:
        """Runs the session's ranks and says how the job ended; may not return but be killed."""
        with self._listening():
            self._history.close_what_was_cut_off(self._place)
            end = self._why_not_begin()
            if end is None:
                self._begin()
                verdict = self._run_ranks()
                if self._is_superseded():
                    say("SLURM has started this job elsewhere meanwhile; this start ends here.")
                    self._await_its_end()
                    return ExitCode.FAILED
                end = self._judge(verdict)
            return self._end(end)

    # -- In order

    def _why_not_begin(self) -> JobEnd | None:
        last = self._history.last_word(self._place)
        if last is not None:
            return JobEnd(last.code, f"{last.message} This job has nothing to add.", Next.OVER)
        return self._without_progress()

    def _begin(self) -> None:
        state = slurm.ask(self._place.name)
        self._start = JobStart(
            job_id=self._place.job_id,
            restart=self._place.restart,
            line=self._history.line,
            nodes=self._place.nodes,
            began=time.time(),
            slot_ends=None if state is None else state.ends,
            since=newest_attempt(self._layout),
            checkpoint=newest_checkpoint(self._layout),
        )
        self._note_start()

    def _run_ranks(self) -> Verdict:
        """Runs the step, on another port if somebody else was faster at the one before."""
        assert self._start is not None
        since = self._start.since
        self._skip_steps(self._place.restart % _NUM_STEP_NUMBERS)
        refusal_file = self._layout.refusal_file(self._place.job_id, self._place.restart)
        environment = {**os.environ, REFUSAL_VARIABLE: str(refusal_file.resolve())}
        for port in ports_of(int(self._place.job_id), self._place.restart):
            self._step = JobStep(self._step_command(port, since), environment)
            self._step.run(self._attend)
            refusal = read_refusal(refusal_file)
            verdict = judge(
                self._layout, since=since, stop_requested=bool(self._signals), refusal=refusal
            )
            has_begun = newest_attempt(self._layout) > since
            if has_begun or refusal is not None or self._signals or is_free(port):
                return verdict
            say(f"Another process took port {port} meanwhile; trying the next one.")
            self._skip_steps(_NUM_STEP_NUMBERS - 1)
        raise UsageError("No free port was found from 20000 to 32000 on the job's first node.")

    def _skip_steps(self, num_steps: int) -> None:
        """Gives the ranks' step another number than those of the starts before.

        A node that was cut off reports its step's end once it answers again, and SLURM 22.05
        takes that for the end of the step that has the number now.
        """
        for _ in range(num_steps):
            problem = slurm.skip_step_number()
            if problem:
                say(
                    f"No step number was skipped, so the ranks' step may be taken for an earlier "
                    f"start's if a lost node heals now: {problem}"
                )
                return

    def _judge(self, verdict: Verdict) -> JobEnd:
        assert self._start is not None
        assert self._step is not None
        self._attend()
        said = cause_in_words(list(self._step.words))
        cause = said or self._cause or cause_by_now(self._place)
        if cause.startswith("node failure"):
            self._history.record_node_failure(self._start, cause)
        self._start = self._start.over(verdict.code, cause, at=time.time(), is_last=False)
        self._note_start()
        cluster = self._loaded.config.cluster
        end = decide(
            verdict,
            cause,
            was_terminated=signal.SIGTERM in self._signals,
            asked_by_person=self._was_asked_by_person(self._start.since),
            may_requeue=cluster.requeue,
            is_chained=self._options.chained,
        )
        given_up = self._without_progress() if end.next in (Next.REQUEUE, Next.CHAIN) else None
        if given_up is None:
            return end
        return replace(given_up, message=f"{end.message}\n{given_up.message}")

    def _is_superseded(self) -> bool:
        """Whether this start lived on behind a cut network, and another took its place.

        It must neither requeue the job, which runs, nor change what is on record of its end.
        """
        if self._history.has_later_start(self._place):
            return True
        state = slurm.ask(self._place.name)
        is_ending = signal.SIGTERM in self._signals
        return state is not None and state.restarts > self._place.restart and not is_ending

    def _await_its_end(self) -> None:
        """Lets SLURM end this start, as it does once the node answers again.

        Had it ended by itself behind the cut, slurmd 22.05 would believe that the job runs
        there: SLURM would later drain the node, and hold the job, for a start that it refuses.
        """
        until = time.monotonic() + _LONGEST_STAY_S
        next_question = 0.0
        while (now := time.monotonic()) < until and signal.SIGTERM not in self._signals:
            if now >= next_question:
                state = slurm.ask(self._place.name)
                if state is not None and state.is_over:
                    return
                next_question = time.monotonic() + _ASK_EVERY_S
            time.sleep(_WAIT_S)

    def _was_asked_by_person(self, since: int) -> bool:
        """Whether somebody asked this start's own attempt to stop (`phaseline stop`)."""
        number = newest_attempt(self._layout)
        return number > since and self._layout.attempt(number).stop_file.exists()

    def _without_progress(self) -> JobEnd | None:
        reason = self._history.why_give_up(
            self._loaded.config.resilience.max_starts_without_progress
        )
        if not reason:
            return None
        self._history.record_giving_up(reason)
        return JobEnd(ExitCode.NO_PROGRESS, reason, Next.OVER)

    def _end(self, end: JobEnd) -> ExitCode:
        """Puts the end on record, and asks for another start where there is to be one."""
        say(end.message)
        if self._start is not None:
            is_last = end.next is Next.OVER
            self._start = replace(self._start, code=int(end.code), is_last=is_last)
            self._note_start()
        if end.next is Next.REQUEUE:
            self._requeue()
        if end.next is Next.SLURM and self._is_left_behind():
            self._ask_to_requeue()
        return end.code

    def _requeue(self) -> None:
        if not self._ask_to_requeue():
            return
        # A job that ends while it is being preempted is not requeued. Stay until SLURM ends it.
        while not self._is_being_ended():
            time.sleep(_WAIT_S)

    def _ask_to_requeue(self) -> bool:
        """Asks until SLURM answers, and says what it answered; False: it is not requeued."""
        refusal = slurm.requeue(self._place.name)
        for pause_s in _PAUSES_S:
            if refusal is None or not refusal.may_pass:
                break
            say(f"Not requeued yet: {refusal.problem}. Trying again.")
            until = time.monotonic() + pause_s
            while time.monotonic() < until and not self._is_being_ended():
                time.sleep(_WAIT_S)
            # It may have heard what it did not answer.
            if self._is_requeued():
                refusal = None
                break
            refusal = slurm.requeue(self._place.name)
        if refusal is None:
            say("Requeued. SLURM ends this run now and starts the next one by itself.")
            return True
        say(
            f"The job could not be requeued: {refusal.problem}. Submit it again to go on; where "
            "requeueing is not allowed, cluster.chain submits several jobs at once."
        )
        if self._start is not None:
            self._start = replace(self._start, is_last=True)
            self._note_start()
        return False

    def _is_left_behind(self) -> bool:
        """Whether SLURM preempts by ending jobs for good: PreemptMode=CANCEL."""
        is_preempted = self._start is not None and self._start.cause.startswith(PREEMPTED)
        return is_preempted and self._loaded.config.cluster.requeue and not self._is_requeued()

    def _is_requeued(self) -> bool:
        if self._history.has_later_start(self._place):
            return True
        state = slurm.ask(self._place.name)
        return state is not None and state.restarts > self._place.restart

    def _is_being_ended(self) -> bool:
        return signal.SIGTERM in self._signals[self._num_answered :]

    def _note_start(self) -> None:
        assert self._start is not None
        problem = self._history.note(self._start)
        if problem:
            say(f"The job goes on without a record of it: {problem}")

    # -- While the ranks run

    def _step_command(self, port: int, since: int) -> list[str]:
        names = slurm.host_names(self._place.nodes) or [os.environ["SLURMD_NODENAME"]]
        program = ["phaseline.cluster.node", str(self._options.config)]
        program += ["--session", str(self._layout.root), "--since", str(since)]
        program += ["--processes", str(self._loaded.config.cluster.processes_per_node)]
        program += ["--main", names[0], "--peer", names[-1], "--port", str(port)]
        for override in self._options.override:
            program += ["-o", override]
        for key in self._options.accept_change:
            program += ["--accept-change", key]
        return build_step_command(program, self._loaded.config.cluster.container)

    def _attend(self) -> None:
        """Answers signals, and keeps the end of the job's time up to date for the ranks."""
        lead_s = self._loaded.config.cluster.signal_lead_s
        while self._num_answered < len(self._signals):
            number = self._signals[self._num_answered]
            self._num_answered += 1
            if number == signal.SIGUSR1 and self._step is not None:
                # SLURM's warning reaches this process alone. TERM goes to the step as well.
                self._step.tell(number)
            self._cause = self._cause or cause_of_stop(number, self._place, lead_s=lead_s)
            said = self._cause if number.name in self._cause else f"{self._cause}, {number.name}"
            say(f"Asked to stop ({said}): the ranks save.")
        if time.monotonic() >= self._next_question:
            self._next_question = time.monotonic() + _ASK_EVERY_S
            self._update_slot()

    def _update_slot(self) -> None:
        state = slurm.ask(self._place.name)
        if state is None or self._start is None or state.ends == self._start.slot_ends:
            return
        if state.restarts > self._place.restart:
            return  # it says when another start ends
        self._start = replace(self._start, slot_ends=state.ends)
        self._note_start()

    @contextmanager
    def _listening(self) -> Iterator[None]:
        numbers = (signal.SIGUSR1, signal.SIGTERM)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(signal.Signals(number))


def load_for_job(options: argparse.Namespace, place: JobPlace) -> LoadedConfig:
    """The configuration of the job's session, with the nodes and ranks that there are.

    What is worked out is added to the overrides, so that every rank works with the same.

    Raises:
        ConfigurationError: It cannot be used.
        UsageError: The job is a member of an array that the configuration does not have.
    """
    loaded = load_session_file(options.config, options.override, session_dir=options.session)
    if loaded.config.cluster.array:
        member = member_of_array(loaded, place.array_idx)
        options.override += member.overrides
        loaded = load_session_file(options.config, options.override, session_dir=member.session_dir)
    cluster = loaded.config.cluster
    num_gpus = int(os.environ.get("SLURM_GPUS_ON_NODE") or count_gpus())
    num_processes = cluster.processes_per_node or max(1, num_gpus)
    options.override += [
        f"cluster.nodes={place.num_nodes}",
        f"cluster.processes_per_node={num_processes}",
    ]
    return load_session_file(options.config, options.override, session_dir=loaded.session_dir)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a session's job and returns the job's exit code."""
    parser = argparse.ArgumentParser(prog="phaseline.cluster.batch", description=main.__doc__)
    parser.add_argument("config", type=Path, help="the session file")
    parser.add_argument("--session", type=Path, help="the session's directory")
    parser.add_argument("-o", "--override", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--accept-change", action="append", default=[], metavar="KEY")
    parser.add_argument("--line", default="", help="names the jobs that go on from each other")
    parser.add_argument("--chained", action="store_true", help="another job waits behind this one")
    options = parser.parse_args(arguments)
    place = JobPlace.read()
    try:
        if place is None:
            raise UsageError(
                "This program is what a SLURM job runs, and there is no job here (SLURM_JOB_ID is "
                "not set). Use `phaseline launch CONFIG`, or `phaseline submit CONFIG`."
            )
        return int(BatchJob(load_for_job(options, place), place, options).run())
    except PhaselineError as error:
        say(f"phaseline: {error}")
        return int(error.exit_code)


def say(text: str) -> None:
    """Adds to the job's output, with the time: it is read days later."""
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
