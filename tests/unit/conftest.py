"""A started world of one rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from phaseline.distributed.world import World


@pytest.fixture
def world() -> Iterator[World]:
    """This process alone; the process group ends with the test."""
    # Not above: most unit tests need no torch.
    from phaseline.distributed.environment import RankEnvironment
    from phaseline.distributed.rendezvous import Rendezvous
    from phaseline.distributed.world import World

    environment = RankEnvironment.read({})
    world = World(environment, Rendezvous(environment, timeout_s=30), collective_timeout_s=30)
    yield world
    world.close()
