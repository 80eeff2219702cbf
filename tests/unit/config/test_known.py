"""What is known without an import agrees with what is there."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from ruamel.yaml import YAML

from phaseline.config.known import (
    DEEPSPEED_REFUSED,
    DEEPSPEED_SETTINGS,
    NUM_BYTES,
    OPTIMIZERS,
    OWN_EOS,
    OWN_PAD,
    OWN_TURN,
    Argument,
)
from phaseline.config.known_objectives import OBJECTIVES
from phaseline.config.known_sources import SOURCES

_OWNERS = {
    **OPTIMIZERS,
    **{name: objective.arguments for name, objective in OBJECTIVES.items()},
    **{name: source.arguments for name, source in SOURCES.items()},
    "deepspeed": DEEPSPEED_SETTINGS,
}
_ARGUMENTS = [
    (owner, name, argument)
    for owner, arguments in _OWNERS.items()
    for name, argument in arguments.items()
]


@pytest.mark.parametrize(("owner", "name", "argument"), _ARGUMENTS)
def test_argument_accepts_its_example_when_read_as_yaml(
    owner: str, name: str, argument: Argument
) -> None:
    example = YAML(typ="safe", pure=True).load(argument.example)
    assert argument.accepts(example)
    assert not argument.accepts(None)
    # A path may be any text.
    assert argument.accepts("3") is argument.allowed.endswith(("text", "a path"))


def _parameters(factory: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """What a source takes; one that makes samples of rows hands the rest of it on."""
    from phaseline.data.sources.row_source import RowSource

    parameters = dict(inspect.signature(factory).parameters)
    if parameters.pop("settings", None) is not None:
        parameters |= inspect.signature(RowSource).parameters
        del parameters["table"]
    return parameters


def test_sources_agree_with_the_registry_when_compared() -> None:
    from phaseline.data.sources.registry import BUILT_IN

    assert set(BUILT_IN) == set(SOURCES)
    for name, factory in BUILT_IN.items():
        parameters = _parameters(factory)
        assert set(parameters) == set(SOURCES[name].arguments)
        for parameter in parameters.values():
            is_required = parameter.default is inspect.Parameter.empty
            assert SOURCES[name].arguments[parameter.name].required == is_required


def cpu_adam() -> Any:
    """DeepSpeed's class, which can be looked at without a build."""
    from phaseline.distributed.engines.deepspeed_private import import_deepspeed

    return import_deepspeed().ops.adam.DeepSpeedCPUAdam


def test_optimizers_agree_with_what_is_built_when_given_every_argument() -> None:
    import torch

    from phaseline.config.sections import OptimizerSection
    from phaseline.models.optimizers import build_optimizer

    examples = {"dampening": "0.0"}
    # This one needs a build; what it takes is read off its signature.
    assert set(OPTIMIZERS["cpu_adam"]) <= set(inspect.signature(cpu_adam()).parameters)
    for name, arguments in OPTIMIZERS.items():
        if name == "cpu_adam":
            continue
        values = {
            key: YAML(typ="safe", pure=True).load(examples.get(key, argument.example))
            for key, argument in arguments.items()
        }
        section = OptimizerSection(name=name, lr=0.1, arguments=values)
        built = build_optimizer(torch.nn.Linear(2, 2), section, device=torch.device("cpu"))
        assert set(values) <= set(built.param_groups[0])


def test_objectives_agree_with_what_is_built_when_named() -> None:
    from phaseline.objectives.build import build_objective

    for name, known in OBJECTIVES.items():
        examples = {
            key: YAML(typ="safe", pure=True).load(argument.example)
            for key, argument in known.arguments.items()
        }
        built = build_objective(name, examples, path="objective")
        assert built.name == name
        assert built.shapes == known.shapes
        assert set(known.metrics) >= set(
            built.metrics(dict.fromkeys(("loss", *built.measures), 1.0))
        )
        for key, argument in inspect.signature(type(built)).parameters.items():
            is_required = argument.default is inspect.Parameter.empty
            assert known.arguments[key].required == is_required


def test_bytes_vocabulary_agrees_with_the_tokenizer_when_untrained() -> None:
    from phaseline.data.tokenizer import Tokenizer

    assert Tokenizer.of_bytes().vocab_size == NUM_BYTES + len({OWN_EOS, OWN_PAD, OWN_TURN})


def test_deepspeed_settings_agree_with_deepspeed_when_looked_up() -> None:
    from deepspeed.runtime import constants
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    fields = DeepSpeedZeroConfig.model_fields
    of_zero = {*fields, *(field.alias for field in fields.values())}
    elsewhere = {value for value in vars(constants).values() if isinstance(value, str)}
    assert DEEPSPEED_SETTINGS.keys() <= of_zero | elsewhere
    # Sections, which DeepSpeed reads by other means, and one that it has removed.
    others = {"zero_optimization", "activation_checkpointing", "mics_shard_size"}
    assert DEEPSPEED_REFUSED.keys() <= of_zero | elsewhere | others
    assert not DEEPSPEED_SETTINGS.keys() & DEEPSPEED_REFUSED.keys()


@pytest.mark.parametrize(
    ("name", "value", "is_accepted"),
    [
        ("overlap_comm", 1, False),
        ("reduce_bucket_size", 0, False),
        ("reduce_bucket_size", True, False),
        ("reduce_bucket_size", 5e8, False),
        ("allgather_bucket_size", 1001, False),
        ("allgather_bucket_size", 1000, True),
        ("communication_data_type", "fp16", False),
        ("stage3_prefetch_bucket_size", 0, True),
        ("stage3_prefetch_bucket_size", -1, False),
        ("stage3_prefetch_bucket_size", False, False),
    ],
)
def test_deepspeed_setting_accepts_what_deepspeed_can_use(
    name: str, value: object, is_accepted: bool
) -> None:
    assert DEEPSPEED_SETTINGS[name].accepts(value) is is_accepted
