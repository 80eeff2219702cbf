"""Settings of the cluster against each other."""

from __future__ import annotations

from collections.abc import Iterator

from phaseline.config.checks.finding import Finding
from phaseline.config.cluster_section import OWN_OPTIONS
from phaseline.config.sections import Config

WARNING_SLACK_S = 60
"""So much earlier than asked for may SLURM's warning come (sbatch --signal)."""


def chained_jobs_do_not_requeue(config: Config) -> Iterator[Finding]:
    """Of jobs that wait for each other none runs twice, or the others would never begin."""
    cluster = config.cluster
    if cluster.chain > 1 and cluster.requeue:
        yield Finding(
            ("cluster", "chain"),
            f"is {cluster.chain}, but cluster.requeue is true; a job that requeues itself is "
            "never over, and those behind it would wait for good",
            "Set cluster.requeue to false, or remove `chain`.",
        )


def arrays_are_not_chained(config: Config) -> Iterator[Finding]:
    """An array's members end at different times; a job behind it would wait for the last."""
    cluster = config.cluster
    if cluster.chain > 1 and cluster.array:
        yield Finding(
            ("cluster", "chain"),
            f"is {cluster.chain}, but cluster.array has {len(cluster.array)} members; an array "
            "cannot be chained",
            "Remove one of them.",
        )


def ranks_have_gpus(config: Config) -> Iterator[Finding]:
    """Where a job asks for GPUs, each rank has one."""
    cluster = config.cluster
    ranks, gpus = cluster.processes_per_node, cluster.gpus_per_node
    if ranks is not None and gpus and ranks > gpus:
        yield Finding(
            ("cluster", "processes_per_node"),
            f"is {ranks}, but cluster.gpus_per_node is {gpus}; each rank needs a GPU of its own",
            f"Set it to {gpus}, or leave it out.",
        )


def warning_fits_the_time(config: Config) -> Iterator[Finding]:
    """A job has time to train before it is warned."""
    cluster = config.cluster
    time_s = cluster.time_s
    if time_s is not None and time_s <= cluster.signal_lead_s + WARNING_SLACK_S:
        yield Finding(
            ("cluster", "signal_lead_s"),
            f"is {cluster.signal_lead_s}, but cluster.time is {cluster.time}; the warning, which "
            f"may come {WARNING_SLACK_S} s early, would end every job at its start",
            "Ask for more time, or set it lower.",
        )


def extra_options_are_extra(config: Config) -> Iterator[Finding]:
    """What the script sets itself is set by its setting."""
    for idx, option in enumerate(config.cluster.sbatch):
        name = option.removeprefix("--").partition("=")[0]
        if name in OWN_OPTIONS:
            setting = OWN_OPTIONS[name]
            fix = f"Set cluster.{setting} instead." if setting else "Remove it."
            yield Finding(
                ("cluster", "sbatch", idx),
                f"is {option!r}; the script sets --{name} itself",
                fix,
            )
