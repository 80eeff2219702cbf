"""A folder that plain transformers loads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def export_model(
    module: torch.nn.Module, folder: Path, *, save_tokenizer: Callable[[Path], None]
) -> None:
    """Writes a model and its tokenizer aside and puts the folder in place at once.

    A module that transformers does not know is saved as its weights alone.

    Args:
        module: The bare module, on the CPU.
        folder: Where it goes; one that is there is replaced.
        save_tokenizer: Writes the tokenizer's files into a folder.
    """
    aside = folder.with_name(f".aside-{folder.name}-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save: Any = getattr(module, "save_pretrained", None)
    if save is not None:
        save(aside)
    else:
        from safetensors.torch import save_model

        save_model(module, str(aside / "model.safetensors"))
    save_tokenizer(aside)
    if folder.exists():
        shutil.rmtree(folder)
    aside.rename(folder)
