"""A scalar head on the trunk of a language model: a reward at every position of every row."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from phaseline.errors import ConfigurationError, Fault


def answer_with_rewards(module: torch.nn.Module, *, path: str) -> None:
    """Lets a sequence classifier of transformers answer with a reward for every position.

    Its own forward gives one position per row, which rows of several answers do not allow. No
    parameter changes its name, so that transformers loads what is exported.

    Args:
        module: The bare module, with one label; changed in place.
        path: The model's place in the configuration, for messages.

    Raises:
        ConfigurationError: Its head is not a linear layer on the hidden states of a trunk.
    """
    known: Any = module
    head = getattr(module, "score", None)
    trunk = getattr(module, str(getattr(known, "base_model_prefix", "")), None)
    if type(head) is not torch.nn.Linear or not isinstance(trunk, torch.nn.Module):
        raise ConfigurationError(
            [
                Fault(
                    path,
                    "",
                    f"gives a {type(module).__name__}, whose head is not a linear layer called "
                    "`score` on the hidden states of each position, as reward_model needs it",
                    "Take a decoder of transformers, as llama or qwen2, or a model of your own "
                    "that returns a reward for every position.",
                )
            ]
        )
    module.__class__ = _rewarding(type(module))  # type: ignore[arg-type]  # torch types its hash by itself


@cache
def _rewarding(known: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """A class that is called as the one that it extends: exports name it."""

    def forward(
        self: Any, input_ids: torch.Tensor, position_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        trunk = getattr(self, self.base_model_prefix)
        found = trunk(input_ids=input_ids, position_ids=position_ids, use_cache=False)
        rewards: torch.Tensor = self.score(found.last_hidden_state).squeeze(-1)
        return rewards

    members = {"forward": forward, "__module__": known.__module__}
    return type(known.__name__, (known,), members)
