"""Step one of a run: data is prepared if it is not there yet, before the world starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from phaseline.config.sections import Config
from phaseline.data.preparation import prepare
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.errors import StopRequestedError
from phaseline.resilience.stop_notice import StopNotice


def prepare_data(
    config: Config, rendezvous: Rendezvous, report: Callable[[str], None], stop: StopNotice
) -> list[dict[str, Any]]:
    """Returns once every phase's data lies in this machine's cache. **Ranks:** all.

    One process of a machine works, the others wait for its lock. No process group exists
    yet, so nothing can time out while a large corpus is tokenised. A request to stop, on any
    rank, ends the work between two documents: then data is missing, and the ranks' next vote
    says that they stop.

    Returns:
        What each phase gets from each source; nothing if the work was ended.
    """
    facts: list[dict[str, Any]] = []
    try:
        facts = prepare(config, report, stop.require_none)
    except StopRequestedError:
        report("asked to stop: what is not prepared yet is left for the next start")
    # A rank that waits here goes on listening, for those that are still at work.
    rendezvous.barrier("prepared", timeout_s=float("inf"), meanwhile=stop.heard)
    return facts
