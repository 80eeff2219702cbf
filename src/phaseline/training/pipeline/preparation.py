"""Step one of a run: data is prepared if it is not there yet, before the world starts."""

from __future__ import annotations

from collections.abc import Callable

from phaseline.config.sections import Config
from phaseline.data.preparation import prepare
from phaseline.distributed.rendezvous import Rendezvous


def prepare_data(config: Config, rendezvous: Rendezvous, report: Callable[[str], None]) -> None:
    """Returns once every phase's data lies in this machine's cache. **Ranks:** all.

    One process of a machine works, the others wait for its lock. No process group exists
    yet, so nothing can time out while a large corpus is tokenised.
    """
    prepare(config, report)
    rendezvous.barrier("prepared", timeout_s=float("inf"))
