"""An optimizer: steps of one size in the direction of the momentum's signs.

session: {name: signs}
model:
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
           num_attention_heads: 2, max_position_embeddings: 32}
phases:
  - name: signs
    objective: causal_lm
    duration: 20 steps
    data: {source: python_stdlib, arguments: {packages: [json]}, sequence_length: 32}
    batch: {global_size: 8, micro_size: 8}
    optimizer: {name: "signed_momentum:SignedMomentum", lr: 3e-3, arguments: {momentum: 0.9}}
    engine: {kind: plain}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class SignedMomentum(torch.optim.Optimizer):
    """SignSGD with momentum. Source: Bernstein et al., 2018, algorithm 1 ("Signum").

    State that is shaped like a parameter is divided over ranks and saved as AdamW's is;
    numbers beside it (`step`) are kept too.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        """Takes groups, the peak rate and `optimizer.arguments`.

        Args:
            params: Groups, each with its `weight_decay`.
            lr: Learning rate; the loop sets it before every step.
            momentum: Share of the old direction that is kept.
            weight_decay: Of groups that say none.
        """
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # never a closure
        """Updates every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "direction" not in state:
                    state["direction"] = torch.zeros_like(parameter)
                state["direction"].lerp_(parameter.grad, 1 - group["momentum"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(state["direction"].sign(), alpha=-group["lr"])
