"""A vocabulary whose special tokens cannot be spelt by any text.

In it every special token has another name, made of characters that Unicode keeps for programs.
A text that spells `<eos>` is then a text like any other, and a chat template's own special
tokens are renamed before the whole is encoded at once. The library's own switch
(`encode_special_tokens`) is not enough: a Unigram model finds the token in its vocabulary, and
it is all or nothing for a text.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Backend

if TYPE_CHECKING:
    from collections.abc import Mapping

RESERVED = ("\ufdd0", "\ufdd1", "\ufdd2")
"""Noncharacters: the first two enclose a special token's number, the third interrupts one."""

_OPEN, _CLOSE, _BREAK = RESERVED


class SealedVocabulary:
    """Two forms of a tokenizer: one that sees marked special tokens, and one that sees none.

    Attributes:
        names_by_id: What each special token is called outside.
    """

    def __init__(self, backend: Backend, more_special: Mapping[int, str]) -> None:
        """Finds the special tokens.

        Args:
            backend: The tokenizer as it is outside; it is not changed.
            more_special: Tokens that are special even if the tokenizer does not say so, by id.
        """
        self._backend = backend
        self.names_by_id = {
            token_id: token.content
            for token_id, token in backend.get_added_tokens_decoder().items()
            if token.special
        } | dict(more_special)
        names = sorted(self.names_by_id.values(), key=len, reverse=True)
        self._spelt = re.compile("|".join(map(re.escape, names)))
        # A token of one character cannot be interrupted inside, so it is in front.
        self._unbroken = re.compile(f"(?<!{_BREAK})(?:{self._spelt.pattern})")
        self._marks = {name: _mark(token_id) for token_id, name in self.names_by_id.items()}

    def shield(self, text: str) -> str:
        """Interrupts every special token that the text spells."""
        return self._spelt.sub(_interrupt, text)

    def mark(self, text: str) -> str:
        """Renames the special tokens that are not interrupted, and takes the breaks out."""
        marked = self._unbroken.sub(lambda match: self._marks[match[0]], text)
        return marked.replace(_BREAK, "")

    @cached_property
    def marked(self) -> Backend:
        """Encodes marked special tokens as what they are."""
        return Backend.from_str(self._renamed())

    @cached_property
    def plain(self) -> Backend:
        """Encodes everything as text, marks included."""
        backend = Backend.from_str(self._renamed())
        backend.encode_special_tokens = True
        return backend

    def _renamed(self) -> str:
        content: dict[str, Any] = json.loads(self._backend.to_str())
        # It frames a text with special tokens, by their names; frames are written here.
        content["post_processor"] = None
        known = {entry["content"] for entry in content["added_tokens"]}
        for entry in content["added_tokens"]:
            entry["content"] = self._marks.get(entry["content"], entry["content"])
            entry["special"] = entry["special"] or entry["content"].startswith(_OPEN)
        model = content["model"]
        model["vocab"] = _rename_vocabulary(model["vocab"], self._marks)
        if isinstance(model.get("unk_token"), str):
            model["unk_token"] = self._marks.get(model["unk_token"], model["unk_token"])
        content["added_tokens"] += [
            _added(token_id, self._marks[name])
            for token_id, name in sorted(self.names_by_id.items())
            if name not in known
        ]
        return json.dumps(content)


def _interrupt(match: re.Match[str]) -> str:
    token = match[0]
    return f"{token[0]}{_BREAK}{token[1:]}" if len(token) > 1 else f"{_BREAK}{token}"


def _mark(token_id: int) -> str:
    return f"{_OPEN}{token_id}{_CLOSE}"


def _rename_vocabulary(vocabulary: Any, marks: dict[str, str]) -> Any:
    """A vocabulary is a mapping to ids, or in Unigram models a list of tokens with scores."""
    if isinstance(vocabulary, dict):
        return {marks.get(token, token): token_id for token, token_id in vocabulary.items()}
    return [[marks.get(token, token), score] for token, score in vocabulary]


def _added(token_id: int, content: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token_id, "content": content, **flags, "special": True}
