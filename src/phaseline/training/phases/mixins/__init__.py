"""Small verbs that training and validation share, over one typed runtime."""

from phaseline.training.phases.mixins.component_setup import ComponentSetupMixin
from phaseline.training.phases.mixins.host import PhaseHost
from phaseline.training.phases.mixins.metrics import MetricsMixin
from phaseline.training.phases.mixins.progress import ProgressMixin

__all__ = ["ComponentSetupMixin", "MetricsMixin", "PhaseHost", "ProgressMixin"]
