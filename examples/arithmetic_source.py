"""A data source of pairs: sums to be learnt by fine-tuning.

session: {name: sums}
model:
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
           num_attention_heads: 2, max_position_embeddings: 32}
phases:
  - name: sums
    objective: sft
    duration: 20 steps
    data:
      source: arithmetic_source:Sums
      arguments: {largest: 12}
      sequence_length: 32
      held_out_frac: 0.1
    batch: {global_size: 8, micro_size: 8}
    optimizer: {lr: 1e-2}
    engine: {kind: plain}
"""

from __future__ import annotations

from collections.abc import Iterator

from phaseline.data.sources import Pair


class Sums:
    """Every sum of two numbers up to a largest one."""

    shape = "pairs"

    def __init__(self, largest: int) -> None:
        """Takes `arguments` of the source.

        Args:
            largest: The largest number that is added.
        """
        self._largest = largest

    def fingerprint(self) -> str:
        """Equal if and only if `samples` yields the same: prepared data is kept under it."""
        return f"sums-1-{self._largest}"

    def samples(self) -> Iterator[Pair]:
        """Yields prompt and completion; the prompt is read, the completion is learnt."""
        for left in range(self._largest + 1):
            for right in range(self._largest + 1):
                prompt = f"{left} + {right} = "
                yield Pair(id=prompt, prompt=prompt, completion=str(left + right))
