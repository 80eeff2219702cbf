"""How samples become rows and are read, one setting against another."""

from __future__ import annotations

from collections.abc import Iterator

from phaseline.config.checks.finding import Finding, Place
from phaseline.config.known_objectives import counts_pairs
from phaseline.config.tree import found_text


def separation_has_documents(place: Place) -> Iterator[Finding]:
    """Only packed sequences hold documents that could see each other."""
    data = place.phase.data
    if counts_pairs(place.phase.objective):
        return  # both answers of a pair share a sequence anyway
    if "separate_documents" in data.model_fields_set and not data.packing:
        yield Finding(
            place.loc("data", "separate_documents"),
            f"is {found_text(data.separate_documents)}, which has no effect with packing: false",
            "Remove it, or set data.packing to true.",
            unused=True,
        )


def prefetch_has_workers(place: Place) -> Iterator[Finding]:
    """Nothing is read ahead by the training process itself."""
    data = place.phase.data
    if "prefetch" in data.model_fields_set and data.num_workers == 0:
        yield Finding(
            place.loc("data", "prefetch"),
            f"is {data.prefetch}, which has no effect without workers",
            "Remove it, or set for example data.num_workers to 2.",
            unused=True,
        )
