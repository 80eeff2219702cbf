"""Models whose modules hold on to their parameters in ways of their own."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch.nn.utils import parametrizations, parametrize, weight_norm

WIDTH = 4


class Around(torch.nn.Module):
    """A module between tied embeddings."""

    def __init__(self, part: torch.nn.Module) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(11, WIDTH)
        self.part = part
        self.head = torch.nn.Linear(WIDTH, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.part(self.embed(ids))
        logits: torch.Tensor = self.head(hidden[0] if isinstance(hidden, tuple) else hidden)
        return logits


class Remembered(torch.nn.Module):
    """Weak references made before and after the parameter is registered."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.nn.Parameter(torch.empty(WIDTH, WIDTH))
        early = weakref.ref(weight)
        self.weight = weight
        self.known = [early, weakref.ref(weight)]
        torch.nn.init.normal_(self.weight)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        first, second = (reference() for reference in self.known)
        assert first is self.weight
        assert second is self.weight
        return hidden @ first


class Viewed(torch.nn.Module):
    """Two views of one flat parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = torch.nn.Parameter(torch.empty(2 * WIDTH))
        torch.nn.init.normal_(self.flat)
        self.halves = list(self.flat.detach().view(2, WIDTH).unbind())

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden * self.halves[0] + self.halves[1] + 0 * self.flat.sum()


class Projected(torch.nn.Module):
    """A random matrix that no checkpoint holds, drawn after the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Linear(WIDTH, WIDTH)
        self.register_buffer("drawn", torch.randn(WIDTH, WIDTH), persistent=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.mix(hidden) @ self.get_buffer("drawn")
        return projected


class Summed(torch.nn.Module):
    """Reads a parameter's values while it is built."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Linear(WIDTH, WIDTH)
        self.width = int(self.mix.weight.detach().isfinite().sum()) // WIDTH

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.mix(hidden[..., : self.width])
        return mixed


class Positive(torch.nn.Module):
    """A parametrization of the user's own, without a way back."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.exp()


def positive() -> torch.nn.Module:
    part = torch.nn.Linear(WIDTH, WIDTH)
    parametrize.register_parametrization(part, "weight", Positive())
    return part


def linear() -> torch.nn.Linear:
    return torch.nn.Linear(WIDTH, WIDTH)


PARTS: dict[str, Callable[[], torch.nn.Module]] = {
    "gru": lambda: torch.nn.GRU(WIDTH, WIDTH, num_layers=2, batch_first=True),
    "lstm": lambda: torch.nn.LSTM(
        WIDTH, WIDTH, batch_first=True, bidirectional=True, proj_size=WIDTH // 2
    ),
    "rnn": lambda: torch.nn.RNN(WIDTH, WIDTH, batch_first=True, bias=False),
    "weak references": Remembered,
    "weight norm": lambda: parametrizations.weight_norm(linear()),
    "weight norm by hooks": lambda: weight_norm(linear()),
    "spectral norm": lambda: parametrizations.spectral_norm(linear()),
    "spectral norm by hooks": lambda: torch.nn.utils.spectral_norm(linear()),
    "orthogonal": lambda: parametrizations.orthogonal(linear()),
    "own parametrization": positive,
    "views": Viewed,
    "random projection": Projected,
    "reads its weights": Summed,
}


def model_with(part: str, seed: int) -> Around:
    """A model in evaluation mode, as it is built from a seed."""
    torch.manual_seed(seed)
    return Around(PARTS[part]()).eval()
