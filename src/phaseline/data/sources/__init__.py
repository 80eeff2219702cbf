"""Sources of samples: where they come from. One file per kind of built-in source."""

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
from phaseline.data.sources.registry import (
    build_filtered_source,
    build_source,
    check_source,
    describe_source,
)

__all__ = [
    "Chat",
    "Document",
    "Labelled",
    "Message",
    "Pair",
    "Preference",
    "Sample",
    "Shape",
    "Source",
    "TokenDocument",
    "build_filtered_source",
    "build_source",
    "check_source",
    "describe_source",
]
