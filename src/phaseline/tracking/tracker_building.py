"""Trackers by their names; a library is imported for the one that is asked for alone."""

from __future__ import annotations

from phaseline.config.plugins import load_attribute
from phaseline.tracking.tracker import TENSORBOARD, WANDB, Tracker


def build_tracker(name: str) -> Tracker:
    """Makes a tracker by its name; only then is its library imported."""
    if name == WANDB:
        from phaseline.tracking.wandb_run import WandbRun

        return WandbRun()
    if name == TENSORBOARD:
        from phaseline.tracking.tensorboard_files import TensorBoardFiles

        return TensorBoardFiles()
    made: Tracker = load_attribute(name, path="tracking.trackers")()
    return made
