"""A trained phase that writes what somebody asks of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from phaseline.data.tokenizer import Tokenizer
from phaseline.errors import UsageError
from phaseline.models.generation import Coder, generate, most_new_tokens
from phaseline.training.pipeline.trained_phase import TrainedPhase


class Talk:
    """Continues texts, or answers the turns of a dialogue as the chat template writes them."""

    def __init__(
        self,
        trained: TrainedPhase,
        *,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        is_chat: bool | None = None,
    ) -> None:
        """Loads the model onto a GPU if there is one.

        Args:
            trained: The checkpoint, and what it is of.
            max_new_tokens: Tokens per answer, at most.
            temperature: 0 takes the most likely token.
            seed: Of what is drawn.
            is_chat: Whether a text is a turn of a dialogue; None: if it was trained on chats.

        Raises:
            UsageError: The model cannot write, or a dialogue is wanted without a chat template.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._module = trained.load_model(device)
        if not hasattr(self._module, "generate"):
            raise UsageError(
                f"{trained.phase} trains a {type(self._module).__name__}, which has no `generate`. "
                "Only models of transformers can be sampled."
            )
        self._trained = trained
        most = most_new_tokens(self._module)
        self.shortened = ""
        """That less is written than was asked for; empty if it is not so."""
        if most is not None and max_new_tokens > most:
            self.shortened = (
                f"At most {most} tokens are written, not {max_new_tokens}: the model has {most + 1} "
                "positions, and the text that is continued takes one at least."
            )
            max_new_tokens = most
        self._generate = partial(
            generate,
            self._module,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )
        is_chat = trained.has_learnt_chats() if is_chat is None else is_chat
        self._chat = _chat_tokenizer(trained) if is_chat else None
        self._turns: list[dict[str, str]] = []
        self._num_answers = 0

    @property
    def title(self) -> str:
        """What is talking, in words."""
        how = "continues what you write" if self._chat is None else "answers"
        return f"{self._trained.phase} at step {self._trained.manifest.phase_step} {how}"

    def answer(self, text: str) -> str:
        """What the model writes after a text, or as the answer to it.

        Raises:
            UsageError: The chat template refuses the dialogue.
        """
        coder: Coder = self._trained.tokenizer
        prompt = text
        if self._chat is not None:
            self._turns.append({"role": "user", "content": text})
            prompt = self._written(self._chat)
            coder = _ChatCoder(self._trained.tokenizer, self._chat)
        # Drawn from its own index, so that an answer does not depend on how long others were.
        [found] = self._generate(coder, [(self._num_answers, prompt)])
        self._num_answers += 1
        self._turns.append({"role": "assistant", "content": found.completion})
        return found.completion

    def _written(self, chat: Any) -> str:
        """The dialogue as the chat template writes it, up to where the answer begins."""
        from jinja2 import TemplateError

        try:
            text: str = chat.apply_chat_template(
                self._turns, tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            raise UsageError(
                f"The chat template of the session at {self._trained.layout.root} cannot write "
                f"this dialogue: {error}. Give --no-chat to have a text continued."
            ) from error
        return text


class _ChatCoder:
    """Encodes what a template wrote: there the names of special tokens are those tokens."""

    def __init__(self, tokenizer: Tokenizer, chat: Any) -> None:
        self.eos_id, self.pad_id = tokenizer.eos_id, tokenizer.pad_id
        self.decode = tokenizer.decode
        self._chat = chat

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._chat.encode(text, add_special_tokens=False)
        return ids


def _chat_tokenizer(trained: TrainedPhase) -> Any:
    """transformers' tokenizer of the session, with its chat template."""
    if trained.tokenizer.settings.chat_template is None:
        raise UsageError(
            f"--chat needs a chat template, and the tokenizer of the session at "
            f"{trained.layout.root} has none. Leave --chat out to have a text continued."
        )
    with TemporaryDirectory() as folder:
        trained.tokenizer.save(Path(folder))
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except (ImportError, OSError, ValueError) as error:
            raise UsageError(
                f"The tokenizer of the session at {trained.layout.root} cannot be read by "
                f"transformers without code of its own: {str(error).splitlines()[0]} Give "
                "--no-chat to have a text continued."
            ) from error
