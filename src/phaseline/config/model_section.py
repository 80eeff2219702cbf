"""What a session file may say of the model: what it is, what is trained of it, where it starts."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from phaseline.config.bounds import AdapterRank, Scale
from phaseline.config.path_text import PathText
from phaseline.config.section import Section
from phaseline.config.tree import found_text
from phaseline.units import SIZE_FORM, parse_size

PHASE_PREFIX = "phase:"
"""How a text begins that names the weights of another phase of the session."""

HUB_PREFIX = "hub:"
"""How a text begins that names a model of the Hugging Face hub, as `hub:NAME@REVISION`."""


class ModelSection(Section):
    """Which model is trained: exactly one of `config`, `pretrained` and `factory`."""

    config: dict[str, Any] | None = Field(
        None,
        examples=["{model_type: llama, hidden_size: 128}"],
        description="A transformers configuration: `model_type` and its fields, as `hidden_size`. "
        "The vocabulary size comes from the tokenizer unless it is given.",
    )
    pretrained: PathText | None = Field(
        None,
        min_length=1,
        examples=["models/tiny"],
        description="A Hugging Face folder, or the name of a model on the hub: its architecture, "
        "and the weights that the first phase starts from. A folder needs no network, and a model "
        "of the hub only until it is in the cache.",
    )
    revision: str | None = Field(
        None,
        min_length=1,
        examples=["main"],
        description="Branch, tag or commit of `pretrained` on the hub; null: its main branch.",
    )
    factory: str | None = Field(
        None,
        examples=["my_package.models:build"],
        description="Registered name or `module:attribute` of a function "
        "`(vocab_size: int, **arguments) -> torch.nn.Module`; one that does not take `vocab_size` is "
        "not given it.",
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments for `factory`."
    )
    attention: (
        Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] | None
    ) = Field(
        None,
        description="How a model of transformers computes attention; null: as transformers "
        "chooses. What cannot run here is refused.",
    )


class LoraSection(Section):
    """Low-rank adapters beside frozen linear layers."""

    rank: AdapterRank = Field(8, description="Rank of every adapter.")
    alpha: Scale = Field(16.0, description="An adapter's output is scaled by alpha over rank.")
    targets: tuple[str, ...] = Field(
        (),
        examples=["[q_proj, v_proj]"],
        description="Linear layers whose name matches one of these expressions get an adapter; "
        "empty: all but the output layer.",
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of an adapter's input that is dropped."
    )

    @field_validator("targets")
    @classmethod
    def _patterns_compile(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return require_patterns(value)

    def is_shaped_as(self, other: LoraSection) -> bool:
        """Whether weights of one are weights of the other, and mean the same."""
        mine, its = ((section.rank, section.alpha, section.targets) for section in (self, other))
        return mine == its


class TrainableSection(Section):
    """Which parameters a phase trains."""

    freeze: tuple[str, ...] = Field(
        (),
        examples=["[embed_tokens]"],
        description="Parameters whose name matches one of these expressions are frozen.",
    )
    train: tuple[str, ...] = Field(
        (),
        examples=["[lm_head]"],
        description="Parameters that are trained although they match `freeze`. Without `freeze` "
        "they are the only ones; beside `lora` they are trained in addition to the adapters.",
    )
    lora: LoraSection | None = Field(
        None,
        examples=["{rank: 8, alpha: 16}"],
        description="Train low-rank adapters, and of the model itself only what `train` names.",
    )

    @field_validator("freeze", "train")
    @classmethod
    def _patterns_compile(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return require_patterns(value)

    def trains(self, name: str) -> bool:
        """Whether a parameter of the model itself is trained, by its name without adapters."""
        if any(re.search(pattern, name) for pattern in self.train):
            return True
        if self.lora is not None or (self.train and not self.freeze):
            return False
        return not any(re.search(pattern, name) for pattern in self.freeze)


class InheritSection(Section):
    """What a phase starts from."""

    weights: PathText = Field(
        "previous",
        min_length=1,
        json_schema_extra={
            "allowed": "previous, fresh, pretrained, phase:NAME, hub:NAME, or the path of a Hugging "
            "Face folder, of a .safetensors file or of a session with #phase"
        },
        description="previous: those of the phase before (in the first phase those of "
        "model.pretrained, or else fresh ones); fresh; pretrained: those of model.pretrained; "
        "phase:NAME: another phase before this one; hub:NAME or hub:NAME@REVISION; or a path, "
        "relative to the folder you start in: a Hugging Face folder, a .safetensors file, "
        "`SESSION#PHASE` of any session directory, or a checkpoint folder. Read once, when the "
        "phase begins.",
    )
    at: Literal["last", "best"] = Field(
        "last",
        description="Which weights of a phase of this session: the last, or those of its best "
        "validation by its `checkpoint.keep_best`.",
    )
    optimizer: Literal["reset", "keep"] = Field(
        "reset",
        description="Optimizer state: started anew, or kept from the phase that the weights are of.",
    )
    lora: Literal["keep", "merge", "drop"] | None = Field(
        None,
        description="Adapters that the weights have: trained on, added into the model's own "
        "weights, or left out; null: keep if this phase has the same `trainable.lora`, else merge.",
    )

    @property
    def phase(self) -> str | None:
        """The phase that is named, if one is."""
        if not self.weights.startswith(PHASE_PREFIX):
            return None
        return self.weights.removeprefix(PHASE_PREFIX)


class ExportSection(Section):
    """What finalization leaves for others."""

    phases: tuple[str, ...] = Field(
        (),
        examples=["[instruct]"],
        description="Phases whose last weights become a Hugging Face folder under exports/.",
    )
    at: Literal["last", "best"] = Field(
        "last", description="The last weights of each, or those of its best validation."
    )
    dtype: Literal["fp32", "bf16"] = Field("fp32", description="Of the weights in the files.")
    max_shard_size: str = Field(
        "5GB",
        examples=["5GB"],
        json_schema_extra={"allowed": SIZE_FORM},
        description="Weights are divided into files of at most so many bytes; a tensor never is.",
    )
    lora: Literal["merged", "adapter"] = Field(
        "merged",
        description="Of a phase with adapters: the model with them added in, or they alone.",
    )

    @field_validator("max_shard_size")
    @classmethod
    def _is_a_size(cls, value: str) -> str:
        parse_size(value)
        return value


def require_patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ValueError unless every item is a regular expression."""
    for item in value:
        try:
            re.compile(item)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(
                f"holds {found_text(item)}, which is no regular expression: {error}"
            ) from None
    return value
