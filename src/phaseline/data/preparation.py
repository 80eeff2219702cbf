"""Preparation: every source of every phase becomes a store in the cache. No torch.

All processes of a machine may prepare at once: one works, the others wait. Preparing what is
prepared already only identifies the sources again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phaseline.config.data_section import SourceSection
from phaseline.config.known_objectives import shapes_of
from phaseline.config.known_sources import SHAPE_WORDS
from phaseline.data.cache import Cache, Proceed, Report, always_proceed
from phaseline.data.phase_rows import PhaseRows, cut_rows, require_length
from phaseline.data.preparation_report import describe, facts_of
from phaseline.data.progress import PlainProgress
from phaseline.data.shared_contents import num_shared
from phaseline.data.sources import Labelled, Source, build_filtered_source, check_source
from phaseline.data.split import SplitRule
from phaseline.data.store import read_store
from phaseline.data.store_request import STORES, StoreRequest, Workshop, num_cores
from phaseline.data.tokenizer_building import build_tokenizer
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phaseline.config.sections import Config, PhaseSection
    from phaseline.data.progress import Progress
    from phaseline.data.shards import Parts, Shard
    from phaseline.data.tokenizer import Tokenizer


def prepare(
    config: Config,
    report: Report,
    proceed: Proceed = always_proceed,
    *,
    progress: Progress | None = None,
    verifies: bool = False,
) -> list[dict[str, Any]]:
    """Prepares the data of all phases, as far as it is not in the cache.

    Args:
        config: The session.
        report: Told what is done, and what each phase has to train and validate on.
        proceed: Called between documents; what it raises ends the preparation. What was
            finished by then stays in the cache, and nothing half-done does.
        progress: Told how far a source is; None: a line is reported now and then.
        verifies: Whether what is in the cache is read whole and compared with its hashes first;
            what is damaged is made anew.

    Returns:
        What each phase gets from each source, as JSON can hold it.

    Raises:
        DataError: A source cannot be used, or leaves a phase nothing to train or validate on.
    """
    shop, requests = _begin(config, report, proceed, progress)
    _check_sources(config, requests, shop.cache)
    facts = []
    for phase in config.phases:
        needed = requests.of_phase(phase)
        if verifies:
            _verify(phase, needed, shop.cache, report)
        is_new = any(request.find(shop.cache) is None for request in needed.every)
        stores = [read_store(request.obtain(shop)) for request in needed.every]
        rows = cut_rows(phase, stores, needed.training, needed.held_out)
        proceed()
        for request, one in zip(needed.training, rows, strict=True):
            report(f"phase {phase.name}: {request.name}: {describe(one, phase.data)}")
            facts.append({"phase": phase.name, **facts_of(one, phase.data)})
        if is_new:
            _report_shared(phase, rows, report)
    return facts


def prepare_shard(
    config: Config,
    report: Report,
    shard: Shard,
    proceed: Proceed = always_proceed,
    *,
    progress: Progress | None = None,
) -> None:
    """Prepares one shard's part of all data that is not in the cache.

    Raises:
        DataError: A source cannot be used.
    """
    shop, requests = _begin(config, report, proceed, progress)
    _check_sources(config, requests, shop.cache)
    for phase in config.phases:
        for request in requests.of_phase(phase).every:
            parts = request.obtain_part(shop, shard)
            proceed()
            report(f"phase {phase.name}: {request.name}: {_describe_parts(parts)}")


def open_rows(config: Config, phase: PhaseSection, tokenizer: Tokenizer) -> list[PhaseRows]:
    """Opens what `prepare` made for one phase, in the order of its sources.

    Raises:
        DataError: It is not there: the source or the cache changed since.
    """
    cache = Cache.configured(config.preparation)
    needed = _Requests(config, tokenizer).of_phase(phase)
    entries = []
    for request in needed.every:
        entry = request.find(cache)
        if entry is None:
            raise DataError(
                f"phase {phase.name}: data source {request.name!r} is not prepared: there is no "
                f"{STORES}/{request.fingerprint} in {cache.root}. Start the session again, which "
                "prepares it; if this recurs, the source's content changes all the time."
            )
        entries.append(entry)
    stores = [read_store(entry) for entry in entries]
    return cut_rows(phase, stores, needed.training, needed.held_out)


def _verify(phase: PhaseSection, needed: _Needed, cache: Cache, report: Report) -> None:
    for request in needed.every:
        if request.find(cache) is None:
            continue
        damaged = request.remove_damaged(cache)
        what = "is as it was written" if damaged is None else f"is damaged in {damaged.name}"
        report(f"phase {phase.name}: {request.name}: what is prepared {what}")


@dataclass(frozen=True)
class _Needed:
    """The stores that one phase needs.

    Attributes:
        training: In the order of its sources.
        held_out: A source that is only validated on, if it has one.
    """

    training: list[StoreRequest]
    held_out: StoreRequest | None

    @property
    def every(self) -> list[StoreRequest]:
        """All of them."""
        return [*self.training, *([] if self.held_out is None else [self.held_out])]


class _Requests:
    """Builds and identifies every source once, however many phases use it."""

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        self._seed = config.session.seed
        self._tokenizer = tokenizer
        self._known: dict[str, tuple[Source, str]] = {}

    def of_phase(self, phase: PhaseSection) -> _Needed:
        """What a phase needs.

        Raises:
            DataError: It mixes sources of different shapes, or its objective trains on others.
        """
        held_out, data = phase.data.held_out, phase.data
        rule = SplitRule(self._seed, data.held_out_frac)
        apart = None
        if held_out is not None:
            rule = SplitRule(self._seed, ids=held_out.ids)
            if held_out.source is not None:
                everything = SplitRule(self._seed, frac=1.0)
                section = SourceSection(source=held_out.source, arguments=held_out.arguments)
                apart = self._request(phase, section, everything)
        training = [self._request(phase, section, rule) for section in data.sources]
        needed = _Needed(training, apart)
        _require_one_shape(phase, needed.every)
        _require_shape_of_objective(phase, needed.every[0])
        _require_answers(phase, training[0])
        return needed

    def _request(
        self, phase: PhaseSection, section: SourceSection, rule: SplitRule
    ) -> StoreRequest:
        key = repr((section.source, section.arguments, section.filters))
        if key not in self._known:
            source = build_filtered_source(section)
            self._known[key] = (source, source.fingerprint())
        source, fingerprint = self._known[key]
        return StoreRequest(
            section.source, source, fingerprint, self._tokenizer, phase.data.learn, rule
        )


def _begin(
    config: Config, report: Report, proceed: Proceed, progress: Progress | None
) -> tuple[Workshop, _Requests]:
    cache = Cache.configured(config.preparation)
    proceed()
    tokenizer = build_tokenizer(config.tokenizer, cache, report, proceed)
    num_processes = config.preparation.processes or num_cores()
    shop = Workshop(cache, num_processes, report, proceed, progress or PlainProgress(report))
    return shop, _Requests(config, tokenizer)


def _check_sources(config: Config, requests: _Requests, cache: Cache) -> None:
    """Tries the first samples of all that is new, before hours go into any of it."""
    for phase in config.phases:
        for request in requests.of_phase(phase).every:
            if request.find(cache) is None:
                check_source(request.source)
                require_length(phase, request.name, is_of_numbers=_gives_numbers(request.source))


def _gives_numbers(source: Source) -> bool:
    """Whether a source gives images or features; its first sample tells."""
    if source.shape != "labelled":
        return False
    first = next(iter(source.samples()), None)
    return isinstance(first, Labelled) and not isinstance(first.inputs, str)


def _require_one_shape(phase: PhaseSection, requests: Sequence[StoreRequest]) -> None:
    shapes = [(request.name, request.source.shape) for request in requests]
    if len({shape for _, shape in shapes}) > 1:
        found = ", ".join(f"{name} gives {shape}" for name, shape in shapes)
        raise DataError(
            f"phase {phase.name}: its data sources have different shapes: {found}. "
            "Mix sources of one shape, or put them into phases of their own."
        )


def _require_shape_of_objective(phase: PhaseSection, request: StoreRequest) -> None:
    """Raises if the objective cannot train on these samples. Of files only their rows tell."""
    wanted, shape = shapes_of(phase.objective), request.source.shape
    if wanted is not None and shape not in wanted:
        raise DataError(
            f"phase {phase.name}: {request.name} gives {SHAPE_WORDS[shape]}, but the objective "
            f"{phase.objective} trains on {' or '.join(SHAPE_WORDS[one] for one in wanted)}. Name "
            "another source or objective. What rows are is said by `shape` and `columns` in the "
            "source's arguments, or by the attribute `shape` of a source of your own."
        )


def _require_answers(phase: PhaseSection, request: StoreRequest) -> None:
    """Raises if `learn` changes nothing. Of a source of one's own only its shape tells."""
    shape = request.source.shape
    if phase.data.learn == "all" and shape not in ("pairs", "chats"):
        raise DataError(
            f"phase {phase.name}: data.learn is 'all', which has no effect: {request.name} gives "
            f"{shape}. Remove it; it is for pairs and chats."
        )


def _report_shared(phase: PhaseSection, rows: Sequence[PhaseRows], report: Report) -> None:
    """Says how much of what is validated on is trained on too: under another id, word for word."""
    count = num_shared(
        [one.store.train.contents for one in rows], [one.store.held_out.contents for one in rows]
    )
    if count:
        report(
            f"phase {phase.name}: {count:,} held-out samples are trained on as well, under other "
            "ids: the same from first to last"
        )


def _describe_parts(parts: Parts | None) -> str:
    if parts is None:
        return "is prepared already"
    if parts.missing:
        missing = ", ".join(map(str, parts.missing))
        return f"{len(parts.folders)} of {parts.count} shards are there; missing: {missing}"
    return f"all {parts.count} shards are there: `phaseline prepare` puts them together"
