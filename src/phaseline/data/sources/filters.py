"""Filters: what of a source is kept, and why the rest is not."""

from __future__ import annotations

import inspect
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from phaseline.config.plugins import load_attribute
from phaseline.data.fingerprints import fingerprint_of
from phaseline.data.sources.protocol import (
    Chat,
    Document,
    Labelled,
    Message,
    Pair,
    Preference,
    Sample,
    Shape,
    Source,
    TokenDocument,
)
from phaseline.data.sources.seen_digests import SeenDigests
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from phaseline.config.data_section import FiltersSection


class FilteredSource:
    """Yields the samples of another source that pass, in the same order.

    A sample is held against its length first, then against the user's own function, then
    against the samples that were kept before it.
    """

    def __init__(self, source: Source, filters: FiltersSection) -> None:
        """Takes a source over.

        Args:
            source: What is filtered.
            filters: What passes.

        Raises:
            ConfigurationError: The user's function cannot be imported.
            DataError: What it names is no function.
        """
        self._source = source
        self._filters = filters
        self._keep = None if filters.keep_if is None else _load_predicate(filters.keep_if)
        self._dropped: Counter[str] = Counter()

    @property
    def shape(self) -> Shape:
        """What its samples are."""
        return self._source.shape

    @property
    def skipped(self) -> Mapping[str, int]:
        """What the last pass left out, by reason, the source's own included."""
        of_source: Mapping[str, int] = getattr(self._source, "skipped", {})
        return {**of_source, **self._dropped}

    @property
    def classes(self) -> Sequence[str] | None:
        """Names of the source's labels, if it tells."""
        found: Sequence[str] | None = getattr(self._source, "classes", None)
        return found

    @property
    def description(self) -> str:
        """What the source says of itself."""
        return str(getattr(self._source, "description", ""))

    def check(self) -> None:
        """Raises DataError if the source's first samples cannot be used."""
        check = getattr(self._source, "check", None)
        if check is not None:
            check()

    def fingerprint(self) -> str:
        """Names the source's content and the filters, the user's function by its file."""
        code = None if self._keep is None else _digest_of_code(self._keep)
        filters = sorted(self._filters.model_dump().items())
        return f"filtered-1-{fingerprint_of(self._source.fingerprint(), filters, code)}"

    def samples(self) -> Iterator[Sample]:
        """Yields what passes."""
        dropped = self._dropped = Counter[str]()
        seen = SeenDigests() if self._filters.deduplicate else None
        for sample in self._source.samples():
            reason = self._reason_against(sample, seen)
            if reason is None:
                yield sample
            else:
                dropped[reason] += 1

    def _reason_against(self, sample: Sample, seen: SeenDigests | None) -> str | None:
        least, most = self._filters.min_chars, self._filters.max_chars
        if least is not None or most is not None:
            num_chars = sum(map(len, _texts(sample)))
            if least is not None and num_chars < least:
                return "shorter than min_chars"
            if most is not None and num_chars > most:
                return "longer than max_chars"
        if self._keep is not None and not self._is_kept(sample):
            return f"refused by {self._filters.keep_if}"
        if seen is not None and not seen.add(_content(sample)):
            return "duplicate"
        return None

    def _is_kept(self, sample: Sample) -> bool:
        name = self._filters.keep_if
        assert self._keep is not None
        try:
            answer = self._keep(sample)
        except Exception as error:
            raise DataError(
                f"filters.keep_if {name!r} failed at the sample {sample.id!r}: "
                f"{type(error).__name__}: {error}. Correct the function."
            ) from error
        if isinstance(answer, (bool, np.bool_)):
            return bool(answer)
        raise DataError(
            f"filters.keep_if {name!r} returned {answer!r:.60} for the sample {sample.id!r}. It "
            "must return True for what is kept and False for the rest."
        )


def _load_predicate(name: str) -> Callable[[Sample], object]:
    found = load_attribute(name, path="filters.keep_if")
    if not callable(found):
        raise DataError(
            f"filters.keep_if {name!r} is a {type(found).__name__}; it must be a function that "
            "takes a sample and returns whether it is kept."
        )
    return cast("Callable[[Sample], object]", found)


def _digest_of_code(function: Callable[[Sample], object]) -> str | None:
    """Names the file that a function was written in; what that imports cannot be known."""
    code: Any = inspect.unwrap(function)
    if not inspect.isroutine(code) and not inspect.isclass(code):
        code = type(code)
    try:
        file = inspect.getsourcefile(code)
        return None if file is None else fingerprint_of(Path(file).read_text(encoding="utf-8"))
    except (TypeError, OSError):
        return None


def _texts(sample: Sample) -> Sequence[str]:
    """What a sample says, in its parts."""
    if isinstance(sample, Document):
        return (sample.text,)
    if isinstance(sample, Pair):
        return (sample.prompt, sample.completion)
    if isinstance(sample, Chat):
        return _of_turns(sample.messages)
    if isinstance(sample, Preference):
        parts = (sample.prompt, sample.chosen, sample.rejected)
        return [text for part in parts for text in _of_turns(part)]
    if isinstance(sample, Labelled) and isinstance(sample.inputs, str):
        return (sample.inputs,)
    raise DataError(
        f"filters.min_chars and max_chars count characters, and the sample {sample.id!r} has none. "
        "Remove them for this source."
    )


def _of_turns(part: str | Sequence[Message]) -> Sequence[str]:
    return (part,) if isinstance(part, str) else [str(turn.get("content")) for turn in part]


def _content(sample: Sample) -> bytes:
    """All of a sample but its names, as bytes that are equal for equal samples only."""
    if isinstance(sample, TokenDocument):
        # By value: the same tokens may be stored in another type.
        return sample.tokens.astype("<i8").tobytes()
    if isinstance(sample, Labelled) and not isinstance(sample.inputs, str):
        array = sample.inputs
        return repr((sample.label, array.shape, array.dtype.str)).encode() + array.tobytes()
    parts: Any = {
        key: value for key, value in vars(sample).items() if key not in ("id", "document")
    }
    return repr(parts).encode("utf-8", errors="surrogatepass")
