"""An objective: cross entropy that counts little what the model knows already.

session: {name: focal}
model:
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
           num_attention_heads: 2, max_position_embeddings: 32}
phases:
  - name: focused
    objective: focal_objective:FocalLoss
    duration: 20 steps
    data: {source: python_stdlib, arguments: {packages: [json]}, sequence_length: 32}
    batch: {global_size: 8, micro_size: 8}
    optimizer: {lr: 1e-2}
    engine: {kind: plain}
"""

from __future__ import annotations

import torch

from phaseline.objectives.base import TokenBatch, TokenObjective
from phaseline.objectives.token_loss import token_cross_entropy

_FOCUS = 2.0


class FocalLoss(TokenObjective):
    """Scales a target's loss by how far it is from certain.

    Source: Lin et al., "Focal Loss for Dense Object Detection", 2017, equation 4.
    """

    name = "focal"

    def token_losses(self, model: torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
        """Returns the loss of every target, 0 where there is none. [batch, sequence]"""
        losses = token_cross_entropy(model, batch)
        probability = torch.exp(-losses)
        return losses * (1 - probability) ** _FOCUS
