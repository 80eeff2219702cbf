"""A phase's lengths in steps, once its data and batch are known."""

from __future__ import annotations

from dataclasses import dataclass

from phaseline.config.sections import PhaseSection
from phaseline.errors import ConfigurationError, Fault
from phaseline.training.phases.learning_rate import LearningRate
from phaseline.training.phases.schedule import Schedule
from phaseline.units import NEVER, Duration


@dataclass(frozen=True, kw_only=True)
class PhasePlan:
    """What happens at which step of a phase.

    Attributes:
        num_steps: Optimizer steps in the phase.
        tokens_per_step: Tokens that one optimizer step consumes.
        learning_rate: Of every update.
        validation: When held-out data is looked at.
        checkpoint: At which steps state is saved.
        checkpoint_s: Wall time between two saves, seconds; None: steps alone decide.
        reading: When metrics are read from the device.
        keep_every_steps: One checkpoint of every so many steps is kept; 0: none.
    """

    num_steps: int
    tokens_per_step: int
    learning_rate: LearningRate
    validation: Schedule
    checkpoint: Schedule
    reading: Schedule
    keep_every_steps: int = 0
    checkpoint_s: float | None = None

    def require_not_over(self, step: int, *, path: str) -> None:
        """Raises if more steps are done than the phase has: somebody shortened it too far.

        Raises:
            ConfigurationError: The phase's length is passed.
        """
        if step > self.num_steps:
            problem = (
                f"comes to {self.num_steps} steps, and {step} are done; it must be at least that"
            )
            raise ConfigurationError(
                [Fault(f"{path}.duration", "", problem, "Lengthen it, or put it back.")]
            )

    @classmethod
    def derive(
        cls,
        phase: PhaseSection,
        *,
        tokens_per_step: int,
        steps_per_epoch: float | None,
        interval_steps: int,
    ) -> PhasePlan:
        """Turns a phase's durations into steps.

        Args:
            phase: The phase's section.
            tokens_per_step: Tokens in a global batch.
            steps_per_epoch: Steps in one pass over the data; None for a mixture.
            interval_steps: Steps between two readings of the metrics.

        Raises:
            ConfigurationError: Warm-up and decay do not fit into the phase.
        """

        def steps(duration: Duration | None) -> int:
            if duration is None:
                return 0
            return duration.steps(
                tokens_per_step=tokens_per_step, steps_per_epoch=steps_per_epoch or 1.0
            )

        num_steps = steps(phase.duration)
        warmup_steps, decay_steps = steps(phase.schedule.warmup), steps(phase.schedule.decay)
        falls = phase.schedule.name in ("linear", "cosine")
        if warmup_steps + decay_steps + int(falls) > num_steps:
            raise ConfigurationError(
                [
                    Fault(
                        f"phases[{phase.name}].schedule",
                        "",
                        f"warms up for {warmup_steps} steps and decays for {decay_steps}, but the "
                        f"phase has {num_steps}; warm-up must end before the phase does",
                        "Shorten them, or lengthen `duration`.",
                    )
                ]
            )
        return cls(
            num_steps=num_steps,
            tokens_per_step=tokens_per_step,
            learning_rate=LearningRate(
                shape=phase.schedule.name,
                peak=phase.optimizer.lr,
                num_steps=num_steps,
                warmup_steps=warmup_steps,
                decay_steps=decay_steps,
                final_frac=phase.schedule.final_lr_frac,
            ),
            validation=Schedule(steps(phase.evaluate.every) or None),
            checkpoint=Schedule(steps((phase.checkpoint.every or NEVER).length) or None),
            checkpoint_s=(phase.checkpoint.every or NEVER).seconds,
            reading=Schedule(interval_steps),
            keep_every_steps=steps(phase.checkpoint.keep_every),
        )
