"""What a data source is: an identity of its content, and its documents or pairs in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

Shape = Literal["text", "pairs"]


@dataclass(frozen=True)
class Document:
    """A text to continue.

    Attributes:
        id: Unique in its source and stable: it decides on which side of the
            train/held-out split the document falls.
        text: The text itself.
    """

    id: str
    text: str


@dataclass(frozen=True)
class Pair:
    """A prompt and the completion that is learnt.

    Attributes:
        id: Unique in its source.
        prompt: Read, never learnt.
        completion: Learnt, and an end-of-sequence token after it.
        document: Id of the document that the pair was cut from, if any. All pairs of one
            document fall on the same side of the train/held-out split, which is the side
            that the document itself is on in a text source with the same ids.
    """

    id: str
    prompt: str
    completion: str
    document: str | None = None


class TextSource(Protocol):
    """A source of documents."""

    @property
    def shape(self) -> Literal["text"]:
        """Always `text`."""
        ...

    def fingerprint(self) -> str:
        """Names the content: equal if and only if `documents` yields the same. Must be cheap."""
        ...

    def documents(self) -> Iterator[Document]:
        """Yields every document, always in the same order."""
        ...


class PairSource(Protocol):
    """A source of prompt and completion pairs."""

    @property
    def shape(self) -> Literal["pairs"]:
        """Always `pairs`."""
        ...

    def fingerprint(self) -> str:
        """Names the content: equal if and only if `pairs` yields the same. Must be cheap."""
        ...

    def pairs(self) -> Iterator[Pair]:
        """Yields every pair, always in the same order."""
        ...


Source = TextSource | PairSource
