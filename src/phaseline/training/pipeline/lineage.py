"""The checkpoints that a phase began from, as its own checkpoints name them."""

from __future__ import annotations

from pathlib import Path

from phaseline.checkpoint.manifest import Manifest, Parent
from phaseline.training.pipeline.resume_point import ResumePoint


def parents_of(phase: str, point: ResumePoint | None, weights: Path | None) -> tuple[Parent, ...]:
    """The parents of a phase; none of the first one.

    Args:
        phase: Name of the phase.
        point: What the session goes on from: a checkpoint of the phase, which knows, or the last
            one of the phase before it.
        weights: The checkpoint of a phase of this session whose weights it takes; None: it takes
            none of those.
    """
    if point is not None and point.manifest.phase == phase:
        return point.manifest.parents
    manifests = [] if point is None else [point.manifest]
    if weights is not None:
        manifests.append(Manifest.load(weights))
    parents = [Parent(one.phase, one.run, one.identity) for one in manifests]
    return tuple(dict.fromkeys(parents))
