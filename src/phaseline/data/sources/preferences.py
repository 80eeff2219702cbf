"""Rows with a chosen and a rejected answer, in the forms that data sets have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from phaseline.data.sources.chat_turns import read_turns
from phaseline.data.sources.problems import Row, RowFault
from phaseline.data.sources.protocol import Message, Preference
from phaseline.data.sources.values import read_text, require_column

if TYPE_CHECKING:
    from phaseline.data.sources.columns import Given


def read_preference(row: Row, roles: Given, sample_id: str, document: str | None) -> Preference:
    """Reads a prompt and two answers, as texts or as turns.

    Answers that are turns may be whole chats: what both begin with is the prompt then.

    Raises:
        RowFault: They are not there, or the answers do not differ.
    """
    chosen_name, rejected_name = str(roles["chosen"]), str(roles["rejected"])
    prompt_name = str(roles["prompt"]) if "prompt" in roles else None
    prompt = None if prompt_name is None else require_column(row, prompt_name)
    if prompt_name is not None and _is_text(prompt):
        prompt = read_text(row, prompt_name, may_be_empty=False)
    names = (chosen_name, rejected_name)
    are_texts = [_is_text(require_column(row, name)) for name in names]
    if are_texts == [True, True] and (prompt is None or isinstance(prompt, str)):
        chosen, rejected = (read_text(row, name, may_be_empty=False) for name in names)
        if prompt is None:
            raise _no_prompt("the answers are texts, and there is no column for the prompt")
        _require_different(chosen, rejected)
        return Preference(sample_id, prompt, chosen, rejected, document)
    chats = [_as_turns(row, name, "assistant") for name in names]
    turns = None
    if prompt_name is not None:
        turns = _as_turns(row, prompt_name, "user")
    _require_different(*chats)
    head, chosen_turns, rejected_turns = _split(turns, *chats)
    return Preference(sample_id, head, chosen_turns, rejected_turns, document)


def _split(
    prompt: list[Message] | None, chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """Parts what both answers begin with from where they differ."""
    shared = _num_shared(chosen, rejected)
    head = chosen[:shared]
    if not head:
        if prompt is None:
            raise _no_prompt("the two answers do not begin alike, and no column is the prompt")
        head = prompt
    elif prompt is not None and not _is_in(prompt, head):
        raise _no_prompt("the column for the prompt is not what the two answers begin with")
    answers = chosen[shared:], rejected[shared:]
    for answer in answers:
        if not answer or answer[0]["role"] != "assistant":
            raise RowFault(
                "no answer of the assistant",
                "an answer does not go on with a turn of the assistant behind the prompt",
                "Each answer must be what the assistant says to the same prompt.",
            )
    return head, *answers


def _num_shared(chosen: list[Message], rejected: list[Message]) -> int:
    shared = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        shared += 1
    # One may go on where the other ends: its last turns are the answer, not the prompt.
    return shared - 1 if shared and shared == min(len(chosen), len(rejected)) else shared


def _is_in(prompt: list[Message], head: list[Message]) -> bool:
    """Whether a prompt is the beginning, or the last turns, of what both answers begin with."""
    return prompt in (head[: len(prompt)], head[-len(prompt) :])


def _as_turns(row: Row, name: str, role: str) -> list[Message]:
    value = require_column(row, name)
    if _is_text(value):
        return [{"role": role, "content": read_text(row, name, may_be_empty=False)}]
    if isinstance(value, Mapping):
        value = [value]
    return read_turns(value, name)


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _require_different(chosen: str | Sequence[Message], rejected: str | Sequence[Message]) -> None:
    if chosen == rejected:
        raise RowFault(
            "two equal answers",
            "the chosen and the rejected answer are the same",
            "Leave out rows that prefer nothing.",
        )


def _no_prompt(found: str) -> RowFault:
    return RowFault(
        "no prompt", found, "Name the column in the source's arguments: `columns: {prompt: NAME}`."
    )
