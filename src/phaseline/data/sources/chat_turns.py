"""Turns of chats: checked, and brought from ShareGPT's form into the usual one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from phaseline.data.sources.problems import RowFault
from phaseline.data.sources.values import require_utf8

if TYPE_CHECKING:
    from phaseline.data.sources.protocol import Message

ROLES = ("system", "developer", "user", "assistant", "tool")

_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "function_response": "tool",
    "function": "tool",
    "observation": "tool",
}
_FIX_FORM = (
    "Messages must be a list of {role, content}, or of ShareGPT's {from, value}, with the roles "
    f"{', '.join(ROLES)}."
)


def read_turns(value: object, name: str) -> list[Message]:
    """Reads a list of turns.

    Args:
        value: What stands in the column.
        name: Of the column.

    Raises:
        RowFault: It is no list of turns.
    """
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise RowFault(
            "no list of messages",
            f"the column {name!r} holds {type(value).__name__}, not a list of messages",
            _FIX_FORM,
        )
    if not value:
        raise RowFault("no messages", f"the column {name!r} holds an empty list", _FIX_FORM)
    return [_read_turn(turn, f"{name}[{idx}]") for idx, turn in enumerate(value)]


def require_assistant(turns: Sequence[Message], name: str) -> None:
    """Raises RowFault if nothing in the turns is learnt."""
    if not any(turn["role"] == "assistant" for turn in turns):
        roles = ", ".join(turn["role"] for turn in turns)
        raise RowFault(
            "no assistant turn",
            f"the column {name!r} has no turn of the assistant, only {roles}",
            "Only what the assistant says is learnt; leave out chats without it.",
        )


def _read_turn(turn: object, place: str) -> Message:
    if not isinstance(turn, Mapping):
        raise RowFault(
            "a message is no object", f"{place} is {type(turn).__name__}, no object", _FIX_FORM
        )
    # Arrow gives every turn all keys that any turn has, those without a value as None.
    message = {key: value for key, value in turn.items() if value is not None}
    if "role" not in message and "from" in message:
        speaker = str(message.pop("from")).lower()
        message["role"] = _SHAREGPT_ROLES.get(speaker, speaker)
        message["content"] = message.pop("value", None)
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise RowFault("unknown role", f"{place} has the role {role!r}", _FIX_FORM)
    if content is None and role == "assistant" and message.get("tool_calls"):
        return {**message, "content": ""}
    if not isinstance(content, str):
        kind = "no content" if content is None else f"{type(content).__name__} as content"
        raise RowFault("a message without text", f"{place} has {kind}, not a text", _FIX_FORM)
    require_utf8(content, place)
    return message
