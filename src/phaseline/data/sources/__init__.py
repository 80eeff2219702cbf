"""Sources of samples: where text and pairs come from. One file per built-in source."""

from phaseline.data.sources.protocol import Document, Pair, PairSource, Source, TextSource
from phaseline.data.sources.registry import build_source

__all__ = ["Document", "Pair", "PairSource", "Source", "TextSource", "build_source"]
