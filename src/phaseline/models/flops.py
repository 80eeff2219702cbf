"""Floating-point operations that training on one token takes, for the model's own arithmetic."""

from __future__ import annotations

from typing import Any

import torch

from phaseline.distributed.engines.base import whole_shape

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_FORWARD, _INPUT_GRADIENT, _WEIGHT_GRADIENT = 2, 2, 2
_FORWARD_AND_BACKWARD = 12


def flops_per_token(module: torch.nn.Module, sequence_length: int) -> float | None:
    """Counts forward and backward per token; None where the model does not say enough.

    `6 N + 12 L H Q T`: N weights that take part in a matrix product, L layers of H heads of
    size Q that each see T tokens. A look-up in an embedding is no product; a tied output layer
    is one. A frozen weight costs 4, as it gets no gradient of its own. Half of what causal
    attention computes is masked and counted all the same, and recomputed activations are not
    counted, both by convention, so that figures can be compared.

    A module of your own may have a method `flops_per_token(sequence_length)`, which decides.

    **Source:** PaLM (arXiv:2204.02311), appendix B; the embedding and the masked half as in
    torchtitan and nanoGPT.

    Args:
        module: The bare model.
        sequence_length: Tokens per sequence.
    """
    own = getattr(module, "flops_per_token", None)
    if callable(own):
        return float(own(sequence_length))
    attention = _attention(getattr(module, "config", None), sequence_length)
    return None if attention is None else _products(module) + attention


def _products(module: torch.nn.Module) -> float:
    looked_up = {
        id(layer.weight) for layer in module.modules() if isinstance(layer, torch.nn.Embedding)
    }
    output = getattr(module, "get_output_embeddings", lambda: None)()
    tied = None if output is None else id(output.weight)
    total = 0.0
    for parameter in module.parameters():
        shape = torch.Size(whole_shape(parameter))
        if len(shape) < 2 or (id(parameter) in looked_up and id(parameter) != tied):
            continue
        weight_gradient = _WEIGHT_GRADIENT if parameter.requires_grad else 0
        total += (_FORWARD + _INPUT_GRADIENT + weight_gradient) * shape.numel()
    return total


def _attention(config: Any, sequence_length: int) -> float | None:
    """None for architectures that the formula is not about: experts, recurrence, encoders."""
    heads, layers, width = (
        _number(config, name)
        for name in ("num_attention_heads", "num_hidden_layers", "hidden_size")
    )
    has_experts = any(_number(config, name) > 1 for name in _EXPERTS)
    if not heads * layers * width or has_experts or getattr(config, "is_encoder_decoder", False):
        return None
    head_size = _number(config, "head_dim") or width // heads
    window = min(_number(config, "sliding_window") or sequence_length, sequence_length)
    usual = "full_attention" if window == sequence_length else "sliding_attention"
    kinds = list(getattr(config, "layer_types", None) or [usual] * layers)
    seen = {"full_attention": sequence_length, "sliding_attention": window}
    if not set(kinds) <= set(seen):
        return None
    return float(_FORWARD_AND_BACKWARD * heads * head_size * sum(seen[kind] for kind in kinds))


def _number(config: Any, name: str) -> int:
    """0 where the configuration has none; some hold None, some a list per layer."""
    value = getattr(config, name, None)
    return value if isinstance(value, int) else 0
