"""A chat as tokens: written by its template, with the answers' tokens marked exactly.

The whole chat is one text and is encoded at once, so that its tokens are those that any other
program gets; which of them are learnt follows from the characters that they cover. A token
that covers both an answer and something else is not learnt. Special tokens are what the
template writes; a user who spells one gets text (`SealedVocabulary`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phaseline.data.sealed_vocabulary import RESERVED
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from phaseline.data.sources.protocol import Message
    from phaseline.data.tokenizer import Tokenizer

Spans = list[tuple[int, int]]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_LEARN_ROLE = "assistant"


class UnusableChatError(Exception):
    """A chat that is left out; the text says why, without a word that only this chat has."""


@dataclass(frozen=True)
class _Written:
    """A chat as text.

    Attributes:
        text: What the template wrote.
        answers: The characters of each answer that is learnt, from the first to the one
            behind the last.
    """

    text: str
    answers: Spans


class ChatTemplate:
    """Writes chats with a tokenizer's template and encodes them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Takes the tokenizer; whether it has a template is looked at with the first chat."""
        self._tokenizer = tokenizer
        self._source = tokenizer.settings.chat_template
        self._has_markers = _GENERATION.search(self._source or "") is not None
        self._variables = tokenizer.settings.template_variables

    def encode(
        self,
        sample_id: str,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        num_read: int = 0,
        *,
        learns_all: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Encodes a chat.

        Args:
            sample_id: For messages.
            messages: The turns.
            tools: Descriptions of tools.
            num_read: So many turns at the beginning are not learnt, whoever speaks.
            learns_all: Whether every token is learnt, and no answer is looked for.

        Returns:
            Its tokens, and whether each is learnt; both `[tokens]`.

        Raises:
            UnusableChatError: There is nothing to learn in it, or the template refuses it.
            DataError: The template cannot tell where an answer begins or ends.
        """
        if self._source is None:
            raise DataError(
                "The tokenizer has no chat template, so chats cannot be written. Set "
                "tokenizer.chat_template to one, or to the path of a file with one."
            )
        if not messages:
            raise UnusableChatError("a chat without turns")
        _require_turns(sample_id, messages)
        shielded = [_map_texts(list(part), self._shield) for part in (messages, tools)]
        if learns_all:
            written = _Written(self._render(shielded[0], shielded[1])[0], [])
        else:
            written = self._write(sample_id, shielded[0], shielded[1], num_read)
        text, answers = self._mark(written)
        tokens, covered = self._tokenizer.encode_marked([text])[0]
        if learns_all:
            return tokens, np.ones(len(tokens), bool)
        learnt = _inside(answers, self._trim(text, tokens, covered))
        if not learnt.any():
            raise UnusableChatError("no answer in the chat")
        return tokens, learnt

    def _shield(self, text: str) -> str:
        if any(character in text for character in RESERVED):
            raise UnusableChatError("a character that Unicode keeps for programs (U+FDD0..2)")
        return self._tokenizer.shield(text)

    def _write(
        self, sample_id: str, messages: list[Message], tools: list[Any], num_read: int
    ) -> _Written:
        if self._has_markers:
            text, answers = self._render(messages, tools, tracks=True)
            start = len(self._render(messages[:num_read], tools)[0]) if num_read else 0
            return _Written(text, [span for span in answers if span[0] >= start])
        text = self._render(messages, tools)[0]
        return _Written(text, self._find_answers(sample_id, text, messages, tools, num_read))

    def _find_answers(
        self,
        sample_id: str,
        text: str,
        messages: list[Message],
        tools: list[Any],
        num_read: int,
    ) -> Spans:
        """Where answers lie, by writing the chat up to before each, and up to behind it."""
        answers = []
        for idx in range(num_read, len(messages)):
            if messages[idx]["role"] != _LEARN_ROLE:
                continue
            before = self._render(messages[:idx], tools, adds_prompt=True)[0]
            behind = self._render(messages[: idx + 1], tools)[0]
            if not behind.startswith(before):
                raise _unclear(sample_id, idx, "begins an answer other than it asks for one")
            if not text.startswith(behind):
                raise _unclear(sample_id, idx, "writes an answer otherwise once turns follow it")
            answers.append((len(before), len(behind)))
        return answers

    def _render(
        self,
        messages: list[Message],
        tools: list[Any],
        *,
        adds_prompt: bool = False,
        tracks: bool = False,
    ) -> tuple[str, Spans]:
        # Only chats pay for it: it takes two seconds.
        from jinja2 import TemplateError, TemplateSyntaxError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, spans = render_jinja_template(
                [messages],
                tools=tools or None,
                chat_template=self._source,
                add_generation_prompt=adds_prompt,
                return_assistant_tokens_mask=tracks,
                **self._variables,
            )
        except TemplateSyntaxError as error:
            raise DataError(
                f"The chat template is no jinja template: {error.message} (its line "
                f"{error.lineno}). Correct it."
            ) from error
        except (TemplateError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise UnusableChatError(f"the chat template refuses it: {reason}") from error
        return texts[0], [tuple(span) for span in spans[0]] if tracks else []

    def _mark(self, written: _Written) -> tuple[str, Spans]:
        """The text with special tokens marked, and where the answers lie in that."""
        parts: list[str] = []
        answers: Spans = []
        length = position = 0
        for start, end in written.answers:
            between = self._tokenizer.mark_special(written.text[position:start])
            answer = self._tokenizer.mark_special(written.text[start:end])
            parts += [between, answer]
            first = length + len(between)
            answers.append((first, first + _learnt_length(answer)))
            length, position = first + len(answer), end
        parts.append(self._tokenizer.mark_special(written.text[position:]))
        return "".join(parts), answers

    def _trim(
        self, text: str, tokens: NDArray[np.int64], covered: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """What tokens cover, without the space that some special tokens swallow around them."""
        trimmed: NDArray[np.int64] = covered.copy()
        for idx in np.flatnonzero(np.isin(tokens, self._tokenizer.special_ids)):
            start, end = covered[idx]
            piece = text[start:end]
            trimmed[idx, 0] += len(piece) - len(piece.lstrip())
            trimmed[idx, 1] -= len(piece) - len(piece.rstrip())
        return trimmed


def _learnt_length(answer: str) -> int:
    """An answer without the space that follows its last special token: nobody waits for that."""
    told = answer.rstrip()
    return len(told) if told.endswith(RESERVED[1]) else len(answer)


def _inside(spans: Spans, covered: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which tokens lie wholly in one of the spans."""
    starts, ends = covered[:, 0], covered[:, 1]
    inside: NDArray[np.bool_] = np.zeros(len(covered), bool)
    for first, last in spans:
        inside |= (starts >= first) & (ends <= last) & (ends > starts)
    return inside


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of nested lists and mappings with every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_map_texts(key, change): _map_texts(below, change) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_map_texts(below, change) for below in value]
    return value


def _require_turns(sample_id: str, messages: Sequence[Message]) -> None:
    for idx, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise DataError(
                f"Turn {idx} of sample {sample_id!r} has no role; every turn must have `role` "
                "and `content`."
            )


def _unclear(sample_id: str, idx: int, how: str) -> DataError:
    return DataError(
        f"The chat template {how} (turn {idx} of sample {sample_id!r}), so that the tokens to "
        "learn cannot be told. Put {% generation %} and {% endgeneration %} around what the "
        "assistant says, in a template that tokenizer.chat_template names, or set data.learn to all."
    )
