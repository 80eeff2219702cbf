"""Keeping in a session what it was started with, so that it needs nothing from outside."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from phaseline.config.data_section import SourceSection
from phaseline.config.inheritance import kept_model, outside_weights, teacher_of
from phaseline.config.known_sources import paths_of_source
from phaseline.config.places import fixed_part, is_known, place_of
from phaseline.config.sections import Config
from phaseline.data.cache import Cache
from phaseline.data.sources import build_filtered_source
from phaseline.data.sources.registry import source_key
from phaseline.data.tokenizer import Tokenizer
from phaseline.data.tokenizer_building import build_tokenizer, section_text
from phaseline.errors import PhaselineError
from phaseline.models.build import pretrained_folder
from phaseline.session.inputs import (
    MODEL,
    TOKENIZER,
    SessionInputs,
    hash_of,
    is_whole,
    keep_inputs,
    load_inputs,
    remember_moved,
    session_from,
)
from phaseline.session.layout import SessionLayout

_OF_A_MODEL = ("config.json", "generation_config.json")


def keep_session_inputs(
    layout: SessionLayout, config: Config, moved: Mapping[str, str], *, has_begun: bool
) -> None:
    """Keeps tokenizer and model configuration, unless that is done. **Ranks:** main.

    Args:
        layout: The session, whose lease this process holds.
        config: What it trains.
        moved: What the session calls a path, and where that lies now.
        has_begun: Whether it has trained weights: these go with what was kept then.
    """
    before = load_inputs(layout)
    if before is not None and _is_of(before, config, has_begun) and is_whole(layout, before):
        remember_moved(layout, before, moved)
        return
    tokenizer = build_tokenizer(config.tokenizer, Cache.configured(config.preparation))
    folder = None
    if config.model.pretrained is not None:
        # What it has begun with, if that is kept; else where the configuration says.
        folder = (kept_model(config.model) if has_begun else None) or pretrained_folder(
            config.model
        )
    start = Path.cwd() if before is None else Path(before.started_in)
    describe = partial(
        SessionInputs,
        started_in=str(start),
        session=session_from(start, layout) if before is None else before.session,
        tokenizer=tokenizer.fingerprint,
        tokenizer_of=section_text(config.tokenizer),
        model_of=config.model.pretrained,
        model_revision=config.model.revision,
        paths=tuple(sorted({*_paths(config), *(() if before is None else before.paths)})),
        renamed={
            **({} if before is None else before.renamed),
            **{place: name for name, place in moved.items()},
        },
        sources={
            source_key(one): build_filtered_source(one).fingerprint() for one in _sources(config)
        },
    )
    keep_inputs(layout, partial(_write, tokenizer, folder), describe)


def differences(config: Config) -> Iterator[str]:
    """What lies where the session began from, and is not what it keeps of it: for a person."""
    kept = kept_model(config.model)
    if kept is None:
        return
    try:
        here = pretrained_folder(config.model) / _OF_A_MODEL[0]
    except PhaselineError:
        return
    if here.is_file() and hash_of(here) != hash_of(kept / _OF_A_MODEL[0]):
        yield (
            f"{here} changed since the session began, which goes on with the configuration that it "
            f"keeps in {kept}"
        )


def _write(tokenizer: Tokenizer, model: Path | None, folder: Path) -> None:
    tokenizer.save(folder / TOKENIZER)
    if Tokenizer.load(folder / TOKENIZER).fingerprint != tokenizer.fingerprint:
        # Another one is worse than none: then what it was made of is needed.
        shutil.rmtree(folder / TOKENIZER)
    if model is None:
        return
    (folder / MODEL).mkdir()
    for name in _OF_A_MODEL:
        if (model / name).is_file():
            shutil.copyfile(model / name, folder / MODEL / name)


def _is_of(inputs: SessionInputs, config: Config, has_begun: bool) -> bool:
    """Whether what is kept was made of what the configuration says."""
    model = config.model
    if inputs.tokenizer_of != section_text(config.tokenizer):
        return False
    if (inputs.model_of, inputs.model_revision) != (model.pretrained, model.revision):
        return False
    if any(source_key(one) not in inputs.sources for one in _sources(config)):
        return False
    return has_begun or not _has_changed(inputs, config)


def _has_changed(inputs: SessionInputs, config: Config) -> bool:
    """Whether what was kept is another by now, before anything was trained with it."""
    try:
        tokenizer = build_tokenizer(config.tokenizer, Cache.configured(config.preparation))
        if tokenizer.fingerprint != inputs.tokenizer:
            return True
        sources = {
            source_key(one): build_filtered_source(one).fingerprint() for one in _sources(config)
        }
    except PhaselineError:
        return False
    kept = inputs.files.get(f"{MODEL}/config.json")
    here = (
        ""
        if config.model.pretrained is None
        else hash_of(pretrained_folder(config.model) / "config.json")
    )
    is_other = kept is not None and bool(here) and kept.hash != here
    return is_other or any(inputs.sources[key] != name for key, name in sources.items())


def _sources(config: Config) -> Iterator[SourceSection]:
    """Data sources that paths lead to."""
    found = [source for phase in config.phases for source in phase.data.sources]
    apart = [phase.data.held_out for phase in config.phases if phase.data.held_out is not None]
    texts = config.tokenizer.train.texts if config.tokenizer.train is not None else ()
    others = [(one.source, one.arguments) for one in apart if one.source is not None]
    others += [(one.source, one.arguments) for one in texts]
    found += [SourceSection(source=name, arguments=dict(given)) for name, given in others]
    yield from (one for one in found if paths_of_source(one.source, one.arguments))


def _paths(config: Config) -> Iterator[str]:
    """Paths that could be names on the hub as well, of what is there."""
    named = [config.model.pretrained, config.tokenizer.pretrained, config.tokenizer.chat_template]
    named += [outside_weights(config, idx) for idx in range(len(config.phases))]
    named += [teacher_of(phase) for phase in config.phases]
    for text in named:
        if (
            text is not None
            and "{" not in text
            and (place_of(fixed_part(text)).exists() or is_known(text))
        ):
            yield text
