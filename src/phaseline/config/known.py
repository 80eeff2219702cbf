"""What is built in, by name, and the arguments that each takes.

Kept here as data, so that a session file can be checked without importing what it names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from phaseline.config.bounds import MAX_ARGUMENT, MAX_ELEMENTS, SMALLEST

Shape = Literal["text", "pairs", "chats", "preferences", "labelled"]
"""What the samples of a source are; `phaseline.data.sources.protocol` has a class for each."""


@dataclass(frozen=True)
class Argument:
    """One argument of something that is built in.

    Attributes:
        allowed: What it may be, completing "it must be ...".
        accepts: Whether a value is that.
        example: One that is, as YAML.
        required: Whether it must be given.
    """

    allowed: str
    accepts: Callable[[object], bool]
    example: str
    required: bool = False


@dataclass(frozen=True)
class DeepSpeedSetting(Argument):
    """One of DeepSpeed's own settings.

    Attributes:
        stages: The ZeRO stages that read it.
    """

    stages: tuple[int, ...] = field(kw_only=True)


@dataclass(frozen=True)
class Refusal:
    """Why something is refused.

    Attributes:
        reason: Completing "is not allowed: ...".
        fix: What to do instead, a sentence.
    """

    reason: str
    fix: str


def is_positive(value: object) -> bool:
    """Whether a value is a number greater than 0 that 32 bits hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return SMALLEST <= value <= MAX_ARGUMENT


def is_frac(value: object) -> bool:
    """Whether a value is a number from 0 to less than 1."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1


def _is_size(value: object) -> bool:
    return _is_count(value) and value != 0


def _is_count(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int):
        return False
    return 0 <= value <= MAX_ELEMENTS


def _is_even_size(value: object) -> bool:
    return isinstance(value, int) and _is_size(value) and value % 2 == 0


def _are_betas(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_frac, value))


def _owned_by(setting: str) -> Refusal:
    return Refusal(f"it follows from {setting}", f"Set {setting} instead.")


def _betas(example: str) -> Argument:
    return Argument("a list of two numbers from 0 to less than 1", _are_betas, example)


def choice(*words: str) -> Argument:
    """An argument that is one of several words."""
    allowed = f"{', '.join(words[:-1])} or {words[-1]}"
    return Argument(allowed, member_of(words), words[0])


def member_of(words: tuple[object, ...]) -> Callable[[object], bool]:
    """Whether a value is one of these, and of its type."""
    return lambda value: any(value == word and type(value) is type(word) for word in words)


_FLAG = ("true or false", lambda value: isinstance(value, bool), "true")
FLAG = Argument(*_FLAG)
_POSITIVE = f"a number of at least {SMALLEST:g} and at most {MAX_ARGUMENT}"
POSITIVE = Argument(_POSITIVE, is_positive, "0.1")

OPTIMIZERS: Mapping[str, Mapping[str, Argument]] = {
    "adamw": {
        "betas": _betas("[0.9, 0.95]"),
        "eps": Argument(_POSITIVE, is_positive, "1e-8"),
        "amsgrad": Argument(*_FLAG),
    },
    "sgd": {
        "momentum": Argument("a number from 0 to less than 1", is_frac, "0.9"),
        "dampening": Argument("a number from 0 to less than 1", is_frac, "0.0"),
        "nesterov": Argument(*_FLAG),
    },
    "cpu_adam": {
        "betas": _betas("[0.9, 0.95]"),
        "eps": Argument(_POSITIVE, is_positive, "1e-8"),
    },
    "lion": {"betas": _betas("[0.9, 0.99]")},
}
"""Optimizers, each with the arguments it takes besides `lr` and `weight_decay`."""

_UP_TO = f"and at most {MAX_ELEMENTS}"
_SIZE = (f"a whole number of elements, at least 1 {_UP_TO}", _is_size, "50_000_000")
_COUNT = (f"a whole number of elements, at least 0 {_UP_TO}", _is_count, "50_000_000")
# DeepSpeed asserts it of its all-gather, without saying where the number comes from.
_EVEN_SIZE = (f"an even number of elements, at least 2 {_UP_TO}", _is_even_size, "50_000_000")
_ZERO = (1, 2, 3)

DEEPSPEED_SETTINGS: Mapping[str, DeepSpeedSetting] = {
    "overlap_comm": DeepSpeedSetting(*_FLAG, stages=_ZERO),
    "reduce_bucket_size": DeepSpeedSetting(*_SIZE, stages=_ZERO),
    "allgather_bucket_size": DeepSpeedSetting(*_EVEN_SIZE, stages=(1, 2)),
    "communication_data_type": DeepSpeedSetting(
        "fp32 or bf16", ("fp32", "bf16").__contains__, "bf16", stages=(0, *_ZERO)
    ),
    "sub_group_size": DeepSpeedSetting(*_SIZE, stages=(3,)),
    "stage3_prefetch_bucket_size": DeepSpeedSetting(*_COUNT, stages=(3,)),
    "stage3_param_persistence_threshold": DeepSpeedSetting(*_COUNT, stages=(3,)),
    "stage3_max_live_parameters": DeepSpeedSetting(*_SIZE, stages=(3,)),
    "stage3_max_reuse_distance": DeepSpeedSetting(*_COUNT, stages=(3,)),
}
"""What `engine.deepspeed` may hold: speed and memory. The model that is trained does not
depend on it, but for what bf16 rounds where ranks add up their gradients in it.

