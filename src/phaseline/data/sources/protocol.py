"""What a data source is: an identity of its content, and its samples in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from phaseline.config.known import Shape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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
]


@dataclass(frozen=True)
class Document:
    """A text to continue. Shape `text`.

    Attributes:
        id: Unique in its source and stable: it decides on which side of the
            train/held-out split the document falls.
        text: The text itself.
    """

    id: str
    text: str


@dataclass(frozen=True, eq=False)
class TokenDocument:
    """A text that is tokenised already. Shape `text`.

    Attributes:
        id: As of a `Document`.
        tokens: Its tokens, without an end-of-sequence token. `[tokens]`, any integer type.
    """

    id: str
    tokens: NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Pair:
    """A prompt and the completion that is learnt. Shape `pairs`.

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


Message = dict[str, Any]
"""One turn of a chat as chat templates read it: `role`, `content`, and whatever else they use."""


@dataclass(frozen=True)
class Chat:
    """A conversation, of which the assistant's turns are learnt. Shape `chats`.

    Attributes:
        id: Unique in its source.
        messages: The turns, in order.
        tools: Descriptions of tools, as chat templates read them.
        document: As of a `Pair`.
    """

    id: str
    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()
    document: str | None = None


@dataclass(frozen=True)
class Preference:
    """A prompt and two answers, of which one is preferred. Shape `preferences`.

    Attributes:
        id: Unique in its source.
        prompt: A text, or the turns of a chat so far.
        chosen: The preferred answer: a text, or turns if the prompt is turns.
        rejected: The other answer.
        document: As of a `Pair`.
    """

    id: str
    prompt: str | Sequence[Message]
    chosen: str | Sequence[Message]
    rejected: str | Sequence[Message]
    document: str | None = None


@dataclass(frozen=True, eq=False)
class Labelled:
    """Something to classify, and its class. Shape `labelled`.

    Attributes:
        id: Unique in its source.
        inputs: A text, or numbers of one shape in the whole source: an image as
            `[channels, height, width]`, a row of features as `[features]`.
        label: The class, from 0.
        document: As of a `Pair`.
    """

    id: str
    inputs: str | NDArray[Any] = field(repr=False)
    label: int
    document: str | None = None


Sample = Document | TokenDocument | Pair | Chat | Preference | Labelled


class Source(Protocol):
    """A source of samples of one shape.

    A source may have four members more, which are used where they are there: `skipped`, a
    mapping from reason to number of what the last pass of `samples` left out; `description`,
    a text that is shown when the source is prepared; `classes`, the names of all labels in
    order; and `check()`, which makes the first samples and raises if they cannot be used.
    """

    @property
    def shape(self) -> Shape:
        """What its samples are."""
        ...

    def fingerprint(self) -> str:
        """Names the content: equal if and only if `samples` yields the same. Must be cheap."""
        ...

    def samples(self) -> Iterator[Sample]:
        """Yields every sample, always in the same order."""
        ...
