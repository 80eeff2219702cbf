"""The teacher of a phase that distils, as far as the configuration says it."""

from __future__ import annotations

from collections.abc import Iterator

from phaseline.config.checks.finding import Finding, Place
from phaseline.config.checks.names import phase_is_before
from phaseline.config.inheritance import WORDS_FOR_WEIGHTS, teacher_of, teacher_phase


def teacher_says_which(place: Place) -> Iterator[Finding]:
    """Words that stand for what a phase starts from stand for no teacher."""
    teacher = teacher_of(place.phase)
    if teacher in WORDS_FOR_WEIGHTS:
        yield Finding(
            place.loc("objective_arguments", "teacher"),
            f"is {teacher!r}, which names no teacher; it must be phase:NAME, hub:NAME, a Hugging "
            "Face folder, SESSION#PHASE or a checkpoint",
            "Name the phase, as phase:pretrain, or the folder.",
        )


def teacher_is_trained_before(place: Place) -> Iterator[Finding]:
    """A phase teaches once it is finished."""
    teacher = teacher_of(place.phase)
    name = None if teacher is None else teacher_phase(teacher)
    if name is not None:
        yield from phase_is_before(
            place,
            ("objective_arguments", "teacher"),
            teacher,
            name,
            fix_of_first="Take a teacher from outside: the first phase has none before it.",
        )


def distillation_has_logits(place: Place) -> Iterator[Finding]:
    """What the teacher predicts is compared with all that the student predicts."""
    if place.phase.objective == "distillation" and place.phase.engine.linear_cross_entropy:
        yield Finding(
            place.loc("engine", "linear_cross_entropy"),
            "is true, but distillation compares logits, which would not exist",
            "Set it to false in this phase.",
        )
