"""The phases' runtimes, for what the pipeline does with one."""

from unit.training.phases.conftest import maker

__all__ = ["maker"]
