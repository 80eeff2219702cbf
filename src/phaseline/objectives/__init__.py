"""What a phase minimises: one file each, behind one small Protocol."""

from phaseline.objectives.base import Objective
from phaseline.objectives.build import build_objective, require_shape

__all__ = ["Objective", "build_objective", "require_shape"]
