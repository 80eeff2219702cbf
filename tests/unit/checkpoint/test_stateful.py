from __future__ import annotations

from typing import Any

import pytest

from phaseline.checkpoint.stateful import StatefulRegistry
from phaseline.errors import CheckpointError


class Counter:
    def __init__(self) -> None:
        self.value = 0

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


def test_registry_gives_every_member_its_state_back() -> None:
    first, second = Counter(), Counter()
    registry = StatefulRegistry()
    registry.register("first", first)
    registry.register("second", second)
    registry.load_state_dict({"first": {"value": 3}, "second": {"value": 4}})
    assert (first.value, second.value) == (3, 4)
    assert registry.state_dict() == {"first": {"value": 3}, "second": {"value": 4}}


def test_registry_names_the_member_that_a_checkpoint_lacks() -> None:
    registry = StatefulRegistry()
    registry.register("detector", Counter())
    with pytest.raises(CheckpointError, match="does not hold detector"):
        registry.load_state_dict({})


def test_registry_names_the_state_that_nobody_registered() -> None:
    with pytest.raises(CheckpointError, match="holds plateau, which nothing registered"):
        StatefulRegistry().load_state_dict({"plateau": {}})


def test_registry_refuses_a_name_that_is_taken() -> None:
    registry = StatefulRegistry()
    registry.register("a", Counter())
    with pytest.raises(ValueError, match="'a' is registered twice"):
        registry.register("a", Counter())
