"""The settings of a phase's engine against each other."""

from __future__ import annotations

from collections.abc import Iterator

from phaseline.config.checks.finding import Finding, Place
from phaseline.config.checks.names import nearest_or_all
from phaseline.config.known import DEEPSPEED_REFUSED, DEEPSPEED_SETTINGS, DeepSpeedSetting
from phaseline.config.tree import found_text

_OF_DEEPSPEED_ALONE = ("zero_stage", "offload", "unused_parameters", "leaf_modules", "deepspeed")


def zero_settings_have_an_effect(place: Place) -> Iterator[Finding]:
    """Only DeepSpeed has ZeRO stages, and what goes with them."""
    engine = place.phase.engine
    if engine.kind != "plain":
        return
    for key in _OF_DEEPSPEED_ALONE:
        if key in engine.model_fields_set:
            value = getattr(engine, key)
            found = "" if isinstance(value, (dict, tuple)) else f"is {found_text(value)}, which "
            yield Finding(
                place.loc("engine", key),
                f"{found}has no effect with the engine plain",
                "Remove it, or set engine.kind to deepspeed.",
                unused=True,
            )


def offload_has_something_to_move(place: Place) -> Iterator[Finding]:
    """ZeRO moves the part of the optimizer that a rank holds; stage 0 has no parts."""
    engine = place.phase.engine
    if engine.kind == "deepspeed" and engine.zero_stage == 0 and engine.offload != "none":
        yield Finding(
            place.loc("engine", "offload"),
            f"is {engine.offload!r}, which needs ZeRO stage 1, 2 or 3, and zero_stage is 0",
            "Set engine.zero_stage to 1, or remove it.",
        )


def cpu_adam_is_offloaded(place: Place) -> Iterator[Finding]:
    """DeepSpeed's Adam for CPUs steps tensors that are on the CPU."""
    if place.phase.optimizer.name == "cpu_adam" and place.phase.engine.offload != "optimizer":
        yield Finding(
            place.loc("optimizer", "name"),
            "is 'cpu_adam', which needs the optimizer's state on the CPU, and engine.offload is "
            f"{place.phase.engine.offload!r}",
            "Set engine.offload to optimizer, or optimizer.name to adamw.",
        )


def leaf_modules_have_an_effect(place: Place) -> Iterator[Finding]:
    """Only stage 3 gathers modules."""
    engine = place.phase.engine
    if engine.kind == "deepspeed" and engine.zero_stage != 3 and engine.leaf_modules:
        yield Finding(
            place.loc("engine", "leaf_modules"),
            f"has no effect with ZeRO stage {engine.zero_stage}",
            "Remove it, or set engine.zero_stage to 3.",
            unused=True,
        )


def overlap_needs_all_parameters(place: Place) -> Iterator[Finding]:
    """Overlapped sums are taken in the order in which gradients arrive on each rank."""
    engine = place.phase.engine
    if engine.kind != "deepspeed" or not engine.unused_parameters:
        return
    if engine.deepspeed.get("overlap_comm") is True:
        yield Finding(
            place.loc("engine", "deepspeed", "overlap_comm"),
            "is true, but engine.unused_parameters is too: ranks that use different parameters "
            "would add up different ones",
            "Remove one of the two.",
        )


def linear_loss_has_a_transformers_model(place: Place) -> Iterator[Finding]:
    """The output layer of a model of one's own is not known."""
    if place.phase.engine.linear_cross_entropy and place.config.model.factory is not None:
        yield Finding(
            place.loc("engine", "linear_cross_entropy"),
            "is true, but model.factory builds a model whose output layer is not known",
            "Remove it, or describe the model by model.config.",
            unused=True,
        )


def deepspeed_settings_are_allowed(place: Place) -> Iterator[Finding]:
    """Each number has one owner: what the session file says elsewhere is not said again here."""
    engine = place.phase.engine
    if engine.kind != "deepspeed":
        return
    for key, value in engine.deepspeed.items():
        loc = place.loc("engine", "deepspeed", key)
        if key in DEEPSPEED_REFUSED:
            refusal = DEEPSPEED_REFUSED[key]
            yield Finding(loc, f"is not allowed: {refusal.reason}", refusal.fix)
        elif key not in DEEPSPEED_SETTINGS:
            fix = nearest_or_all(key, DEEPSPEED_SETTINGS, "Allowed are")
            yield Finding(loc, "is not among the settings of DeepSpeed that may be given", fix)
        elif not DEEPSPEED_SETTINGS[key].accepts(value):
            yield Finding(
                loc,
                f"is {found_text(value)}; it must be {DEEPSPEED_SETTINGS[key].allowed}",
                _fix_of_value(DEEPSPEED_SETTINGS[key], value),
            )
        elif engine.zero_stage not in DEEPSPEED_SETTINGS[key].stages:
            yield Finding(
                loc,
                f"has no effect with ZeRO stage {engine.zero_stage}",
                f"Remove it, or set engine.zero_stage to {_stages(DEEPSPEED_SETTINGS[key])}.",
                unused=True,
            )


def _stages(setting: DeepSpeedSetting) -> str:
    *others, last = map(str, setting.stages)
    return f"{', '.join(others)} or {last}" if others else last


def _fix_of_value(setting: DeepSpeedSetting, value: object) -> str:
    if isinstance(value, float) and value.is_integer() and setting.accepts(int(value)):
        # DeepSpeed's own files have it so.
        return f"Write it without an exponent: {int(value):_}."
    return f"Set for example {setting.example}."
