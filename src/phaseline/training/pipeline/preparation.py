"""Step one of a run: data is prepared, and weights fetched, before the world starts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from phaseline.config.hub import HubModelError, HubModelOutageError, fetch, find_cached, is_hub_name
from phaseline.config.inheritance import kept_model, outside_weights, pretrained_weights, teacher_of
from phaseline.config.model_section import HUB_PREFIX
from phaseline.config.sections import Config
from phaseline.config.tree import Loc, path_text
from phaseline.data.preparation import prepare
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.errors import ConfigurationError, Fault, StopRequestedError
from phaseline.resilience.stop_notice import StopNotice


def prepare_data(
    config: Config,
    rendezvous: Rendezvous,
    report: Callable[[str], None],
    stop: StopNotice,
    *,
    fetches: bool,
    begun: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Returns once all that phases need lies in this machine's caches. **Ranks:** all.

    One process of a machine works, the others wait for its lock. No process group exists
    yet, so nothing can time out while a large corpus is tokenised. A request to stop, on any
    rank, ends the work between two documents: then data is missing, and the ranks' next vote
    says that they stop.

    Args:
        config: The session.
        rendezvous: Of its ranks.
        report: Told what is done.
        stop: Whether a rank was asked to stop.
        fetches: Whether this rank asks the hub for models, on behalf of its machine.
        begun: Phases that have trained weights, and can go on without those from outside.

    Returns:
        What each phase gets from each source; nothing if the work was ended.
    """
    facts: list[dict[str, Any]] = []
    try:
        if fetches:
            _fetch_weights(config, report, begun)
        facts = prepare(config, report, stop.require_none)
    except StopRequestedError:
        report("asked to stop: what is not prepared yet is left for the next start")
    # A rank that waits here goes on listening, for those that are still at work.
    rendezvous.barrier("prepared", timeout_s=float("inf"), meanwhile=stop.heard)
    return facts


def _fetch_weights(config: Config, report: Callable[[str], None], begun: Collection[str]) -> None:
    """Gets models of the hub that the session names into the cache. No network if they are there.

    One that cannot be had and need not be is left out; whoever needs it after all says so.

    Raises:
        ConfigurationError: The hub does not give one.
        HubModelOutageError: The hub cannot be asked just now.
    """
    wanted: dict[Loc, str | None] = {("model", "pretrained"): pretrained_weights(config.model)}
    spared: set[Loc] = set() if kept_model(config.model) is None else {("model", "pretrained")}
    for idx, phase in enumerate(config.phases):
        wanted["phases", idx, "inherit", "weights"] = outside_weights(config, idx)
        if phase.name in begun:
            spared.add(("phases", idx, "inherit", "weights"))
        teacher = teacher_of(config.phases[idx])
        wanted["phases", idx, "objective_arguments", "teacher"] = teacher
    for loc, text in wanted.items():
        if text is None or not is_hub_name(text):
            continue
        try:
            if find_cached(text) is None:
                report(f"fetching {text.removeprefix(HUB_PREFIX)} from the hub")
            fetch(text)
        except HubModelError as error:
            if loc in spared:
                continue
            if isinstance(error, HubModelOutageError):
                raise
            problem = f"is {text.removeprefix(HUB_PREFIX)!r}, which {error.problem}"
            raise ConfigurationError([Fault(path_text(loc), "", problem, error.fix)]) from error
