"""What a model of transformers says of its trunk: known to who adapts it and who reads it."""

from __future__ import annotations

import torch


def trunk_prefix(module: torch.nn.Module) -> str:
    """What the names of everything but the head begin with, as `model.`.

    Empty for a model of one's own, which says nothing of it.
    """
    name = getattr(module, "base_model_prefix", "")
    return f"{name}." if name and hasattr(module, name) else ""
