"""What runs underneath the loop: accelerate alone, or DeepSpeed's ZeRO through it."""

from phaseline.distributed.engines.base import Engine, EngineSettings, StateFragment, StepReport
from phaseline.distributed.engines.build import build_engine

__all__ = ["Engine", "EngineSettings", "StateFragment", "StepReport", "build_engine"]
