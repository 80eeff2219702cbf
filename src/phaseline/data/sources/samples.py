"""From rows to samples: one converter per shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phaseline.data.sources.chat_turns import read_turns, require_assistant
from phaseline.data.sources.columns import Columns
from phaseline.data.sources.images import ImageReader
from phaseline.data.sources.preferences import read_preference
from phaseline.data.sources.problems import Row, RowFault
from phaseline.data.sources.protocol import Chat, Document, Labelled, Pair, Sample
from phaseline.data.sources.values import read_name, read_text, require_column


@dataclass(frozen=True)
class LabelSettings:
    """How what is labelled is read.

    Attributes:
        classes: Names of the labels, the label being the place in the list; None: labels are
            numbers.
        resize: Height and width that images are scaled to; None: as they are.
        channels: Channels that images are brought to; None: as the first one has.
    """

    classes: Sequence[str] | None = None
    resize: tuple[int, int] | None = None
    channels: int | None = None


class SampleReader:
    """Makes samples of the rows of one pass over a source."""

    def __init__(self, columns: Columns, labels: LabelSettings) -> None:
        self._columns = columns
        self._classes = labels.classes
        self._images = ImageReader(labels.resize, labels.channels)
        self._num_features: int | None = None
        converters: dict[str, Callable[[Row, str], Sample]] = {
            "text": self._document,
            "pairs": self._pair,
            "chats": self._chat,
            "preferences": self._preference,
            "labelled": self._labelled,
        }
        self._convert = converters[columns.shape]

    def read(self, row: Row) -> Sample:
        """Makes a sample of a row.

        Raises:
            RowFault: It is none.
        """
        return self._convert(row, self._name("id", row) or row.id)

    def _document_of(self, row: Row) -> str | None:
        return self._name("document", row)

    def _name(self, role: str, row: Row) -> str | None:
        column = self._columns.roles.get(role)
        return None if column is None else read_name(row, str(column))

    def _column(self, role: str) -> str:
        return str(self._columns.roles[role])

    def _document(self, row: Row, sample_id: str) -> Document:
        text = read_text(row, self._column("text"), may_be_empty=False)
        return Document(sample_id, text)

    def _pair(self, row: Row, sample_id: str) -> Pair:
        prompt = read_text(row, self._column("prompt"))
        if "input" in self._columns.roles:
            more = read_text(row, self._column("input"), may_be_null=True)
            prompt = f"{prompt}\n\n{more}" if more else prompt
        completion = read_text(row, self._column("completion"), may_be_empty=False)
        return Pair(sample_id, prompt, completion, self._document_of(row))

    def _chat(self, row: Row, sample_id: str) -> Chat:
        name = self._column("messages")
        turns = read_turns(require_column(row, name), name)
        require_assistant(turns, name)
        tools: Sequence[Mapping[str, Any]] = ()
        if "tools" in self._columns.roles:
            tools = _read_tools(row, self._column("tools"))
        return Chat(sample_id, turns, tools, self._document_of(row))

    def _preference(self, row: Row, sample_id: str) -> Sample:
        return read_preference(row, self._columns.roles, sample_id, self._document_of(row))

    def _labelled(self, row: Row, sample_id: str) -> Labelled:
        roles = self._columns.roles
        label = self._label(row, self._column("label"))
        inputs: str | NDArray[Any]
        if "image" in roles:
            inputs = self._images.read(require_column(row, self._column("image")), row.folder)
        elif "features" in roles:
            inputs = self._features(row, roles["features"])
        else:
            inputs = read_text(row, self._column("text"), may_be_empty=False)
        return Labelled(sample_id, inputs, label, self._document_of(row))

    def _label(self, row: Row, name: str) -> int:
        value = require_column(row, name)
        if self._classes is not None:
            if value in self._classes:
                return self._classes.index(str(value))
            fix = "Add it to `classes`, or correct the label."
            raise RowFault("an unknown label", f"the label {value!r} is none of `classes`", fix)
        number = _to_float(value)
        if number < 0 or not number.is_integer():
            raise RowFault(
                "no label",
                f"the column {name!r} holds {value!r}, no whole number of at least 0",
                "Labels are numbers from 0; if they have names, list these in `classes`.",
            )
        return int(number)

    def _features(self, row: Row, columns: str | Sequence[str]) -> NDArray[np.float32]:
        if isinstance(columns, str):
            values = require_column(row, columns)
            if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
                found = f"the column {columns!r} holds {type(values).__name__}, no list of numbers"
                raise RowFault("no features", found, "Name several columns, or one of lists.")
        else:
            values = [require_column(row, column) for column in columns]
        numbers = np.array([_to_float(value) for value in values], np.float32)
        self._num_features = self._num_features or len(numbers)
        if len(numbers) != self._num_features or not np.isfinite(numbers).all():
            raise RowFault(
                "features that are no numbers",
                f"the features are {list(values)!r:.100}; they must be {self._num_features} "
                "finite numbers",
                "Fill in or leave out what is missing.",
            )
        return numbers


def _read_tools(row: Row, name: str) -> Sequence[Mapping[str, Any]]:
    tools = row.values.get(name)
    if tools is None:
        return ()
    if isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools):
        return tools
    found = f"the column {name!r} holds {type(tools).__name__}, no list of objects"
    raise RowFault("no list of tools", found, "Describe each tool by an object.")


def _to_float(value: object) -> float:
    """A number, also if it is written as text; NaN if it is none."""
    try:
        return float(value) if isinstance(value, (int, float, str)) else math.nan
    except (ValueError, OverflowError):
        return math.nan
