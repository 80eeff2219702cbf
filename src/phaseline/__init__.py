"""Trains a model through several phases as one resumable session.

Importing this imports no torch: the names below are looked up when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phaseline.config.loading import load_config
    from phaseline.training_pipeline import TrainingPipeline

__version__ = "0.1.0"
__all__ = ["TrainingPipeline", "__version__", "load_config"]

_HOMES = {
    "TrainingPipeline": "phaseline.training_pipeline",
    "load_config": "phaseline.config.loading",
}


def __getattr__(name: str) -> object:
    """Imports a public name from where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module 'phaseline' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
