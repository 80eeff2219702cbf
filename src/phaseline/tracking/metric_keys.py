"""Every metric that Phaseline records: its key, its unit and what it says.

A key is `<phase>/<group>/<name>`. Those under `metrics` of a record are the same bits in every
run of a session; those under `timing` were measured, and differ from run to run.
"""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """One metric.

    Attributes:
        group: train, validation, samples or memory.
        name: Unique in its group; `A` and `B` in it stand for numbers, `SOURCE`
            for the name of a data source.
        unit: Of its value; "1" for a number without one, as a share.
        meaning: What it says.
        is_timing: Whether it was measured and differs from run to run.
        objective: The objectives that have it; empty: all.
    """

    group: str
    name: str
    unit: str
    meaning: str
    is_timing: bool = False
    objective: str = ""

    def key(self, phase: str, *, source: str = "") -> str:
        """As it stands in a record; one that is measured of each source needs its name."""
        return f"{phase}/{self.group}/{self.name.replace('SOURCE', source)}"


def _measured(group: str, name: str, unit: str, meaning: str) -> Metric:
    return Metric(group, name, unit, meaning, is_timing=True)


LOSS = Metric("train", "loss", "nats", "Mean over all targets of the step's global batch.")
LR = Metric("train", "lr", "1", "Learning rate that the update used.")
WEIGHT_DECAY = Metric(
    "train", "weight_decay", "1", "Weight decay of the parameters that are decayed."
)
GRAD_NORM = Metric("train", "grad_norm", "1", "2-norm of the whole gradient before clipping.")
SKIPPED = Metric("train", "skipped", "1", "1 if the update was left out, else 0.")
SKIPPED_STEPS = Metric("train", "skipped_steps", "steps", "Updates of the phase left out so far.")
LOSS_OF = Metric("train", "loss_SOURCE", "nats", "Mean over one source's targets, in a mixture.")
EPOCHS = Metric("train", "epochs", "1", "How often the phase has gone through its source.")
EPOCHS_OF = Metric("train", "epochs_SOURCE", "1", "The same of each source of a mixture.")
CROSS_ENTROPY = Metric(
    "train",
    "cross_entropy",
    "nats",
    "Mean negative log-likelihood of the targets; of `distillation`.",
    objective="distillation",
)
KL = Metric(
    "train",
    "kl",
    "nats",
    "Mean divergence between teacher and student at the temperature; of `distillation`.",
    objective="distillation",
)

STEP_S = _measured(
    "train",
    "step_s",
    "s",
    "Wall time per step since the last reading, without evaluation and save stalls.",
)
TOKENS_PER_S = _measured(
    "train", "tokens_per_s", "tokens/s", "Tokens of a global batch over `step_s`, all ranks."
)
TOKENS_PER_S_PER_DEVICE = _measured(
    "train", "tokens_per_s_per_device", "tokens/s", "The same over the number of ranks."
)
SAMPLES_PER_S = _measured(
    "train", "samples_per_s", "samples/s", "Rows of a global batch over `step_s`, all ranks."
)
MFU = _measured(
    "train",
    "mfu",
    "1",
    "Share of the devices' peak that the model's arithmetic uses; absent if the peak or the "
    "arithmetic is not known, as on a CPU.",
)
DATA_WAIT_S = _measured(
    "train", "data_wait_s", "s", "Waiting for batches per step, on the rank that waited most."
)
SAVE_STALL_S = _measured(
    "train",
    "save_stall_s",
    "s",
    "Waiting for saves since the last reading, on the rank that waited most.",
)
SAVE_STALL_FRAC = _measured(
    "train",
    "save_stall_frac",
    "1",
    "Share of the wall time since this process began the phase that saves cost the main rank.",
)
EVALUATION_S = _measured(
    "train", "evaluation_s", "s", "Validation since the last reading, on the slowest rank."
)
PHASE_LEFT_S = _measured(
    "train", "phase_left_s", "s", "Time to the end of the phase, as it was estimated then."
)
SESSION_LEFT_S = _measured(
    "train", "session_left_s", "s", "Time to the end of the session, as it was estimated then."
)

DEVICE_PEAK_BYTES = _measured(
    "memory",
    "device_peak_bytes",
    "bytes",
    "Most that tensors took on a device at once since the last reading, on the fullest; absent "
    "on CPUs.",
)
DEVICE_RESERVED_BYTES = _measured(
    "memory",
    "device_reserved_bytes",
    "bytes",
    "What torch holds of a device's memory, on the fullest; absent on CPUs.",
)
HOST_BYTES = _measured(
    "memory", "host_bytes", "bytes", "Resident memory of the largest rank, at most a second old."
)

VALIDATION_LOSS = Metric("validation", "loss", "nats", "Mean over all held-out targets.")
VALIDATION_LOSS_OF = Metric(
    "validation", "loss_SOURCE", "nats", "Mean over one source's targets, in a mixture."
)
PERPLEXITY = Metric(
    "validation", "perplexity", "1", "e to the cross entropy; of objectives of tokens."
)
BITS_PER_BYTE = Metric(
    "validation",
    "bits_per_byte",
    "bits/byte",
    "Cross entropy per byte of text, whatever the tokens.",
)
VALIDATION_CROSS_ENTROPY = CROSS_ENTROPY._replace(group="validation")
VALIDATION_KL = KL._replace(group="validation")
LOSS_AT = Metric(
    "validation",
    "loss_at_A_to_B",
    "nats",
    "Mean over targets at positions A to B, for each of `evaluate.position_ranges`.",
)
VALIDATION_S = _measured("validation", "duration_s", "s", "What the validation took.")
CALIBRATION_ERROR = Metric(
    "validation",
    "calibration_error",
    "1",
    "Expected calibration error: by how much the confidence differs from the accuracy, over 15 "
    "equal bins of confidence.",
    objective="classification",
)
SAMPLES_COUNT = Metric("samples", "count", "1", "Texts that were generated.")
PYTHON_VALID_FRAC = Metric(
    "samples", "python_valid_frac", "1", "Share of them that Python's parser accepts."
)
SAMPLES_S = _measured("samples", "duration_s", "s", "What generating them took.")

OF_PAIRS: tuple[Metric, ...] = tuple(
    Metric(group, name, unit, meaning, objective=objective)
    for group in ("train", "validation")
    for name, unit, meaning, objective in (
        (
            "accuracy",
            "1",
            (
                "Share of pairs whose chosen answer has the higher reward; of `classification`, of "
                "samples whose likeliest class is theirs."
            ),
            "dpo, reward_model, classification",
        ),
        (
            "margin",
            "1",
            "Mean of the chosen answer's reward less the other's.",
            "dpo, reward_model",
        ),
        (
            "reward_chosen",
            "1",
            "Mean reward of chosen answers; of `dpo`, beta times the log-ratio to the reference.",
            "dpo, reward_model",
        ),
        ("reward_rejected", "1", "The same of rejected answers.", "dpo, reward_model"),
        (
            "logp_chosen",
            "nats",
            "Mean log-probability of chosen answers, per token if `length_normalised`.",
            "dpo",
        ),
        ("logp_rejected", "nats", "The same of rejected answers.", "dpo"),
    )
)
"""What objectives on pairs of answers have, in training and in validation; classes some of it."""

CATALOGUE: tuple[Metric, ...] = (
    *(value for value in list(globals().values()) if isinstance(value, Metric)),
    *OF_PAIRS,
)
"""All of them, in the order in which they are written above."""
