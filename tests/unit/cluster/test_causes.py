from __future__ import annotations

import signal

import pytest

from phaseline.cluster.causes import cause_in_words, cause_of_stop


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["srun: error: Node failure on node2", "srun: got SIGCONT"], "node failure: node2"),
        (
            [
                (
                    "slurmstepd-n1: error: *** STEP 9.0 ON n1 CANCELLED AT 2026-11-26T02:22:46 "
                    "DUE TO TIME LIMIT ***"
                )
            ],
            "the job's time limit",
        ),
        (
            [
                (
                    "slurmstepd-n1: error: *** STEP 8.0 ON n1 CANCELLED AT 2026-11-26T02:19:35 "
                    "DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***"
                )
            ],
            "a node failed",
        ),
        (
            [
                (
                    "slurmstepd-n1: error: *** STEP 6.0 ON n1 CANCELLED AT 2026-11-26T02:18:00 "
                    "DUE TO JOB REQUEUE ***"
                )
            ],
            "requeued from outside (scontrol requeue)",
        ),
        (["slurmstepd-n1: error: *** STEP 1.0 ON n1 CANCELLED AT 2026-11-26T02:16:10 ***"], ""),
        (["srun: error: node1: task 0: Exited with exit code 1"], ""),
        ([], ""),
    ],
)
def test_cause_in_words_reads_what_slurm_printed(lines: list[str], cause: str) -> None:
    assert cause_in_words(lines) == cause


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (signal.SIGUSR1, "SIGUSR1"),
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGINT, "Ctrl-C, SIGINT"),
        (signal.SIGHUP, "the terminal was closed, SIGHUP"),
    ],
)
def test_cause_of_stop_is_the_signal_outside_of_slurm(number: int, cause: str) -> None:
    assert cause_of_stop(number, None, lead_s=120) == cause