Source: deepspeed 0.19.8, which reads each in these stages alone.
"""

_REMOVE = "Remove it."
_FROM_THE_BATCH = "batch.global_size, batch.micro_size and the number of ranks"

DEEPSPEED_REFUSED: Mapping[str, Refusal] = {
    "train_batch_size": _owned_by("batch.global_size"),
    "train_micro_batch_size_per_gpu": _owned_by("batch.micro_size"),
    "gradient_accumulation_steps": Refusal(f"it follows from {_FROM_THE_BATCH}", _REMOVE),
    "gradient_clipping": _owned_by("optimizer.clip_norm"),
    "optimizer": _owned_by("the phase's `optimizer`"),
    "scheduler": _owned_by("the phase's `schedule`"),
    "stage": _owned_by("engine.zero_stage"),
    "zero_optimization": Refusal(
        "what it holds stands directly in engine.deepspeed", "Move its members up and remove it."
    ),
    "bf16": _owned_by("engine.precision"),
    "fp16": Refusal(
        "fp16 needs a loss scale, which is found by letting steps overflow",
        "Set engine.precision to bf16 instead.",
    ),
    "offload_optimizer": _owned_by("engine.offload"),
    "offload_param": Refusal(
        "offloaded weights are not supported", "Remove it; engine.offload moves the optimizer."
    ),
    "activation_checkpointing": _owned_by("engine.activation_checkpointing"),
    "memory_efficient_linear": Refusal(
        "it replaces torch's linear in the whole process, for later phases too, and changes "
        "their numbers",
        _REMOVE,
    ),
    "round_robin_gradients": Refusal(
        "it orders parameters in a way that DeepSpeed's own maps of the state do not follow",
        _REMOVE,
    ),
    "zero_hpz_partition_size": Refusal(
        "a second partition of the weights is not supported", _REMOVE
    ),
    "mics_shard_size": Refusal("DeepSpeed has removed MiCS", _REMOVE),
    "zero_quantized_weights": Refusal("it changes what is computed", _REMOVE),
    "zero_quantized_gradients": Refusal("it changes what is computed", _REMOVE),
    "ignore_unused_parameters": Refusal(
        "a parameter may always go without a gradient, which then counts as 0", _REMOVE
    ),
}
"""Settings of DeepSpeed that are refused, each with the reason and what to do."""

NUM_BYTES = 256
OWN_EOS, OWN_PAD, OWN_TURN = "<eos>", "<pad>", "<|im_start|>"
"""Special tokens of tokenizers that are made here: behind a sequence, in what fills rows up,
before each turn of a chat."""

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
"""What a model on the Hugging Face hub may be called: `model`, or `owner/model`."""
