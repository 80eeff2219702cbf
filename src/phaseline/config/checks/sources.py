"""Arguments of data sources against each other, and filters against what they filter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec

from phaseline.config.checks.finding import Finding, Place
from phaseline.config.checks.names import nearest_or_all
from phaseline.config.known_objectives import shapes_of
from phaseline.config.known_sources import (
    IMAGE_ARGUMENTS,
    LABEL_ARGUMENTS,
    ROLES,
    SHAPE_WORDS,
    SOURCES,
    known_shape,
)
from phaseline.config.sections import Config
from phaseline.config.tree import Loc

Arguments = Mapping[str, object]

_ALL_ROLES = ("id", *dict.fromkeys(role for roles in ROLES.values() for role in roles))
_WITHOUT_LINES = ("text", "json", "parquet", "arrow")


def sources_have_the_objective_shape(place: Place) -> Iterator[Finding]:
    """As far as the configuration says it; others tell their shape when they are built."""
    wanted = shapes_of(place.phase.objective)
    for source_idx, entry in enumerate(place.phase.data.sources):
        shape = known_shape(entry.source, entry.arguments)
        if wanted is None or shape is None or shape in wanted:
            continue
        names = [name for name, known in SOURCES.items() if known.shape in wanted]
        has_columns = SOURCES[entry.source].shape is None
        use = "Use other columns" if has_columns else f"Use {' or '.join([*names, 'files'])}"
        yield Finding(
            place.loc("data", "sources", source_idx, "source"),
            f"is {entry.source!r}, which gives {SHAPE_WORDS[shape]}, but the objective "
            f"{place.phase.objective} trains on {' or '.join(SHAPE_WORDS[one] for one in wanted)}",
            f"{use}, or another objective.",
        )


def source_arguments_fit_together(place: Place) -> Iterator[Finding]:
    """Of every source of a phase, and of what it holds out."""
    for source_idx, entry in enumerate(place.phase.data.sources):
        loc = place.loc("data", "sources", source_idx, "arguments")
        yield from _check_arguments(entry.source, entry.arguments, loc)
    held_out = place.phase.data.held_out
    if held_out is not None and held_out.source is not None:
        loc = place.loc("data", "held_out", "arguments")
        yield from _check_arguments(held_out.source, held_out.arguments, loc)


def tokenizer_source_arguments_fit_together(config: Config) -> Iterator[Finding]:
    """Of the sources that the tokenizer is trained on."""
    train = config.tokenizer.train
    if train is None:
        return
    loc: Loc = ("tokenizer", "train")
    if train.source is not None:
        yield from _check_arguments(train.source, train.arguments, (*loc, "arguments"))
    for source_idx, entry in enumerate(train.sources):
        place = (*loc, "sources", source_idx, "arguments")
        yield from _check_arguments(entry.source, entry.arguments, place)


def source_packages_are_installed(place: Place) -> Iterator[Finding]:
    """What a source reads with is there."""
    data = place.phase.data
    named = [
        (entry.source, place.loc("data", "sources", source_idx, "source"))
        for source_idx, entry in enumerate(data.sources)
    ]
    if data.held_out is not None and data.held_out.source is not None:
        named.append((data.held_out.source, place.loc("data", "held_out", "source")))
    for name, loc in named:
        package = SOURCES[name].package if name in SOURCES else None
        if package is not None and find_spec(package[0]) is None:
            yield Finding(
                loc,
                f"is {name!r}, but the package {package[0]} that it reads with is not installed",
                f"Install phaseline[{package[1]}], or use another source.",
            )


def filters_have_an_effect(place: Place) -> Iterator[Finding]:
    """Lengths are in order, and there are characters to count."""
    for source_idx, entry in enumerate(place.phase.data.sources):
        loc = place.loc("data", "sources", source_idx, "filters")
        least, most = entry.filters.min_chars, entry.filters.max_chars
        if least is not None and most is not None and least > most:
            yield Finding(
                (*loc, "min_chars"),
                f"is {least}, but max_chars is {most}, so that nothing is kept",
                "Lower min_chars, or raise max_chars.",
            )
        for name, value in (("min_chars", least), ("max_chars", most)):
            if value is not None and not _has_text(entry.source, entry.arguments):
                yield Finding(
                    (*loc, name),
                    f"is {value}, but {entry.source} gives no text whose characters could be "
                    "counted",
                    "Remove it; `keep_if` names a function of your own.",
                    unused=True,
                )


def _has_text(name: str, arguments: Arguments) -> bool:
    source = SOURCES.get(name)
    if source is None or not source.has_text:
        return source is None
    columns = arguments.get("columns")
    return not isinstance(columns, Mapping) or not {"image", "features"} & columns.keys()


def _check_arguments(name: str, arguments: Arguments, loc: Loc) -> Iterator[Finding]:
    if name == "token_files":
        yield from _check_tokens(arguments, loc)
    if "longest_line_mib" in arguments and arguments.get("format") in _WITHOUT_LINES:
        yield Finding(
            (*loc, "longest_line_mib"),
            f"has no effect: {arguments['format']} is not read line by line",
            "Remove it, or set another format.",
            unused=True,
        )
    source = SOURCES.get(name)
    if source is None or "columns" not in source.arguments:
        return
    yield from _check_roles(name, arguments, loc)
    yield from _check_label_settings(name, arguments, loc)


def _check_roles(name: str, arguments: Arguments, loc: Loc) -> Iterator[Finding]:
    """Every column has a part in the samples."""
    columns = arguments.get("columns")
    if not isinstance(columns, Mapping):
        return
    if arguments.get("format") in ("text", "lines"):
        problem = f"has no effect: {arguments['format']} has no columns"
        yield Finding((*loc, "columns"), problem, "Remove it, or set another format.", unused=True)
        return
    shape = known_shape(name, arguments)
    for role in columns:
        if role not in _ALL_ROLES:
            yield Finding(
                (*loc, "columns", role),
                "is no part of a sample",
                nearest_or_all(str(role), _ALL_ROLES, "Parts are"),
            )
        elif shape is not None and role not in ("id", *ROLES[shape]):
            yield Finding(
                (*loc, "columns", role),
                f"has no effect: the parts of {SHAPE_WORDS[shape]} are id, {', '.join(ROLES[shape])}",
                "Remove it, or set another `shape`.",
                unused=True,
            )


def _check_label_settings(name: str, arguments: Arguments, loc: Loc) -> Iterator[Finding]:
    """Labels are named and images are scaled where there are some."""
    shape, columns = known_shape(name, arguments), arguments.get("columns")
    roles = columns.keys() if isinstance(columns, Mapping) else set()
    has_no_image = bool({"features", "text"} & roles)
    for key in LABEL_ARGUMENTS:
        if key not in arguments or shape is None:
            continue
        if shape != "labelled" or (key in IMAGE_ARGUMENTS and has_no_image):
            what = "images" if key in IMAGE_ARGUMENTS else "labels"
            yield Finding(
                (*loc, key),
                f"has no effect: it is for {what}, and the samples have none",
                f"Remove it, or name a column as {what[:-1]}.",
                unused=True,
            )


def _check_tokens(arguments: Arguments, loc: Loc) -> Iterator[Finding]:
    """Tokens have a type, and one way to be cut into documents."""
    paths = arguments.get("paths")
    if isinstance(paths, (list, tuple)):
        suffixes = {str(path).rpartition(".")[2] for path in paths}
        if "dtype" not in arguments and "bin" in suffixes:
            yield Finding(
                (*loc, "dtype"),
                "is missing: .bin files do not say of what type their tokens are",
                "Add for example `dtype: uint16`.",
            )
        if "dtype" in arguments and suffixes == {"npy"}:
            yield Finding(
                (*loc, "dtype"),
                "has no effect: .npy files say of what type their tokens are",
                "Remove it.",
                unused=True,
            )
    if "end_of_text" in arguments and "document_length" in arguments:
        yield Finding(
            (*loc, "document_length"),
            "is given together with end_of_text, which ends documents as well",
            "Keep one of them.",
        )
