"""The section that says what runs underneath a phase's loop."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from phaseline.config.section import Section

_WHY_NOT_FP16 = (
    "is {value!r}; it must be fp32 or bf16. fp16 is not offered: it needs a loss scale, which is "
    "found by letting gradients overflow and leaving those steps out"
)


class EngineSection(Section):
    """What runs underneath the loop. `docs/engine.md` helps to choose."""

    kind: Literal["plain", "deepspeed"] = Field(
        "deepspeed", description="plain: accelerate alone; deepspeed: ZeRO."
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        1,
        description="ZeRO stage; deepspeed only. What is divided over the ranks: 0 nothing, "
        "1 optimizer state, 2 gradients too, 3 weights too.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="Of forward and backward. Optimizer state and the weights it updates are "
        "always fp32.",
    )
    offload: Literal["none", "optimizer"] = Field(
        "none",
        description="optimizer: its state and its step move to the CPU; ZeRO 1 to 3 only.",
    )
    deterministic: bool | None = Field(
        None,
        examples=["true"],
        description="Only kernels that give the same bits each time, so that interrupted equals "
        "uninterrupted bit for bit; null: true on CPUs, false on GPUs, where it costs speed.",
    )
    compile: bool = Field(
        False, description="Compile the model with torch.compile, once per shape of batch."
    )
    activation_checkpointing: bool = Field(
        False,
        description="Keep only the inputs of blocks and run them again in the backward pass: "
        "less memory, about a third more time, the same numbers.",
    )
    linear_cross_entropy: bool = Field(
        False,
        description="Take the loss from hidden states and the output layer's weight without "
        "holding all logits; for models of transformers.",
    )
    unused_parameters: bool = Field(
        False,
        description="A batch may leave out parameters, as mixtures of experts do; deepspeed only, "
        "where it costs an addition per parameter. Their gradient counts as 0. Without it that is "
        "an error.",
    )
    leaf_modules: tuple[str, ...] = Field(
        (),
        examples=["[SparseMoeBlock]"],
        description="Classes whose modules ZeRO-3 gathers whole, because ranks may use different "
        "parts of them, as mixtures of experts do. Lists of experts are found by themselves.",
    )
    deepspeed: dict[str, Any] = Field(
        default_factory=dict,
        examples=["{overlap_comm: true}"],
        description="Further settings of DeepSpeed, of those that change speed and memory: buckets, "
        "overlap, and the type in which ranks add up gradients.",
    )

    @property
    def label(self) -> str:
        """The engine in a table: `ZeRO-2 bf16 offload`. What is usual is not said."""
        words = ["plain" if self.kind == "plain" else f"ZeRO-{self.zero_stage}"]
        if self.precision != "fp32":
            words.append(self.precision)
        if self.offload != "none":
            words.append("offload")
        return " ".join(words)

    @field_validator("precision", mode="before")
    @classmethod
    def _precision_needs_no_loss_scale(cls, value: object) -> object:
        if isinstance(value, str) and value.lower() in ("fp16", "float16", "half"):
            raise ValueError(_WHY_NOT_FP16.format(value=value))
        return value
