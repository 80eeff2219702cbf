"""What is built in, by name, and the arguments that each takes.

Kept here as data, so that a session file can be checked without importing what it names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Shape = Literal["text", "pairs"]


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
class BuiltInSource:
    """A data source that is built in.

    Attributes:
        shape: `text` or `pairs`.
        arguments: What it takes.
    """

    shape: Shape
    arguments: Mapping[str, Argument]


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _is_frac(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_betas(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_frac, value))


def _are_texts(value: object) -> bool:
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(isinstance(item, str) and item for item in value)


def _are_stdlib_names(value: object) -> bool:
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(item in sys.stdlib_module_names for item in value)


def _betas(example: str) -> Argument:
    return Argument("a list of two numbers from 0 to less than 1", _are_betas, example)


_FLAG = ("true or false", lambda value: isinstance(value, bool), "true")

OBJECTIVES: Mapping[str, Shape] = {"causal_lm": "text", "sft": "pairs"}
"""Objectives, each with the shape of the sources it trains on."""

OPTIMIZERS: Mapping[str, Mapping[str, Argument]] = {
    "adamw": {
        "betas": _betas("[0.9, 0.95]"),
        "eps": Argument("a number greater than 0", _is_positive, "1e-8"),
        "amsgrad": Argument(*_FLAG),
    },
    "sgd": {
        "momentum": Argument("a number from 0 to less than 1", _is_frac, "0.9"),
        "dampening": Argument("a number from 0 to less than 1", _is_frac, "0.0"),
        "nesterov": Argument(*_FLAG),
    },
    "lion": {"betas": _betas("[0.9, 0.99]")},
}
"""Optimizers, each with the arguments it takes besides `lr` and `weight_decay`."""

_PACKAGES = Argument(
    "a list of modules and packages of Python's standard library",
    _are_stdlib_names,
    "[json, email]",
)

SOURCES: Mapping[str, BuiltInSource] = {
    "python_stdlib": BuiltInSource("text", {"packages": _PACKAGES}),
    "python_stdlib_functions": BuiltInSource("pairs", {"packages": _PACKAGES}),
    "text_files": BuiltInSource(
        "text",
        {
            "paths": Argument(
                "a list of paths or patterns", _are_texts, "['corpus/**/*.txt']", required=True
            )
        },
    ),
}
"""Data sources."""

_SIZE = ("a number of elements, at least 1", _is_size, "50_000_000")

DEEPSPEED_SETTINGS: Mapping[str, Argument] = {
    "overlap_comm": Argument(*_FLAG),
    "reduce_bucket_size": Argument(*_SIZE),
    "allgather_bucket_size": Argument(*_SIZE),
    "communication_data_type": Argument("fp32 or bf16", ("fp32", "bf16").__contains__, "bf16"),
    "sub_group_size": Argument(*_SIZE),
    "stage3_prefetch_bucket_size": Argument(*_SIZE),
    "stage3_param_persistence_threshold": Argument(*_SIZE),
    "stage3_max_live_parameters": Argument(*_SIZE),
    "stage3_max_reuse_distance": Argument(*_SIZE),
}
"""What `engine.deepspeed` may hold: speed and memory, never what is computed."""

_ELSEWHERE = "it follows from {}"
DEEPSPEED_REFUSED: Mapping[str, str] = {
    "train_batch_size": _ELSEWHERE.format("batch.global_size"),
    "train_micro_batch_size_per_gpu": _ELSEWHERE.format("batch.micro_size"),
    "gradient_accumulation_steps": _ELSEWHERE.format("the batch and the number of ranks"),
    "gradient_clipping": _ELSEWHERE.format("optimizer.clip_norm"),
    "optimizer": _ELSEWHERE.format("the phase's `optimizer`"),
    "scheduler": _ELSEWHERE.format("the phase's `schedule`"),
    "stage": _ELSEWHERE.format("engine.zero_stage"),
    "zero_optimization": "its members are given here directly, without this key",
    "bf16": _ELSEWHERE.format("engine.precision"),
    "fp16": "fp16 depends on a loss scale that is searched for; use engine.precision: bf16",
    "offload_optimizer": _ELSEWHERE.format("engine.offload"),
    "offload_param": "offloaded weights are not supported",
    "activation_checkpointing": _ELSEWHERE.format("engine.activation_checkpointing"),
    "memory_efficient_linear": "it replaces torch's linear in the whole process, for later "
    "phases as well, and changes their numbers",
    "round_robin_gradients": "it lays parameters out in an order that DeepSpeed's own maps of "
    "the state do not follow",
    "zero_hpz_partition_size": "a second partition of the weights is not supported",
    "mics_shard_size": "MiCS is not supported",
    "zero_quantized_weights": "it changes what is computed",
    "zero_quantized_gradients": "it changes what is computed",
    "ignore_unused_parameters": "a parameter without gradient counts as one whose gradient is 0",
}
"""Settings of DeepSpeed that are refused, each with the reason."""

BYTES_VOCAB_SIZE = 258
"""Entries of the tokenizer that is not trained: 256 bytes, `<eos>` and `<pad>`."""
