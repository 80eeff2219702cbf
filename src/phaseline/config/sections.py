"""What a session file may say: one frozen model per section, unknown keys refused.

Nothing here imports torch. Rules that span sections live in `cross_checks.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from phaseline.config.bounds import (
    MAX_PHASES,
    MAX_SEQUENCES,
    MAX_TOKENS,
    Copies,
    Decay,
    Fraction,
    GeneratedTokens,
    MicroBatch,
    Norm,
    Prompts,
    Rate,
    Seconds,
    Seed,
    SequenceLength,
    Sequences,
    Temperature,
    Tries,
)
from phaseline.config.cluster_section import ClusterSection
from phaseline.config.data_section import DataSection, PreparationSection, TokenizerSection
from phaseline.config.engine_section import EngineSection
from phaseline.config.model_section import (
    ExportSection,
    InheritSection,
    ModelSection,
    TrainableSection,
    require_patterns,
)
from phaseline.config.path_text import PathText
from phaseline.config.section import Section
from phaseline.config.tracking_section import ProfileSection, TrackingSection
from phaseline.config.tree import found_text
from phaseline.units import Duration, Interval

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]*")
_TOKENS_PATTERN = re.compile(r"[0-9][0-9_]{0,30} tokens")


class SessionSection(Section):
    """Who this session is."""

    name: str = Field(
        examples=["quickstart"],
        description="The session's name; its directory is `<root>/<name>`.",
    )
    root: PathText = Field("runs", description="Folder that holds session directories.")
    seed: Seed = Field(0, examples=["0"], description="Seed of weights, data order and dropout.")
    notes: str = Field("", description="Free text for people; may change at any time.")

    @property
    def directory(self) -> Path:
        """Where the session lies if nothing else is said; `~` is the home folder."""
        return Path(self.root).expanduser() / self.name

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, value: str) -> str:
        return require_name(value)


class BatchSection(Section):
    """Sizes of batches; accumulation is derived from them and the world size."""

    global_size: int | str = Field(
        examples=["32"],
        json_schema_extra={"allowed": "a number of sequences, or of tokens as '8192 tokens'"},
        description="Sequences per optimizer step over all ranks, or `'8192 tokens'`, "
        "a multiple of the sequence length. Never changes with the world size.",
    )
    micro_size: MicroBatch = Field(
        examples=["8"], description="Sequences per forward pass and rank."
    )

    # Plain, because a union would report one fault per member.
    @field_validator("global_size", mode="plain")
    @classmethod
    def _global_size_is_a_size(cls, value: object) -> int | str:
        is_number = isinstance(value, int) and not isinstance(value, bool)
        is_tokens = isinstance(value, str) and _TOKENS_PATTERN.fullmatch(value)
        if not is_number and not is_tokens:
            raise ValueError(
                f"is {found_text(value)}; it must be a number of sequences, "
                "or of tokens as '8192 tokens'"
            )
        assert isinstance(value, (int, str))
        most = MAX_SEQUENCES if is_number else MAX_TOKENS
        if not 1 <= num_sequences_or_tokens(value) <= most:
            raise ValueError(f"is {found_text(value)}; it must be at least 1 and at most {most}")
        return value

    def sequences(self, tokens_per_row: int) -> int:
        """Sequences per optimizer step over all ranks."""
        number = num_sequences_or_tokens(self.global_size)
        return number if isinstance(self.global_size, int) else number // tokens_per_row


class OptimizerSection(Section):
    """The update rule, its peak learning rate and the parameter groups."""

    name: str = Field("adamw", description="adamw, sgd, lion, or `module:attribute`.")
    lr: Rate = Field(examples=["3e-4"], description="Peak learning rate.")
    weight_decay: Decay = Field(0.1, description="For parameters that are decayed.")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Further arguments of the optimizer, as `betas`."
    )
    no_decay: tuple[str, ...] = Field(
        (r"bias$", r"norm", r"(^|\.)ln"),
        examples=["['bias$', norm]"],
        description="Parameters whose name matches one of these regular expressions "
        "(searched, lower case) are not decayed.",
    )
    clip_norm: Norm | None = Field(
        1.0, description="Gradients are scaled to at most this norm; null: not clipped."
    )

    @field_validator("no_decay")
    @classmethod
    def _patterns_compile(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return require_patterns(value)


class ScheduleSection(Section):
    """The learning rate as a function of the update number."""

    name: Literal["constant", "linear", "cosine", "wsd", "inverse_sqrt"] = Field(
        "cosine", description="Shape after warm-up."
    )
    warmup: Duration | None = Field(
        None, examples=["20 steps"], description="Linear warm-up from 0; null: none."
    )
    decay: Duration | None = Field(
        None,
        examples=["100 steps"],
        description="Length of the final decay; wsd only, there required.",
    )
    final_lr_frac: Fraction = Field(
        0.1, description="Last learning rate over peak; for linear, cosine and wsd."
    )


class SamplesSection(Section):
    """Text generated at the end of a phase."""

    prompts: tuple[str, ...] = Field(
        (), examples=["['def add(a, b):']"], description="Texts to continue."
    )
    held_out_prompts: Prompts = Field(
        0, description="So many prompts of the held-out pairs as well (sft only)."
    )
    max_new_tokens: GeneratedTokens = Field(
        96,
        description="Tokens generated per prompt, at most. The default is cut to what the model has "
        "positions for; a number that is given has to fit.",
    )
    temperature: Temperature = Field(0.0, description="0: the most likely token each time.")
    check: Literal["none", "python"] = Field(
        "none", description="python: records the share of samples that `ast.parse` accepts."
    )


class EvaluateSection(Section):
    """Validation on held-out data."""

    every: Duration | None = Field(
        None,
        examples=["100 steps"],
        description="Interval in steps or tokens; null: never between.",
    )
    at_start: bool = Field(False, description="Also before the first step of the phase.")
    micro_size: MicroBatch | None = Field(
        None, examples=["8"], description="Sequences per forward; null: the batch's."
    )
    sequence_length: SequenceLength | None = Field(
        None,
        examples=["256"],
        description="Tokens per held-out sequence; null: the phase's own.",
    )
    max_sequences: Sequences | None = Field(
        None,
        examples=["256"],
        description="At most so many held-out sequences, spread evenly; null: all.",
    )
    position_ranges: tuple[str, ...] = Field(
        (),
        examples=["[0-255, 512-1023]"],
        description="Also report the loss at these positions, as `512-1023`.",
    )
    metrics: tuple[str, ...] = Field(
        (),
        examples=["[my_package.metrics:TokenAccuracy]"],
        description="Metrics of your own, each a registered name or `module:attribute` of a "
        "ValidationMetric; their sums are exact over ranks and sizes.",
    )
    samples: SamplesSection | None = Field(
        None, description="Generate text at the end of the phase."
    )

    @field_validator("position_ranges")
    @classmethod
    def _ranges_are_ranges(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            match = re.fullmatch(r"([0-9]{1,12})-([0-9]{1,12})", item)
            if match is None or int(match[1]) > int(match[2]):
                raise ValueError(
                    f"holds {found_text(item)}; each must be as '512-1023', first to last"
                )
        return value


class KeepBestSection(Section):
    """Which checkpoint is the best one."""

    metric: str = Field(
        "loss",
        description="What a validation measures: loss, bits_per_byte, perplexity, loss_at_A_to_B for "
        "each of evaluate.position_ranges, in a mixture loss_SOURCE, or what the objective or evaluate.metrics add.",
    )
    mode: Literal["min", "max"] = Field("min", description="Whether less of it is better, or more.")


class CheckpointSection(Section):
    """When state is saved, and what is kept. The end of a phase is always saved and kept.

    Once the next phase has published a checkpoint of its own, the weights alone are kept.
    """

    every: Interval | None = Field(
        Interval.parse("15 minutes"),
        examples=["100 steps"],
        description="Interval in steps, tokens or wall time; of time, the first one of a start "
        "comes after 3 minutes. null: never between.",
    )
    keep_last: int = Field(
        2,
        ge=2,
        le=10**6,
        examples=["2"],
        description="Checkpoints kept per phase, besides its last.",
    )
    keep_every: Duration | None = Field(
        None,
        examples=["5000 steps"],
        description="Besides, the first checkpoint in each span of so many steps or tokens.",
    )
    keep_best: KeepBestSection | None = Field(
        None,
        examples=["{metric: loss}"],
        description="Besides, the one whose validation was best; a validation that beats all "
        "before it is saved at once.",
    )
    asynchronous: bool = Field(
        True,
        description="The loop waits for a copy of the state in memory, and it is written behind "
        "the loop; false: the loop waits until it is published.",
    )
    max_in_memory: Copies = Field(
        1, description="Copies that may wait to be written; with more, one more save waits."
    )


class PhaseSection(Section):
    """One phase of training."""

    name: str = Field(
        examples=["pretrain"], description="Unique; names its folder and its metrics."
    )
    objective: str = Field(
        examples=["causal_lm"],
        description="causal_lm, sft, distillation, dpo, reward_model, classification, or "
        "`module:attribute`.",
    )
    objective_arguments: dict[str, Any] = Field(
        default_factory=dict, description="Further settings of the objective."
    )
    duration: Duration = Field(examples=["400 steps"], description="How long it trains.")
    data: DataSection = Field(
        examples=["{source: python_stdlib, sequence_length: 256}"],
        description="What it trains on.",
    )
    batch: BatchSection = Field(
        examples=["{global_size: 32, micro_size: 8}"], description="Sizes of its batches."
    )
    optimizer: OptimizerSection = Field(
        examples=["{name: adamw, lr: 3e-4}"], description="Its update rule."
    )
    schedule: ScheduleSection = ScheduleSection()
    trainable: TrainableSection = TrainableSection()
    engine: EngineSection = EngineSection()
    inherit: InheritSection = InheritSection()
    evaluate: EvaluateSection = EvaluateSection()
    checkpoint: CheckpointSection = CheckpointSection()
    profile: ProfileSection | None = Field(
        None, examples=['{steps: "100-110"}'], description="Profile some of its steps."
    )
    callbacks: tuple[str, ...] = Field(
        (),
        examples=["[my_package.callbacks:Gauge]"],
        description="Callbacks of your own, each `module:attribute`, called in this order.",
    )

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, value: str) -> str:
        return require_name(value)

    @property
    def global_size(self) -> int:
        """Rows per optimizer step over all ranks."""
        return self.batch.sequences(self.data.tokens_per_row)

    @property
    def tokens_per_step(self) -> int:
        """What one optimizer step consumes, as if no row were shorter."""
        return self.global_size * self.data.tokens_per_row

    @property
    def unit(self) -> str:
        """What it counts as tokens: those of texts, and of images and features the samples."""
        return "samples" if self.data.sequence_length is None else "tokens"

    @property
    def step_text(self) -> str:
        """What one optimizer step consumes, for people."""
        length = self.data.sequence_length
        if length is None:
            return f"{self.global_size:,} samples"
        return f"{self.global_size:,} x {length:,} tokens"


class ResilienceSection(Section):
    """How failure is met."""

    max_skipped_steps: Tries = Field(5, description="Skipped steps in a row that stop the run.")
    start_timeout_s: Seconds = Field(300.0, description="Longest wait for all ranks to meet.")
    collective_timeout_s: Seconds = Field(1800.0, description="Longest collective.")
    max_starts_without_progress: Tries = Field(
        3,
        description="So many starts in a row that end without a new checkpoint are the last: of a "
        "SLURM job that requeues itself, and of `phaseline launch --max-restarts`.",
    )


class Config(Section):
    """A whole session, `defaults` already merged into the phases."""

    session: SessionSection = Field(
        examples=["{name: quickstart}"], description="Who this session is."
    )
    model: ModelSection = Field(
        examples=["{config: {model_type: llama, hidden_size: 128}}"],
        description="Which model is trained.",
    )
    tokenizer: TokenizerSection = TokenizerSection()
    preparation: PreparationSection = PreparationSection()
    phases: tuple[PhaseSection, ...] = Field(
        min_length=1, max_length=MAX_PHASES, description="What is trained, one after the other."
    )
    tracking: TrackingSection = TrackingSection()
    resilience: ResilienceSection = ResilienceSection()
    cluster: ClusterSection = ClusterSection()
    export: ExportSection = ExportSection()


def num_sequences_or_tokens(global_size: int | str) -> int:
    """The number in a global batch size, whichever its unit is."""
    if isinstance(global_size, int):
        return global_size
    return int(global_size.removesuffix(" tokens").replace("_", ""))


def require_name(value: str) -> str:
    """Raises ValueError unless the value can name a folder on every system."""
    if NAME_PATTERN.fullmatch(value) is None or len(value) > 64:
        raise ValueError(
            f"is {found_text(value)}; it must be 1 to 64 lower-case letters, digits, '-' and '_', "
            "and begin with a letter or digit"
        )
    return value
