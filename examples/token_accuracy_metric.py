"""A metric: how often the token that came was the likeliest one, or among the likeliest five.

session: {name: accuracy}
model:
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
           num_attention_heads: 2, max_position_embeddings: 32}
phases:
  - name: measured
    objective: causal_lm
    duration: 20 steps
    data: {source: python_stdlib, arguments: {packages: [json]}, sequence_length: 32,
           held_out_frac: 0.3}
    batch: {global_size: 8, micro_size: 8}
    optimizer: {lr: 1e-2}
    engine: {kind: plain}
    evaluate: {every: 10 steps, metrics: [token_accuracy_metric:TokenAccuracy]}
    checkpoint: {keep_best: {metric: token_accuracy, mode: max}}
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from phaseline.objectives.validation_metric import Seen

_MOST = 5


class TokenAccuracy:
    """Shares of the held-out targets; each counts once, whatever the batches and ranks."""

    name = "token_accuracy"
    measures = ("first", "among", "counted")
    needs_logits = True

    def sums(self, seen: Seen) -> torch.Tensor:
        """Returns how many targets were hit, in the first place or among several. [3]"""
        assert seen.logits is not None
        hits = seen.logits.topk(_MOST, dim=-1).indices == seen.tokens.targets.unsqueeze(-1)
        hits = hits & seen.is_unit.unsqueeze(-1)
        return torch.stack([hits[..., 0].sum(), hits.sum(), seen.is_unit.sum()])

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Returns both shares."""
        return {
            "token_accuracy": sums["first"] / sums["counted"],
            f"token_accuracy_top_{_MOST}": sums["among"] / sums["counted"],
        }
